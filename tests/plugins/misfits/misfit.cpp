// Plugins that are wrong in one way each; MISFIT, from the build, says which. Only plugin.h: the glue would not let
// most of them compile.
#include <quire/plugin.h>

#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <unistd.h>

#define WRONG_SIZE 1
#define WRONG_MAJOR 2
#define NEWER_MINOR 3
#define WRONG_KIND 4
#define RESERVED 5
#define NO_ID 6
#define NO_VERSION 7
#define NO_TABLE 8
#define SMALL_TABLE 9
#define MISSING_ENTRY 10
#define NO_SYMBOL 11
#define HIDDEN_SYMBOL 12
#define CRASHES 13
#define HANGS 14
#define EXITS 15
#define ABORTS_WHILE_LOADING 16
#define HANGS_WHILE_LOADING 17
#define BANNED_TOKEN 18
#define OLDER_TABLE 19

namespace {

void* open_state(void*, const quire_sampler_request*, quire_status*) {
  static int state;
  return &state;
}
[[maybe_unused]] int32_t choose(void*, float*, uint32_t, uint32_t, quire_status*) {
#if MISFIT == CRASHES
  raise(SIGSEGV);
#elif MISFIT == HANGS
  for (;;) pause();
#elif MISFIT == EXITS
  std::exit(0);
#elif MISFIT == BANNED_TOKEN
  return 3;
#endif
  return 1;
}
void close_state(void*) {}
void* clone_state(void* state, quire_status*) { return state; }

constexpr quire_sampler sampler = {
#if MISFIT == SMALL_TABLE
    8,
#elif MISFIT == OLDER_TABLE
    sizeof(quire_sampler) - sizeof(void*), // before `close` was there
#else
    sizeof(quire_sampler),
#endif
    nullptr,     &open_state, &clone_state,
#if MISFIT == MISSING_ENTRY
    nullptr,
#else
    &choose,
#endif
    &close_state};

#if MISFIT == ABORTS_WHILE_LOADING
[[maybe_unused]] const int thrown = (throw std::runtime_error("thrown while loading"), 0);
#elif MISFIT == HANGS_WHILE_LOADING
[[maybe_unused]] const int waited = [] {
  for (;;) pause();
  return 0;
}();
#endif

} // namespace

#if MISFIT == NO_SYMBOL
#define SYMBOL some_other_symbol
#else
#define SYMBOL quire_plugin_v1
#endif
#if MISFIT == HIDDEN_SYMBOL
#define VISIBILITY "hidden"
#else
#define VISIBILITY "default"
#endif

extern "C" __attribute__((visibility(VISIBILITY))) const quire_plugin SYMBOL;
__attribute__((used))
const quire_plugin SYMBOL = {MISFIT == WRONG_SIZE ? sizeof(quire_plugin) + 8 : sizeof(quire_plugin),
                             MISFIT == WRONG_MAJOR ? 2 : QUIRE_ABI_MAJOR,
                             MISFIT == NEWER_MINOR ? QUIRE_ABI_MINOR + 7 : QUIRE_ABI_MINOR,
                             MISFIT == WRONG_KIND ? 9 : QUIRE_PLUGIN_SAMPLER,
                             MISFIT == RESERVED ? 1 : 0,
                             MISFIT == NO_ID ? "Not A Word" : "misfit",
                             MISFIT == NO_VERSION ? nullptr : "1.0",
                             MISFIT == NO_TABLE ? nullptr : &sampler};
