#!/usr/bin/env python3
"""Writes goldens/rope.json: rope frequencies of every scaling kind, as Hugging Face transformers computes them in float32.

Needs the PyPI packages torch and transformers (made with transformers 5.23).
Each case holds the flat configuration keys, the rotary dimension, the context that is served, and what transformers gives.
"""
import json
import pathlib

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def flat(prefix, value, out, lengths):
    if isinstance(value, dict):
        for key, element in value.items():
            flat(f"{prefix}.{key}" if prefix else key, element, out, lengths)
    elif isinstance(value, list):
        lengths[prefix] = len(value)
        for index, element in enumerate(value):
            flat(f"{prefix}.{index}", element, out, lengths)
    else:
        out[prefix] = value


def case(name, scaling, theta=10000.0, head_dim=64, max_positions=4096, context=None, **extra):
    config = LlamaConfig(hidden_size=head_dim * 2, num_attention_heads=2, num_key_value_heads=2, head_dim=head_dim,
                         max_position_embeddings=max_positions, rope_theta=theta,
                         rope_scaling=dict(scaling) if scaling else None, **extra)
    kind = (scaling or {}).get("rope_type") or (scaling or {}).get("type") or "default"
    context = context or max_positions
    if kind == "default":
        exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).to(dtype=torch.float) / head_dim
        frequencies, magnitude = 1.0 / (theta**exponent), 1.0
    else:
        frequencies, magnitude = ROPE_INIT_FUNCTIONS[kind](config, seq_len=context)
    given = {"max_position_embeddings": max_positions, **extra}
    if scaling:
        given["rope_scaling"] = scaling
    keys, lengths = {}, {}
    flat("", given, keys, lengths)
    return {"name": name, "config": keys, "lengths": lengths, "theta": theta, "rotary_dim": head_dim, "context": context,
            "magnitude": float(magnitude), "frequencies": [float(f) for f in frequencies]}


llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
longrope = {"rope_type": "longrope", "long_factor": [1.0 + 0.37 * i for i in range(48)],
            "short_factor": [1.0 + 0.011 * i for i in range(48)]}
cases = [
    case("Default", None),
    case("DefaultOfSmolLM2", None, theta=100000.0),
    case("DefaultNamed", {"rope_type": "default"}, theta=1e6, head_dim=128),
    case("Linear", {"rope_type": "linear", "factor": 4.0}),
    case("LinearByItsOlderKey", {"type": "linear", "factor": 2.5}),
    case("DynamicWithinTheTrainedContext", {"rope_type": "dynamic", "factor": 2.0}, max_positions=2048),
    case("DynamicBeyond", {"rope_type": "dynamic", "factor": 2.0}, max_positions=2048, context=8192),
    case("Llama3Of31", llama3, theta=500000.0, head_dim=128, max_positions=131072),
    case("Llama3Of32", {**llama3, "factor": 32.0}, theta=500000.0, head_dim=64, max_positions=131072),
    case("Yarn", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, theta=1e6, head_dim=128,
         max_positions=131072),
    case("YarnWithMscale", {"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
                            "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.707}, head_dim=64, max_positions=163840),
    case("YarnNotTruncated", {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
                              "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}, theta=150000.0, max_positions=131072),
    case("YarnWithItsFactor", {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096,
                               "attention_factor": 1.25}, max_positions=32768),
    case("LongropeShort", longrope, head_dim=96, max_positions=131072, context=4096, original_max_position_embeddings=4096),
    case("LongropeLong", longrope, head_dim=96, max_positions=131072, context=131072,
         original_max_position_embeddings=4096),
]
path = pathlib.Path(__file__).parent / "goldens" / "rope.json"
path.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
