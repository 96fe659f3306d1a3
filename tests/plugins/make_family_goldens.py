#!/usr/bin/env python3
"""Writes goldens/families.json: what Hugging Face transformers computes, in float64, for tiny models of each family.

Needs the PyPI packages torch and transformers (made with transformers 5.23). The weights are made by a formula of their names, which
families_test.cpp repeats, so that only configurations, names, tokens and logits are stored.
"""
import json
import logging
import pathlib

import numpy
import torch
import transformers
from transformers import AutoModelForCausalLM

logging.disable(logging.WARNING)
MASK = (1 << 64) - 1


def uniform(name, count):
    """[-0.5, 0.5) in steps of 2^-24: SplitMix64 of the FNV-1a hash of the name plus the index."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & MASK
    z = (numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(1)) * numpy.uint64(0x9E3779B97F4A7C15) + numpy.uint64(seed)
    z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    z = z ^ (z >> numpy.uint64(31))
    return (z >> numpy.uint64(40)).astype(numpy.float64) / (1 << 24) - 0.5


def made_up(name, shape, norm_offset):
    values = uniform(name, int(numpy.prod(shape)))
    if len(shape) == 2:
        values = values * 4 / numpy.sqrt(numpy.float64(shape[1]))
    elif "norm" in name:
        values = values * 0.5 + (1 - norm_offset)
    return torch.from_numpy(values.astype(numpy.float32).reshape(shape))


sizes = dict(vocab_size=48, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.02)
llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
cases = {
    "Llama": transformers.LlamaConfig(**sizes, rms_norm_eps=1e-5),
    "LlamaWithBiasesAndScaledRope": transformers.LlamaConfig(**sizes, attention_bias=True, mlp_bias=True, rope_scaling=llama3,
                                                             rope_theta=500.0, head_dim=12, tie_word_embeddings=True),
    "LlamaWithYarn": transformers.LlamaConfig(**{**sizes, "num_key_value_heads": 4}, rope_scaling={
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
    "MistralWithAWindow": transformers.MistralConfig(**sizes, sliding_window=7, head_dim=16),
    "Qwen2": transformers.Qwen2Config(**sizes, tie_word_embeddings=True),
    "Qwen2WithAWindow": transformers.Qwen2Config(**sizes, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "Qwen3": transformers.Qwen3Config(**sizes, head_dim=16, rope_theta=1e6),
    "Granite": transformers.GraniteConfig(**sizes, embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.4,
                                          logits_scaling=2.5),
    "Gemma3": transformers.Gemma3TextConfig(**sizes, head_dim=16, query_pre_attn_scalar=20, sliding_window=6,
                                            sliding_window_pattern=2, rope_scaling={"rope_type": "linear", "factor": 8.0}),
}
rows = [0, 5, 11, 17, 23]  # whose logits are stored
tokens = [int(t) for t in numpy.random.default_rng(7).integers(0, sizes["vocab_size"], 24)]
goldens = []
for name, config in cases.items():
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tied = config.tie_word_embeddings
    state = model.state_dict()
    names = {key: list(value.shape) for key, value in state.items() if not (tied and key == "lm_head.weight")}
    filled = {key: made_up(key, shape, 1 if name.startswith("Gemma") else 0) for key, shape in names.items()}
    if tied:
        filled["lm_head.weight"] = filled["model.embed_tokens.weight"]
    model.load_state_dict(filled)
    model = model.double()
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].double().numpy()
    stored = json.loads(config.to_json_string(use_diff=False))
    noise = ("return_dict", "output_", "id2label", "label2id", "problem_type", "dtype", "transformers_version", "_name_or_path",
             "chunk_size", "is_encoder_decoder", "use_cache", "attention_dropout", "pretraining_tp", "initializer_range")
    stored = {key: value for key, value in stored.items() if value is not None and not key.startswith(noise)}
    stored["architectures"] = [type(model).__name__]
    goldens.append({"name": name, "config": stored, "weights": names, "tokens": tokens, "rows": rows,
                    "logits": [[float(f"{x:.8g}") for x in logits[row]] for row in rows]})
path = pathlib.Path(__file__).parent / "goldens" / "families.json"
path.write_text("[\n" + ",\n".join(json.dumps(g) for g in goldens) + "\n]\n")
