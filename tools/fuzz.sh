#!/usr/bin/env bash
# Fuzzes parsers with libFuzzer under AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   tools/fuzz.sh [--seconds N] [--build-only] [AREA/NAME ...]      default: every harness, 60 seconds each
#
# Every tests/AREA/fuzz/NAME.cpp is a harness. The comment at its head says, after «sources:», which files of the repository are
# linked with it and, after «libraries:», which system libraries. Files in tests/AREA/fuzz/seeds/NAME/ are the first corpus; the corpus that grows
# and the crashes found are kept in build-fuzz/. Exit status 1 if anything crashed, leaked, hung or used over 2 GiB.
# Needs clang++ with libFuzzer (Debian: clang libclang-rt-14-dev).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=60 build_only=0 wanted=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds=$2; shift 2 ;;
    --build-only) build_only=1; shift ;;
    -*) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
    *) wanted+=("$1"); shift ;;
  esac
done
command -v clang++ >/dev/null || { echo "fuzz: clang++ is missing: install clang"; exit 2; }

out=build-fuzz
mkdir -p "$out"
flags=(-std=c++20 -g -O1 -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
  -DBOOST_DLL_USE_STD_FS -Iengine/include -Iengine -Itests)
failed=() ran=0
for source in tests/*/fuzz/*.cpp; do
  area=$(cut -d/ -f2 <<<"$source") name=$(basename "$source" .cpp)
  if [ ${#wanted[@]} -gt 0 ] && ! printf '%s\n' "${wanted[@]}" | grep -qx -e "$area/$name" -e "$name" -e "$area"; then continue; fi
  # The words of the leading comment from «sources:» and «libraries:» on.
  head=$(sed -n '/^\/\//!q; s/^\/\/ \{0,1\}//p' "$source" | tr '\n' ' ')
  sources=$(grep -o 'sources: *\([A-Za-z0-9_./-]*\.cpp *\)*' <<<"$head" | sed 's/sources://' || true)
  libraries=$(grep -o 'libraries: *[A-Za-z0-9_ -]*' <<<"$head" | sed 's/libraries://; s/\([^ ]\{1,\}\)/-l\1/g' || true)
  program=$out/$area-$name
  if [ ! -x "$program" ] || [ -n "$(find $source $sources engine -newer "$program" \( -name '*.cpp' -o -name '*.hpp' -o -name '*.h' \) -print -quit)" ]; then
    echo "fuzz: building $area/$name"
    clang++ "${flags[@]}" -o "$program" "$source" $sources $libraries
  fi
  [ $build_only = 0 ] || continue
  corpus=$out/corpus-$area-$name
  mkdir -p "$corpus"
  seeds=tests/$area/fuzz/seeds/$name
  echo "fuzz: $area/$name for $seconds s"
  ran=$((ran + 1))
  if ! "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 \
      -artifact_prefix="$out/crash-$area-$name-" "$corpus" $([ -d "$seeds" ] && echo "$seeds") >"$program.log" 2>&1; then
    failed+=("$area/$name")
    tail -40 "$program.log"
  fi
  grep -E 'stat::number_of_executed_units|stat::new_units_added|stat::peak_rss_mb' "$program.log" || true
done
[ $build_only = 1 ] && exit 0
echo "fuzz: $ran harnesses ran, ${#failed[@]} failed ${failed[*]:-}"
[ ${#failed[@]} = 0 ]
