#!/usr/bin/env python3
"""Where the time of a CUDA chain goes: tools/chain_trace.py FILE [SKIP]

FILE is what QUIRE_CUDA_TRACE=FILE left, of a build with -Dtrace_chains=true. Prints microseconds from when the kernel in front of a chain (attention) had ended
for half of the blocks, over launches of the longest chain that another one follows, the first SKIP (8) of them left out: medians, with the 95th percentile of
all warps of all blocks in brackets.
"""
import array
import statistics
import struct
import sys

HEAD, WARPS, PHASES = 6, 16, 4


def read(path):
    """[launches] of [blocks] of words, by the number of the launch."""
    with open(path, "rb") as file:
        head, rest = file.read(16), file.read()
    magic, launches, blocks, size = struct.unpack("<4I", head) if len(head) == 16 else (0, 0, 0, 0)
    if magic != 0x31544351 or size != 4 * (HEAD + 4 * WARPS * PHASES) or len(rest) != launches * blocks * size:
        sys.exit(f"{path}: not the times of chains by QUIRE_CUDA_TRACE, or of another build's layout")
    words = array.array("I", rest)
    each = size // 4
    found = [[words[(l * blocks + b) * each : (l * blocks + b + 1) * each] for b in range(blocks)] for l in range(launches)]
    return sorted((launch for launch in found if launch[0][1] != 0), key=lambda launch: launch[0][0])


def since(word, base):
    return ((word - base + (1 << 31)) % (1 << 32) - (1 << 31)) / 1e3


def both(values):
    values = sorted(values)
    return f"{statistics.median(values):7.2f} ({values[min(len(values) - 1, len(values) * 95 // 100)]:.2f})"


def main():
    launches = read(sys.argv[1])[int(sys.argv[2]) if len(sys.argv) > 2 else 8 :]
    longest = max((launch[0][1] for launch in launches), default=0)
    pairs = [(a, b) for a, b in zip(launches, launches[1:]) if a[0][1] == longest and b[0][0] == a[0][0] + 1]
    if not pairs:
        sys.exit(f"{sys.argv[1]}: no two launches of a chain that follow each other")
    times = {name: [] for name in ["begun", "framed", "asked", "released", "next released"]}
    phases = [{name: [] for name in ["input", "multiplied", "handed", "waited"]} for _ in range(longest)]
    for launch, behind in pairs:
        base = sorted(block[5] for block in launch)[len(launch) // 2]
        for block in launch:
            for i, name in enumerate(["begun", "framed", "asked", "released"]):
                times[name].append(since(block[2 + i], base))
            for warp in range(WARPS):
                for p in range(longest):
                    at = HEAD + 4 * (warp * PHASES + p)
                    if block[at] == 0:
                        continue  # nothing of the phase
                    for i, name in enumerate(["input", "multiplied", "handed"]):
                        phases[p][name].append(since(block[at + i], base))
                    phases[p]["waited"].append(block[at + 3] / 1e3)
        times["next released"] += [since(block[5], base) for block in behind]
    print(f"{len(pairs)} launches of {longest} phases, {len(pairs[0][0])} blocks; us")
    for name, values in times.items():
        print(f"{name:14} {both(values)}")
    for p, phase in enumerate(phases):
        print(f"phase {p}: " + ", ".join(f"{name} {both(values)}" for name, values in phase.items()))


main()
