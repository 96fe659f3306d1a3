#!/usr/bin/env bash
# Every test that needs no GPU. Installs what is missing, fetches the test model, builds and runs; idempotent, and offline once done.
#   ./run-tests.sh                  what every landing must pass: all areas on every backend that runs here, the core under the address and
#                                   undefined-behaviour sanitizers, the format of the sources
#   ./run-tests.sh --full           the long matrices too (the real model on all its prompts, more shapes and histories), OpenAI's client, CUDA's machine
#                                   code of every default target, and every area under the sanitizers, the thread sanitizer among them
#   ./run-tests.sh --soak [MINUTES] besides the landing's tests, random clients against a server for so long (10)
# The last line is «N passed, N failed».
set -uo pipefail
cd "$(dirname "$0")"

full= soak=
while [ $# -gt 0 ]; do
  case $1 in
    --full) full=1 ;;
    --soak)
      soak=10
      case ${2:-} in [1-9]*) soak=$2; shift ;; esac ;;
    *) echo "run-tests.sh: unknown option $1: use --full or --soak [MINUTES]" >&2; exit 2 ;;
  esac
  shift
done

started=$SECONDS
stage() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - started)); }
give_up() { echo "$1" >&2; echo "0 passed, 1 failed"; exit 1; }

stage "what the tests need"
tools/deps.sh build test || give_up "run-tests.sh: the packages could not be installed"
QUIRE_MODEL=$(tools/fetch-model.sh) && export QUIRE_MODEL || echo "the test model can't be fetched: its tests will be skipped"
export VK_DRIVER_FILES=${VK_DRIVER_FILES:-$(ls /usr/share/vulkan/icd.d/lvp_icd.*.json 2>/dev/null | head -1)}
export VK_ICD_FILENAMES=$VK_DRIVER_FILES # what loaders before 1.3.207 read
[ -n "$full" ] && export QUIRE_FULL=1
results=()

# suite LABEL FOLDER [meson test arguments …]
suite() {
  local label=$1 folder=$2
  shift 2
  rm -f "$folder/meson-logs/testlog.junit.xml"
  meson test -C "$folder" --no-rebuild --print-errorlogs --num-processes 2 "$@" || true
  cp "$folder/meson-logs/testlog.junit.xml" "$folder/results-$label.xml" 2>/dev/null
  results+=("$label=$folder/results-$label.xml")
}

# program LABEL COMMAND …: one whose last line is «N passed, N failed»
program() {
  local label=$1 log=build-tests/results-$1.log
  shift
  "$@" 2>&1 | tee "$log" | tail -30
  results+=("$label=$log")
}

stage "build"
# Machine code of one compute capability for a landing, since none of it runs here; nvcc takes a quarter of the build otherwise.
capabilities=90a
if [ -n "$full" ]; then
  capabilities=80,90a
  [ ! -f build-tests/build.ninja ] || meson configure build-tests -Dnvcc_targets=$capabilities # of an earlier landing
fi
tools/build.sh build-tests -Dwerror=true -Dnvcc_targets=$capabilities || give_up "run-tests.sh: the build failed"
stage "tests"
suite tests build-tests --timeout-multiplier $([ -n "$full" ] && echo 20 || echo 3)

if [ -n "$full" ] && [ -n "${QUIRE_MODEL:-}" ]; then
  stage "OpenAI's client"
  program openai tools/openai-client-test.sh build-tests/cli/quire "$QUIRE_MODEL" vulkan
  stage "10,000 steps at random"
  program trials env QUIRE_BUILD="$PWD/build-tests" build-tests/tests/conformance/quire-tests trials --steps 10000
fi
if [ -n "$soak" ] && [ -n "${QUIRE_MODEL:-}" ]; then
  stage "soak, $soak minutes"
  program soak env QUIRE_PLUGIN_PATH="$PWD/build-tests/plugins:$PWD/build-tests/backends/vulkan" build-tests/tests/server/quire-soak build-tests/cli/quire "$QUIRE_MODEL" reference "$soak" \
    -- --kv-memory 14MiB --max-context 512 --max-seqs 16 # so little that they preempt each other
fi

# CUDA's own runtime and the kernels that glslang makes are not ours to instrument; everything else is.
sanitized=(-Dbuildtype=plain -Doptimization=1 -Dcpp_args=-g1 -Db_lundef=false -Dcuda=disabled)
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export LSAN_OPTIONS=suppressions=$PWD/tests/suppressions/leaks.txt
export TSAN_OPTIONS=suppressions=$PWD/tests/suppressions/threads.txt:second_deadlock_stack=1
unset QUIRE_FULL # every area, at its usual size: the long matrices add time here, not code
stage "build with address and undefined-behaviour sanitizers"
targets=()
[ -n "$full" ] || targets=(-- $(for area in kv schedule decode engine; do echo tests/$area/test-$area; done))
tools/build.sh build-asan "${sanitized[@]}" -Db_sanitize=address,undefined "${targets[@]}" || give_up "run-tests.sh: the sanitizer build failed"
stage "tests under address and undefined-behaviour sanitizers"
suite asan build-asan --timeout-multiplier 20 $([ -n "$full" ] || echo kv schedule decode engine)

if [ -n "$full" ]; then
  stage "build with the thread sanitizer"
  tools/build.sh build-tsan "${sanitized[@]}" -Db_sanitize=thread -Dvulkan=disabled -- tests/engine/test-engine tests/server/test-server plugins/llama.so plugins/mirostat.so || give_up "run-tests.sh: the thread sanitizer build failed"
  stage "engine and server tests under the thread sanitizer"
  suite tsan build-tsan --timeout-multiplier 20 engine server
fi

stage "format of the sources"
format=build-tests/results-format.xml
# The public headers and the shared structs have their comments laid out in columns by hand.
if unformatted=$(git ls-files '*.cpp' '*.hpp' '*.h' '*.cu' '*.cuh' ':!engine/include' ':!shaders/op_params.h' | xargs clang-format --dry-run --Werror 2>&1); then
  echo '<testsuites><testsuite><testcase classname="clang-format" name="AllSources"/></testsuite></testsuites>' > $format
else
  echo "$unformatted" | grep -E '^[^ ].*error' | cut -d: -f1 | sort -u
  echo '<testsuites><testsuite><testcase classname="clang-format" name="AllSources"><failure/></testcase></testsuite></testsuites>' > $format
fi
results+=("format=$format")

stage "summary"
tools/test_summary.py "${results[@]}"
