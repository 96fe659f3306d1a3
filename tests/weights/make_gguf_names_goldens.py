#!/usr/bin/env python3
"""Writes goldens/gguf_names.txt: what PyPI's `gguf` calls the tensors that `transformers` makes, a family at a time.

Needs: torch, transformers, gguf (made with transformers 5.23 and gguf 0.19). Lines: «architecture gguf-name hugging-face-name».
Tensors of experts are left out: transformers names them otherwise than checkpoints do.
"""
import pathlib

import gguf
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen2_moe": "qwen2moe", "qwen3": "qwen3", "qwen3_moe": "qwen3moe",
            "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3", "phi3": "phi3", "granite": "granite",
            "smollm3": "smollm3", "olmo2": "olmo2"}
NUMBERS = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}

lines = []
for model_type, architecture in FAMILIES.items():
    sizes = dict(hidden_size=32, num_hidden_layers=12, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                 intermediate_size=64, vocab_size=128, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config = CONFIG_MAPPING[model_type](**sizes)
    names = gguf.get_tensor_name_map(NUMBERS[architecture], 12)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    for name in model.state_dict():
        layer = name.split(".")[2] if name.startswith("model.layers.") else "0"
        if layer not in ("0", "11") or ".experts." in name:
            continue
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found, (architecture, name)
        lines.append(f"{architecture} {found} {name}\n")

target = pathlib.Path(__file__).parent / "goldens" / "gguf_names.txt"
target.write_text("".join(lines))
print(target, len(lines), "lines")
