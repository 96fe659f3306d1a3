#!/usr/bin/env bash
# Registers, shared memory and spills of every CUDA kernel, as ptxas reports them, into docs/cuda-resources.md.
# Usage: tools/cuda-resources.sh [TARGET...]   (default: 80 90a). Needs nvcc. Warnings are errors. Exits 1 if an attention or matrix kernel spills.
set -euo pipefail
cd "$(dirname "$0")/.."
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(80 90a)
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compile() { # nvcc, folder, target, source
  "$1" -std=c++20 -O3 --expt-relaxed-constexpr -Ibackends/cuda/ops -Iengine/include -Werror all-warnings -Xcompiler -Wall,-Wextra,-Wno-missing-field-initializers -Xptxas -v \
    "-gencode=arch=compute_$3,code=sm_$3" $([ "$3" = 90a ] && echo -DQUIRE_CUDA_90A) -c "$4" -o "$2/$3-$(basename "$4" .cu).o" 2> "$2/$3-$(basename "$4" .cu)" || { cat "$2/$3-$(basename "$4" .cu)" >&2; exit 1; }
}
export -f compile
for target in "${targets[@]}"; do
  for source in backends/cuda/ops/*.cu; do printf '%s\0%s\0' "$target" "$source"; done
done | xargs -0 -n 2 -P "$(nproc)" bash -c 'compile "$0" "$1" "$2" "$3"' "$nvcc" "$work"
python3 - "$work" docs/cuda-resources.md "${targets[@]}" <<'PYTHON'
import pathlib, re, subprocess, sys
work, out, targets = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
rows, spilling = {}, []
for target in targets:
    for report in sorted(r for r in work.glob(f"{target}-*") if r.suffix != ".o"):
        source = report.name[len(target) + 1:]
        name = spills = None
        for line in report.read_text().splitlines():
            if m := re.search(r"Compiling entry function '(\S+)'", line):
                name = m[1]
            elif m := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
                spills = int(m[1]) + int(m[2])
            elif m := re.search(r"Used (\d+) registers", line):
                shared = re.search(r"(\d+) bytes smem", line)
                plain = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()
                kernel = re.sub(r"^void |quire::cuda::|\(anonymous namespace\)::|\(.*$", "", re.sub(r"\((unsigned int|bool|int)\)", "",
                                plain.replace("(anonymous namespace)::", "")))
                rows.setdefault((source, kernel), {})[target] = (int(m[1]), int(shared[1]) if shared else 0, spills)
                if spills and re.match(r"attend|linear|expert_linear", source):
                    spilling.append(f"sm_{target} {kernel}: {spills} bytes")
lines = ["# Resources of the CUDA kernels", "",
         "Written by `tools/cuda-resources.sh`: registers a thread, static shared memory (bytes; dynamic shared memory is chosen at launch) and spilled",
         "bytes (stores and loads), by `ptxas`.", "",
         "| kernel | " + " | ".join(f"sm_{t}: registers, shared, spills" for t in targets) + " |", "| --- |" + " --- |" * len(targets)]
for (source, kernel), by_target in sorted(rows.items()):
    cells = [", ".join(map(str, by_target[t])) if t in by_target else "" for t in targets]
    lines.append(f"| `{kernel}` ({source}) | " + " | ".join(cells) + " |")
pathlib.Path(out).write_text("\n".join(lines) + "\n")
for line in spilling:
    print("spills:", line, file=sys.stderr)
sys.exit(1 if spilling else 0)
PYTHON
