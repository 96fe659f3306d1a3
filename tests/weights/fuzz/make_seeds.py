#!/usr/bin/env python3
"""Writes seeds/: small files that fuzzing starts from, made by the formats' own packages. Needs: numpy, gguf, safetensors."""
import json
import pathlib

import gguf
import numpy as np
from safetensors.numpy import save

root = pathlib.Path(__file__).parent / "seeds"
for name in ("gguf", "safetensors", "config"):
    (root / name).mkdir(parents=True, exist_ok=True)

writer = gguf.GGUFWriter(root / "gguf" / "llama", "llama")
writer.add_name("Tiny")
writer.add_block_count(1)
writer.add_embedding_length(32)
writer.add_head_count(2)
writer.add_rope_freq_base(10000.0)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("default")
writer.add_token_list(["<s>", "</s>", "a", "b"])
writer.add_token_types([3, 3, 1, 1])
writer.add_token_scores([0.0, 0.0, -1.0, -2.0])
writer.add_token_merges(["a b"])
writer.add_bos_token_id(0)
writer.add_eos_token_id(1)
writer.add_chat_template("{{ messages }}")
writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
writer.add_tensor("blk.0.attn_q.weight", gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0),
                  raw_dtype=gguf.GGMLQuantizationType.Q8_0)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

(root / "safetensors" / "two").write_bytes(save({"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float16)}, {"format": "pt"}))
(root / "safetensors" / "none").write_bytes(save({}))

(root / "config" / "llama").write_text(json.dumps({
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 2},
    "text_config": {"layer_types": ["full_attention"], "rms_norm_eps": 1e-5}}))
(root / "config" / "index").write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
