#!/usr/bin/env bash
# From nothing to a streamed answer: installs what is missing, builds, fetches a small model, starts the server on the best device there is, asks it
# one question over a WebSocket and prints the answer as it streams. The server then stays up; with --once it stops.
#   ./quickstart.sh [--once] [--prompt TEXT] [--backend auto|cuda|vulkan|reference] [--port N] [--model FILE|DIR]
set -euo pipefail
cd "$(dirname "$0")"

once= prompt='What is a quire of paper? Answer in two sentences.' backend=auto port=8000 model=
while [ $# -gt 0 ]; do
  case $1 in
    --once) once=1; shift ;;
    --prompt|--backend|--port|--model) [ $# -ge 2 ] || { echo "quickstart.sh: $1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"; shift 2 ;;
    -h|--help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart.sh: unknown option $1 (try --help)" >&2; exit 2 ;;
  esac
done
[ -z "$model" ] || [ -e "$model" ] || { echo "quickstart.sh: --model $model: no such file or folder" >&2; exit 1; }

tools/deps.sh build
echo "building (a few minutes the first time)"
# The CUDA plugin is built where there is an NVIDIA GPU and nvcc for it, and for that GPU alone.
cuda=-Dcuda=disabled
if command -v nvcc >/dev/null && capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .) && [ -n "$capability" ]; then
  [ "$capability" = 90 ] && capability=90a # Hopper's own instructions
  cuda=-Dnvcc_targets=$capability
fi
tools/build.sh build -Dtests=false "$cuda"
[ -n "$model" ] || model=$(tools/fetch-model.sh)

export QUIRE_PLUGIN_PATH=$PWD/build/plugins:$PWD/build/backends/vulkan:$PWD/build/backends/cuda
build/cli/quire serve --model "$model" --backend "$backend" --port "$port" &
server=$!
stop() { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
trap stop EXIT
trap 'exit 130' INT TERM

# Asks as soon as the model is loaded; gives up early where the server has ended with an error.
echo
echo "> $prompt"
build/cli/quire chat --url "ws://127.0.0.1:$port/v1/responses" --wait 600 --prompt "$prompt" --temperature 0 &
chat=$!
while kill -0 "$chat" 2>/dev/null; do
  kill -0 "$server" 2>/dev/null || { kill "$chat" 2>/dev/null; wait "$server"; exit 1; }
  sleep 0.1
done
wait "$chat"
[ -z "$once" ] || exit 0
echo
echo "The server stays up: a page at http://127.0.0.1:$port/, WebSocket clients at ws://127.0.0.1:$port/v1/responses,"
echo "or build/cli/quire chat --url ws://127.0.0.1:$port/v1/responses. Ctrl-C stops it."
wait "$server"
