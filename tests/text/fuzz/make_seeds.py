#!/usr/bin/env python3
"""Writes seeds/: the first corpus of each harness beside it. Needs the goldens."""
import json
from pathlib import Path

HERE = Path(__file__).parent
goldens = HERE.parent / "goldens"


def write(harness, name, content):
    folder = HERE / "seeds" / harness
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


# Templates: a dozen features a file keeps the files few; the fuzzer takes them apart.
sources = [c["template"] for c in json.loads((goldens / "template_features.json").read_text())["cases"]]
for i in range(0, len(sources), 8):
    write("chat_template", f"features{i // 8:02}", "\n".join(s for s in sources[i:i + 8]).encode())

# Tokenizers: few tokens and merges, every kind of step.
small = json.loads((goldens / "small_bytes.json").read_text())
vocab = small["model"]["vocab"]
small["model"]["merges"] = small["model"]["merges"][:6]
keep = {t: i for t, i in vocab.items() if i < 40} | {"".join(m): vocab["".join(m)] for m in small["model"]["merges"]} | \
    {t: vocab[t] for m in small["model"]["merges"] for t in m}
small["model"]["vocab"] = keep
for variant in json.loads((goldens / "small_tokenizers.json").read_text())["variants"]:
    j = json.loads(json.dumps(small))
    for key, value in variant["patch"].items():
        j["model"].update(value) if key == "model" else j.update({key: value})
    write("tokenizer_json", variant["name"], json.dumps(j, ensure_ascii=False).encode())

fragments = json.loads((goldens / "fragments.json").read_text())
for kind in range(11):
    write("encode", f"fragments{kind:02}", bytes([kind, 0]) + " ".join(fragments[kind::11]).encode())
