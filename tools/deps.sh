#!/usr/bin/env bash
# Installs what Quire needs from the distribution's packages (Debian 12 or later, Ubuntu 24.04 or later). Idempotent: does nothing, and needs no
# network, where everything is there.   tools/deps.sh [build] [test]   (default: build)
set -euo pipefail

# Each row: purpose, then packages; «a|b» is the first that the distribution has.
packages() {
  case $1 in
    build)
      echo g++ git meson ninja-build pkg-config ccache python3 python3-pip ca-certificates # the toolchain, and pip for fetching the test model
      echo 'libboost1.81-dev|libboost1.83-dev|libboost-dev' # Asio, Beast, DLL
      echo 'libboost-json1.81-dev|libboost-json1.83-dev|libboost-json-dev'
      echo libspdlog-dev libcli11-dev libssl-dev          # log, command line, constant-time comparison
      echo libpcre2-dev libxxhash-dev                     # pre-tokenizers, prefix cache
      echo libgtest-dev librapidcheck-dev libbenchmark-dev # tests, `quire bench scheduler`
      echo libvulkan-dev libvulkan-volk-dev glslang-tools # the Vulkan backend and its shaders
      echo libvulkan1 mesa-vulkan-drivers                 # its loader, and lavapipe where there is no GPU
      ;;
    test)
      echo vulkan-validationlayers clang-format python3-venv curl # checked while testing
      ;;
    *) echo "tools/deps.sh: unknown set '$1': use build, test" >&2; exit 2 ;;
  esac
}

installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

command -v dpkg-query >/dev/null || {
  echo "tools/deps.sh: no dpkg here. Install by hand: $(packages build | tr '\n' ' ')" >&2
  exit 1
}

# Row by row: satisfied if any alternative is installed.
missing=()
for set in "${@:-build}"; do
  for row in $(packages "$set"); do
    found=
    for name in ${row//|/ }; do installed "$name" && { found=1; break; }; done
    [ -n "$found" ] || missing+=("$row")
  done
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=
[ "$(id -u)" -eq 0 ] || as_root=sudo
if [ -n "$as_root" ] && ! command -v sudo >/dev/null; then
  echo "tools/deps.sh: as root, install: ${missing[*]}" >&2
  exit 1
fi
echo "installing: ${missing[*]}"
$as_root apt-get update -qq
choice=()
for row in "${missing[@]}"; do
  found=
  for name in ${row//|/ }; do
    candidate=$(apt-cache policy "$name" 2>/dev/null | sed -n 's/^ *Candidate: //p')
    if [ -n "$candidate" ] && [ "$candidate" != '(none)' ]; then choice+=("$name"); found=$name; break; fi
  done
  [ -n "$found" ] || { echo "tools/deps.sh: this distribution has none of: $row" >&2; exit 1; }
done
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${choice[@]}" >/dev/null
