#!/usr/bin/env bash
# Configures (once) and builds a folder: tools/build.sh FOLDER [meson options …] [-- targets …]. Quiet unless something is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
shift
options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
[ $# -eq 0 ] || shift
if [ ! -f "$folder/build.ninja" ]; then
  rm -rf "$folder"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  meson setup "$folder" "${options[@]}" > "$log" 2>&1 || { cat "$log" >&2; exit 1; }
fi
if [ -t 1 ]; then ninja -C "$folder" "$@"; else ninja -C "$folder" --quiet "$@"; fi
