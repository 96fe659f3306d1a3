#!/usr/bin/env python3
"""Goldens of beam search: a tiny random Llama and what Hugging Face's generate(num_beams=...) finds on it.

Needs from PyPI: torch, transformers, safetensors; gguf for --real. Run from anywhere: make_beams.py [--real MODEL.gguf]
Writes goldens/beam_llama/ (config.json, model.safetensors in float16) and goldens/beams.json. With --real instead goldens/beams_smollm2.json: a few
searches on SmolLM2-135M-Instruct as that file holds it (dequantised by transformers to float32), for the full test run.
"""
import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parent / "goldens"
VOCAB = 256


def tiny_model():
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=64,
        max_position_embeddings=256, initializer_range=0.25, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(0.6)  # flatter distributions: beams compete
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())  # what the file holds
    return model.eval()


def search(model, prompt, width, n, length_penalty, early_stopping, max_tokens, ends, min_tokens=0):
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), num_beams=width, num_return_sequences=n, do_sample=False, length_penalty=length_penalty,
        early_stopping=early_stopping, max_new_tokens=max_tokens, min_new_tokens=min_tokens or None, eos_token_id=ends, pad_token_id=0,
        return_dict_in_generate=True, output_scores=True, temperature=None, top_p=None, top_k=None,
    )
    answers = []
    for sequence, score in zip(out.sequences.tolist(), (out.sequences_scores if width > 1 else torch.zeros(n)).tolist()):
        tokens = []
        for token in sequence[len(prompt):]:
            tokens.append(token)
            if token in ends:
                break
        answers.append({"tokens": tokens, "score": score})
    return {"prompt": prompt, "width": width, "n": n, "length_penalty": length_penalty, "early_stopping": early_stopping,
            "max_tokens": max_tokens, "min_tokens": min_tokens, "ends": ends, "answers": answers}


def cases(model, vocab, prompts, max_tokens):
    generator = torch.Generator().manual_seed(11)
    found = []
    for number, prompt in enumerate(prompts):
        width = [2, 3, 4, 6, 8][number % 5]
        # Ends that do come up: tokens of what is found without any.
        plain = search(model, prompt, width, width, 1.0, False, max_tokens, [vocab - 1])
        seen = [t for a in plain["answers"] for t in a["tokens"][2:]]
        ends = sorted({seen[int(torch.randint(len(seen), (1,), generator=generator))] for _ in range(1 + number % 3)})
        for length_penalty in (1.0, 0.0, 2.0, -0.5):
            for early_stopping in (False, True):
                found.append(search(model, prompt, width, 1 + number % width, length_penalty, early_stopping, max_tokens, ends))
        found.append(search(model, prompt, width, width, 1.0, False, max_tokens, ends, min_tokens=6))
    return found


def main():
    torch.set_grad_enabled(False)
    if len(sys.argv) == 3 and sys.argv[1] == "--real":
        path = pathlib.Path(sys.argv[2])
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        found = []
        for number, text in enumerate(["The old lighthouse keeper opened the door and", "A good recipe for bread begins with", "In computing, a queue is"]):
            prompt = tokenizer(text)["input_ids"]
            for length_penalty, early_stopping in ((1.0, False), (0.0, True), (2.0, False)):
                full_stop = tokenizer(".")["input_ids"]
                found.append(search(model, prompt, 2 + number, 2, length_penalty, early_stopping, 16, sorted({2, *full_stop})))
        (HERE / "beams_smollm2.json").write_text(json.dumps({"cases": found}) + "\n")
        return
    model = tiny_model()
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, VOCAB, (3 + 5 * i,), generator=generator).tolist() for i in range(10)]
    found = cases(model, VOCAB, prompts, 20)
    ended = sum(a["tokens"][-1] in c["ends"] for c in found for a in c["answers"])
    total = sum(len(c["answers"]) for c in found)
    print(f"{len(found)} cases, {total} answers, {ended} of them ended by an end token")
    folder = HERE / "beam_llama"
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (HERE / "beams.json").write_text(json.dumps({"cases": found}) + "\n")


if __name__ == "__main__":
    main()
