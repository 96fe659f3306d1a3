#!/usr/bin/env python3
"""Makes goldens/smollm2_q4_1.logits: what Hugging Face's Llama in float32 says of SmolLM2-135M-Instruct at Q4_1.

Needs PyPI torch, transformers, tokenizers, gguf, numpy. Usage: make_logits.py MODEL.gguf [OUTPUT]

The weights are the GGUF's, dequantised by PyPI gguf; q and k are un-permuted from GGUF's interleaved rope to Hugging Face's halves. Token ids
come from PyPI tokenizers on the GGUF's vocabulary and merges with Digits(individual) and ByteLevel. Each of the 24 prompts is continued by 64
greedy tokens; then one full forward pass gives the logits of the kept positions: all 64 that chose a token and 16 within the prompt.

A row of 49,152 logits is kept as: its RMS; its 8 largest with ids; and 64 sums of all of it with random signs, whose mean square difference to
another row's sums is an unbiased estimate of the squared length of the rows' difference (Johnson and Lindenstrauss 1984; Achlioptas 2003).
Sign s of column i is bit s of splitmix64(i), 0 = plus.

The file is little-endian: «QLOGITS1», u32 vocabulary, u32 prompts; a prompt: u32 prompt tokens, u32 all tokens, i32 ids; u32 rows; a row: u32
position, f32 RMS, 8 i32 ids, 8 f32 logits, 64 f32 sums.
"""

import struct
import sys

import numpy
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from prompts import PROMPTS

GENERATED = 64
PROMPT_ROWS = 16
TOP = 8


def field(reader, key):
    return reader.fields[key].contents()


def build_tokenizer(reader):
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    kinds = field(reader, "tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, kind in zip(tokens, kinds) if kind == 3])
    return tokenizer


def unpermute(weight, heads):
    """Rows of a head from (0, h/2, 1, h/2 + 1, ...) back to (0, 1, ...)."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def build_model(reader):
    number = lambda key: field(reader, "llama." + key)
    heads, kv_heads = number("attention.head_count"), number("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=number("vocab_size"), hidden_size=number("embedding_length"), intermediate_size=number("feed_forward_length"),
        num_hidden_layers=number("block_count"), num_attention_heads=heads, num_key_value_heads=kv_heads,
        max_position_embeddings=number("context_length"), rms_norm_eps=number("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": number("rope.freq_base")}, tie_word_embeddings=True,
        attn_implementation="eager")
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        parts = tensor.name.split(".")
        if tensor.name == "token_embd.weight":
            state["model.embed_tokens.weight"] = state["lm_head.weight"] = torch.from_numpy(weight)
        elif tensor.name == "output_norm.weight":
            state["model.norm.weight"] = torch.from_numpy(weight)
        else:
            if parts[2] == "attn_q":
                weight = unpermute(weight, heads)
            if parts[2] == "attn_k":
                weight = unpermute(weight, kv_heads)
            state[f"model.layers.{parts[1]}.{names[parts[2]]}.weight"] = torch.from_numpy(numpy.ascontiguousarray(weight))
    model = LlamaForCausalLM(config).to(torch.float32).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    return model


def random_signs(columns):
    """[columns, 64] of +1 and -1."""
    with numpy.errstate(over="ignore"):
        z = (numpy.arange(columns, dtype=numpy.uint64) + numpy.uint64(1)) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    bits = (z[:, None] >> numpy.arange(64, dtype=numpy.uint64)[None, :]) & numpy.uint64(1)
    return 1.0 - 2.0 * bits.astype(numpy.float64)


@torch.no_grad()
def greedy(model, ids):
    ids = list(ids)
    cache, feed = None, torch.tensor([ids])
    for _ in range(GENERATED):
        out = model(feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        ids.append(int(out.logits[0, -1].argmax()))
        feed = torch.tensor([ids[-1:]])
    return ids


@torch.no_grad()
def main():
    reader = GGUFReader(sys.argv[1])
    output = sys.argv[2] if len(sys.argv) > 2 else __file__.rsplit("/", 1)[0] + "/goldens/smollm2_q4_1.logits"
    tokenizer, model = build_tokenizer(reader), build_model(reader)
    vocabulary = model.config.vocab_size
    signs = random_signs(vocabulary)
    file = bytearray(b"QLOGITS1" + struct.pack("<II", vocabulary, len(PROMPTS)))
    closest = float("inf")
    for index, prompt in enumerate(PROMPTS):
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        ids = greedy(model, prompt_ids)
        logits = model(torch.tensor([ids])).logits[0].double().numpy()
        within = numpy.unique(numpy.linspace(0, len(prompt_ids) - 1, PROMPT_ROWS + 1).astype(int)[:-1])
        positions = [int(p) for p in within if p < len(prompt_ids) - 1] + list(range(len(prompt_ids) - 1, len(ids) - 1))
        file += struct.pack("<II", len(prompt_ids), len(ids)) + numpy.array(ids, "<i4").tobytes() + struct.pack("<I", len(positions))
        for position in positions:
            row = logits[position]
            top = numpy.argsort(-row, kind="stable")[:TOP]
            if position >= len(prompt_ids) - 1:
                assert top[0] == ids[position + 1], "the full pass and the cached one disagree: a near tie; change the prompt"
                closest = min(closest, row[top[0]] - row[top[1]])
            file += struct.pack("<If", position, numpy.sqrt(numpy.mean(row**2)))
            file += top.astype("<i4").tobytes() + row[top].astype("<f4").tobytes() + (row @ signs).astype("<f4").tobytes()
        text = tokenizer.decode(ids[len(prompt_ids):])
        print(f"{index:2}: {len(prompt_ids)} tokens, then {text[:90]!r}", flush=True)
    with open(output, "wb") as out:
        out.write(file)
    print(f"{output}: {len(file)} bytes; closest top-two gap {closest:.5f}")


if __name__ == "__main__":
    main()
