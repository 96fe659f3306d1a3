#!/usr/bin/env bash
# Makes a relocatable bundle: tools/bundle.sh [FILE.tar.gz] [meson options …] holds bin/quire, bin/quire-tests, the plugins and the libraries they need beyond
# glibc. It runs from any folder on an x86-64 Linux whose glibc is no older than the one here.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in *.tar.gz) target=$1; shift ;; *) target=quire-bundle.tar.gz ;; esac

[ -f build-bundle/build.ninja ] || meson setup build-bundle -Dprefix=/quire -Dlibdir=lib -Dstrip=true "$@" >/dev/null
# Only what is installed.
mapfile -t targets < <(meson introspect build-bundle --targets | python3 -c '
import json, os, sys
for target in json.load(sys.stdin):
    if target["installed"]: print(os.path.relpath(target["filename"][0], "build-bundle"))')
tools/build.sh build-bundle -- "${targets[@]}"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
DESTDIR=$stage meson install -C build-bundle --no-rebuild --quiet
root=$stage/quire
mkdir -p "$root/share/quire"
cp tests/reference/goldens/smollm2_q4_1.logits "$root/share/quire/" # for `quire-tests oracle --goldens`

# What the loader finds for the programs and plugins, less glibc's own parts, which must match the machine's kernel and loader.
find "$root/bin" "$root/lib" -type f \( -perm -u+x -o -name '*.so*' \) -exec ldd {} + 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|libpthread|librt|ld-linux-x86-64)\.so' | xargs -r -I{} cp -L {} "$root/lib/"
rm -rf "$root/include" "$root"/lib/*.a "$root"/lib/pkgconfig
cp README.md "$root/" 2>/dev/null || true
tar -C "$stage" -czf "$target" quire
echo "$target: $(du -h "$target" | cut -f1), unpacked $(du -sh "$root" | cut -f1), needs glibc $(ldd --version | sed -n '1s/.* //p') or later"
