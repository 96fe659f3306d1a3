#!/usr/bin/env bash
# The PyPI package `openai`, unmodified, against `quire serve`: tools/openai-client-test.sh QUIRE MODEL BACKEND
# Its packages go into the user's cache, once; exit code 77 (skipped) where they can't be had. The last line is «N passed, N failed».
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: tools/openai-client-test.sh QUIRE MODEL BACKEND" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
packages="openai[realtime]==3.54.0"
folder=${XDG_CACHE_HOME:-$HOME/.cache}/quire/python-openai-3.54.0-$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ ! -f "$folder/complete" ]; then
  work=$folder.part.$$
  trap 'rm -rf "$work"' EXIT
  echo "fetching $packages" >&2
  if ! python3 -m pip install --quiet --disable-pip-version-check --target "$work" "$packages" >&2; then
    echo "skipped: the Python package openai can't be fetched from PyPI"
    exit 77
  fi
  touch "$work/complete"
  rm -rf "$folder"
  mv "$work" "$folder"
fi
build=$(cd "$(dirname "$1")/.." && pwd) # QUIRE in a build folder: its plugins lie beside it
export QUIRE_PLUGIN_PATH=${QUIRE_PLUGIN_PATH:-$build/plugins:$build/backends/vulkan:$build/backends/cuda}
PYTHONPATH=$folder exec python3 "$here/tests/server/openai_client.py" "$@"
