#!/bin/sh
# check.sh BUILD SOURCE PROBE: installs the headers and quire-plugin.pc of the build folder into a folder of its own, builds plugins
# against nothing else, by pkg-config and by meson, and probes them. Exit code 77 (skipped) where pkg-config is missing.
set -eu
build=$1 source=$2 probe=$3
command -v pkg-config >/dev/null || { echo "skipped: pkg-config is missing; install pkg-config"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
DESTDIR="$work/root" meson install -C "$build" --no-rebuild --tags devel >"$work/install.log" 2>&1 || { cat "$work/install.log"; exit 1; }
pc=$(find "$work/root" -name quire-plugin.pc)
[ -n "$pc" ] || { echo "quire-plugin.pc was not installed"; exit 1; }
export PKG_CONFIG_PATH="$(dirname "$pc")" PKG_CONFIG_SYSROOT_DIR="$work/root"

# By pkg-config and a compiler.
# shellcheck disable=SC2046 # flags are words
${CXX:-c++} -std=c++20 -O1 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Wpedantic -Werror \
  $(pkg-config --cflags quire-plugin) "$source/greedy.cpp" -o "$work/greedy.so"
"$probe" "$work/greedy.so"
case $(pkg-config --variable=pluginsdir quire-plugin) in
  */quire/plugins) ;;
  *) echo "pluginsdir is «$(pkg-config --variable=pluginsdir quire-plugin)»"; exit 1 ;;
esac

# By meson.
meson setup "$work/meson" "$source" >"$work/meson.log" 2>&1 || { cat "$work/meson.log"; exit 1; }
meson compile -C "$work/meson" >"$work/meson.log" 2>&1 || { cat "$work/meson.log"; exit 1; }
"$probe" "$work/meson/bigram.so"
