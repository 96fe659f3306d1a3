#!/usr/bin/env python3
"""Writes goldens/smollm2_ids.json: what Hugging Face `tokenizers` makes of 10,000 generated texts with SmolLM2's vocabulary and merges.

usage: make_smollm2_ids.py SmolLM2-135M-Instruct.Q4_1.gguf      (needs PyPI gguf, tokenizers)

The texts come from text_generator.py, which generated_texts.cpp repeats in C++; the golden holds one 64-bit hash for every ten texts and a few texts in full,
so that a difference between the generators shows as such. The pre-tokenizer is the one of the model's authors: Digits(individual), ByteLevel.
"""
import json
import sys
from pathlib import Path

import gguf
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from text_generator import Generator, fnv1a

HERE = Path(__file__).parent
COUNT, GROUP = 10_000, 10


def load(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


tokenizer = load(sys.argv[1])
generator = Generator(json.loads((HERE / "goldens/fragments.json").read_text()))
texts = [generator.text(i) for i in range(COUNT)]
ids = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
for text, i in zip(texts, ids):
    assert tokenizer.decode(i, skip_special_tokens=False) == text, repr(text)
golden = {
    "oracle": f"tokenizers {tokenizers.__version__}",
    "count": COUNT, "group": GROUP,
    "tokens": sum(map(len, ids)),
    "texts_fnv1a": [f"{fnv1a(b for t in texts[g:g + 1000] for b in t.encode()):016x}" for g in range(0, COUNT, 1000)],
    "ids_fnv1a": [f"{fnv1a(n for i in ids[g:g + GROUP] for n in [len(i), *i]):016x}" for g in range(0, COUNT, GROUP)],
    "examples": [{"text": texts[k], "ids": ids[k]} for k in range(0, COUNT, 400)],
}
(HERE / "goldens/smollm2_ids.json").write_text(json.dumps(golden, ensure_ascii=True, indent=0, separators=(",", ":")) + "\n")
