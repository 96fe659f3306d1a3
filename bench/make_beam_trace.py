#!/usr/bin/env python3
"""Records how beams descend from each other in a real beam search: bench/data/beams.txt, which `quire bench memory` replays.

    python bench/make_beam_trace.py SmolLM2-135M-Instruct.Q4_1.gguf bench/data/beams.txt

Needs the PyPI packages torch, transformers, accelerate and gguf. Hugging Face's generate(num_beams=W) runs on the model's dequantised weights in
float32, with the end of text banned so that each search lasts as long as asked for; what is recorded is the beam index by which it
reorders its cache after each step. A line of the file is one search: a name, the beam width, the prompt's tokens, the steps, and for
each step the parent of each beam as one digit.
"""
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

# Instructions as short as Alpaca's (60 steps), and conversational requests like ShareGPT's (200 steps).
SHORT = [
    "Give three tips for staying healthy.",
    "Name five animals that live in the desert.",
    "Explain why the sky is blue in two sentences.",
    "Write a short poem about autumn.",
    "What is the capital of Portugal, and what is it known for?",
]
LONG = [
    "I want to plan a week of cycling along a river with my two children, who are nine and twelve. We can ride about forty "
    "kilometres a day on flat paths. Please propose a plan for each day, with what to see, where to rest, what to pack, and how to "
    "deal with rain. Keep in mind that we travel with tents, cook for ourselves, and want one whole day without any riding.",
    "Here is a function that my colleague wrote:\n\ndef find(values, wanted):\n    for i in range(len(values)):\n        if "
    "values[i] == wanted:\n            return i\n    return -1\n\nThe list can hold millions of sorted numbers and the function is "
    "called thousands of times a second. Explain what is slow about it, write a faster version, explain its complexity, and tell me "
    "which tests you would write before replacing the old one.",
    "My company sells furniture online. Customers complain that deliveries arrive late and that nobody answers their questions. "
    "We have four people in support and a warehouse with two shifts. Please analyse the likely causes, propose measures for the "
    "next three months with costs as far as you can estimate them, and say how we can measure whether things get better.",
]


def main():
    model_file, out = sys.argv[1], sys.argv[2]
    torch.manual_seed(0)
    folder, name = os.path.split(os.path.abspath(model_file))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()

    parents = []
    reorder = DynamicCache.reorder_cache

    def record(self, beam_idx):
        parents.append([int(b) for b in beam_idx])
        return reorder(self, beam_idx)

    DynamicCache.reorder_cache = record
    lines = []
    for kind, prompts, steps in (("short", SHORT, 60), ("long", LONG, 200)):
        for number, prompt in enumerate(prompts):
            text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
            for width in (2, 4, 6):
                parents.clear()
                with torch.no_grad():
                    model.generate(ids, num_beams=width, do_sample=False, min_new_tokens=steps, max_new_tokens=steps,
                                   early_stopping=False, pad_token_id=0)
                assert len(parents) in (steps, steps - 1) and all(len(p) == width and max(p) < width for p in parents), len(parents)
                steps_text = " ".join("".join(map(str, p)) for p in parents)
                lines.append(f"{kind}{number} {width} {ids.shape[1]} {len(parents)} {steps_text}")
                print(lines[-1][:100], flush=True)
    with open(out, "w", encoding="ascii") as f:
        f.write("# name width prompt_tokens steps, then each step's parents, a digit a beam; made by bench/make_beam_trace.py\n")
        f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
