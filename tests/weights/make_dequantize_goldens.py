#!/usr/bin/env python3
"""Writes goldens/dequantize.bin: blocks of every GGUF format and what PyPI's `gguf` makes of them.

Needs: numpy, gguf (made with gguf 0.19 and numpy 2).
Layout, little-endian: for each format a record: u32 quire_format, u32 number of blocks, u32 bytes a block, u32 elements a block,
the blocks, then float32 [blocks * elements]. Blocks are random bytes; the scales of the first ones are then set to the extremes of
binary16: zero, minus zero, the smallest and largest subnormal, the smallest normal, one, the largest, infinity and NaN.
"""
import pathlib
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as G
from gguf.quants import dequantize

FORMATS = [G.F16, G.BF16, G.Q4_0, G.Q4_1, G.Q5_0, G.Q5_1, G.Q8_0, G.Q2_K, G.Q3_K, G.Q4_K, G.Q5_K, G.Q6_K]
NUMBERS = {G.F16: 1, G.BF16: 2, G.Q4_0: 3, G.Q4_1: 4, G.Q5_0: 5, G.Q5_1: 6, G.Q8_0: 7, G.Q2_K: 8, G.Q3_K: 9, G.Q4_K: 10,
           G.Q5_K: 11, G.Q6_K: 12}
# Where the binary16 fields of a block lie.
HALVES = {G.Q4_0: [0], G.Q4_1: [0, 2], G.Q5_0: [0], G.Q5_1: [0, 2], G.Q8_0: [0], G.Q2_K: [80, 82], G.Q3_K: [108],
          G.Q4_K: [0, 2], G.Q5_K: [0, 2], G.Q6_K: [208]}
EXTREMES = [0x0000, 0x8000, 0x0001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0x7E00]

random = np.random.default_rng(20240613)
out = bytearray()
for fmt in FORMATS:
    elements, size = GGML_QUANT_SIZES[fmt]
    if elements == 1:
        blocks = np.arange(0, 65536, 61, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    else:
        blocks = random.integers(0, 256, (len(EXTREMES) + 13, size), dtype=np.uint8)
        for i, block in enumerate(blocks):
            for field in HALVES[fmt]:
                bits = EXTREMES[i] if i < len(EXTREMES) else int(np.float16(random.normal() * 10.0 ** random.integers(-6, 4)).view(np.uint16))
                block[field:field + 2] = list(struct.pack("<H", bits))
    with np.errstate(all="ignore"):
        values = np.asarray(dequantize(blocks, fmt), dtype=np.float32).reshape(-1)
    assert values.size == len(blocks) * elements
    out += struct.pack("<4I", NUMBERS[fmt], len(blocks), size, elements) + blocks.tobytes() + values.tobytes()

target = pathlib.Path(__file__).parent / "goldens" / "dequantize.bin"
target.parent.mkdir(exist_ok=True)
target.write_bytes(out)
print(target, len(out), "bytes")
