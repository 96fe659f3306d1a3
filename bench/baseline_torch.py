#!/usr/bin/env python3
"""PyTorch's attention, Hugging Face's generate and the link's rate, to stand beside Quire's figures of the same machine.

Needs torch and transformers, and a CUDA device.  bench/baseline_torch.py attention | link | generate CONFIG_FOLDER [batch prompt output]…
"""
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS, DIM = 32, 8, 128
COLD_BYTES = 200 << 20  # inputs rotate over at least this much, so that the L2 holds none of them


def median_time(call, copies, repetitions=20):
    """Median seconds of call(i) on the device, i rotating over the copies."""
    for i in range(min(copies, 3)):
        call(i)
    torch.cuda.synchronize()
    times = []
    for i in range(repetitions):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call(i % copies)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return sorted(times)[len(times) // 2]


def streaming_rate():
    """GB/s of reading 4 GiB once."""
    data = torch.ones(1 << 30, dtype=torch.float32, device="cuda")
    return data.numel() * 4 / median_time(lambda i: data.sum(), 1) / 1e9


def attention():
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}; reading 4 GiB by sum(): {streaming_rate():.0f} GB/s")
    make = lambda *shape: torch.randn(*shape, dtype=torch.bfloat16, device="cuda")
    for batch, context in [(64, 4096), (1, 32768), (16, 1024), (1, 1024), (64, 128)]:
        size = 2 * batch * KV_HEADS * context * DIM * 2
        copies = max(1, -(-COLD_BYTES // size))
        inputs = [(make(batch, HEADS, 1, DIM), make(batch, KV_HEADS, context, DIM), make(batch, KV_HEADS, context, DIM)) for _ in range(copies)]
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            try:
                with sdpa_kernel(backend):
                    seconds = median_time(lambda i: F.scaled_dot_product_attention(*inputs[i], enable_gqa=True), copies)
                print(f"decode  {batch:3} x {context:5}  {backend.name:20} {seconds * 1e6:8.1f} us  {size / seconds / 1e9:6.0f} GB/s")
            except RuntimeError as error:
                print(f"decode  {batch:3} x {context:5}  {backend.name:20} not available: {str(error).splitlines()[0][:80]}")
        del inputs
    tokens = 4096
    q, k, v = make(1, HEADS, tokens, DIM), make(1, HEADS, tokens, DIM), make(1, HEADS, tokens, DIM)
    operations = 4 * HEADS * DIM * tokens * (tokens + 1) / 2
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        with sdpa_kernel(backend):
            seconds = median_time(lambda i: F.scaled_dot_product_attention(q, k, v, is_causal=True), 1)
        print(f"prefill {tokens} causal  {backend.name:20} {seconds * 1e6:8.1f} us  {operations / seconds / 1e12:6.0f} TFLOP/s")


def link():
    """The host link's rate: 1 GiB from pinned memory to the device."""
    host = torch.ones(1 << 28, dtype=torch.float32).pin_memory()
    device = torch.empty_like(host, device="cuda")
    seconds = median_time(lambda i: device.copy_(host, non_blocking=True), 1)
    print(f"pinned host memory to device: {host.numel() * 4 / seconds / 1e9:.1f} GB/s")


def generate(folder, runs):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    torch.set_default_device("cuda")
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    for batch, prompt, output in runs:
        ids = torch.randint(10, config.vocab_size, (batch, prompt))

        def seconds(tokens):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            with torch.inference_mode():
                model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
            torch.cuda.synchronize()
            return time.perf_counter() - begin

        seconds(2)
        first, whole = seconds(1), seconds(output)
        print(f"generate {folder} batch {batch} prompt {prompt}: first token {first * 1e3:.1f} ms, then {(whole - first) / (output - 1) * 1e3:.2f} ms a step")


if sys.argv[1:2] == ["attention"]:
    attention()
elif sys.argv[1:2] == ["link"]:
    link()
elif sys.argv[1:2] == ["generate"]:
    numbers = [int(word) for word in sys.argv[3:]] or [1, 128, 64]
    generate(sys.argv[2], [numbers[i : i + 3] for i in range(0, len(numbers), 3)])
else:
    sys.exit(__doc__)
