#!/usr/bin/env bash
# Configures (once) and builds a folder: tools/build.sh FOLDER [meson options …]. Quiet unless something is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
shift
if [ ! -f "$folder/build.ninja" ]; then
  rm -rf "$folder"
  meson setup "$folder" "$@" > "/tmp/quire-setup.$$" 2>&1 || { cat "/tmp/quire-setup.$$" >&2; rm -f "/tmp/quire-setup.$$"; exit 1; }
  rm -f "/tmp/quire-setup.$$"
fi
if [ -t 1 ]; then ninja -C "$folder"; else ninja -C "$folder" --quiet; fi
