// Options and helpers that several subcommands share.
#include <CLI/CLI.hpp>

#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <limits>
#include <memory>
#include <thread>

#include "commands.hpp"
#include "quire/engine.hpp"
#include "quire/error.hpp"

namespace quire::cli {

uint64_t parse_bytes(const std::string& text, const std::string& option) {
  double number = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit(end, text.data() + text.size());
  static const std::vector<std::pair<std::string, double>> units{
      {"", 1},     {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}, {"KB", 1e3},
      {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},    {"K", 0x1p10},   {"M", 0x1p20},   {"G", 0x1p30}};
  for (const auto& [name, factor] : units)
    if (ec == std::errc() && unit == name && number >= 0 && number * factor < 0x1p63)
      return static_cast<uint64_t>(number * factor);
  throw Error(option + " " + text + ": give a size such as 4GiB or 512MiB");
}

namespace {

// Lets CLI11 fill a byte count from text.
void add_bytes(CLI::App& command, const char* name, uint64_t& target, const char* help) {
  command.add_option_function<std::string>(
      name,
      [&target, name](const std::string& text) {
        try {
          target = parse_bytes(text, name);
        } catch (const Error& e) {
          throw CLI::ValidationError(e.what());
        }
      },
      help);
}

} // namespace

void add_engine_options(CLI::App& command, EngineOptions& o) {
  command.add_option("-m,--model", o.model, "GGUF file or Hugging Face folder")->required();
  command
      .add_option("--load-format", o.load_format,
                  "auto, or dummy[:FORMAT]: seeded random weights from the configuration alone")
      ->capture_default_str();
  command.add_option("--backend", o.backend, "auto, cuda, vulkan or reference")->capture_default_str();
  command.add_option("--device", o.device, "Index in `quire devices`; -1: the best")->capture_default_str();
  command.add_option("--block-size", o.block_size, "Tokens a KV block, a power of two from 8 to 256")
      ->capture_default_str();
  command.add_option("--max-seqs", o.max_sequences, "Sequences running at a time")->capture_default_str();
  command.add_option("--max-batched-tokens", o.max_batched_tokens, "Token budget of a step; 0: by device")
      ->capture_default_str();
  command.add_option("--max-context", o.max_context, "Longest sequence in tokens; 0: the model's, or what fits")
      ->capture_default_str();
  add_bytes(command, "--kv-memory", o.kv_memory_bytes, "Memory for the KV cache, such as 4GiB");
  command
      .add_option("--memory-fraction", o.memory_fraction, "Of the device's free memory, where --kv-memory is not given")
      ->capture_default_str();
  add_bytes(command, "--swap-memory", o.swap_memory_bytes, "Host memory for swapped blocks (1GiB)");
  command.add_option("--kv-format", o.kv_format, "f16, bf16, f32 or f8 (e4m3: half of f16's memory)")
      ->capture_default_str();
  command.add_flag("!--no-prefix-cache", o.prefix_cache, "Don't reuse the KV of equal prefixes");
  command.add_flag("--invariant", o.invariant, "CUDA: the same tokens whatever else is in the batch");
  command.add_flag("--validate", o.validate, "Vulkan validation layers");
  command.add_flag("--check-weights", o.check_weights, "Read every weight first and refuse a NaN or an infinity");
  command.add_option("--threads", o.num_threads, "Threads of a CPU backend; 0: all cores")->capture_default_str();
  command.add_option("--plugin", o.plugins, "A plugin file to load, besides the search path");
  command.add_option("--cache-dir", o.cache_dir,
                     "For pipelines and tuning; -: keep nothing; default: the user's cache folder");
}

std::function<void(uint64_t, uint64_t)> progress_bar() {
  if (!isatty(STDERR_FILENO)) return {};
  struct State {
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now(), shown{};
  };
  return [state = std::make_shared<State>()](uint64_t done, uint64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (total == 0 || (done < total && now - state->shown < std::chrono::milliseconds(100))) return;
    state->shown = now;
    const double seconds = std::max(1e-6, std::chrono::duration<double>(now - state->start).count());
    constexpr int width = 40;
    const int filled = static_cast<int>(static_cast<double>(done) / static_cast<double>(total) * width);
    std::fprintf(stderr, "\rloading [%.*s%*s] %5.1f %%  %.2f GB/s%s", filled,
                 "########################################", width - filled, "",
                 100.0 * static_cast<double>(done) / static_cast<double>(total),
                 static_cast<double>(done) / seconds / 1e9, done >= total ? "\n" : "");
  };
}

namespace {

std::atomic<int> stop_signals{0};
static_assert(std::atomic<int>::is_always_lock_free);

extern "C" void on_stop_signal(int) {
  if (stop_signals.fetch_add(1) > 0) _exit(130);
}

} // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool stop_requested() { return stop_signals.load() > 0; }

void wait_for_stop() {
  while (!stop_requested()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
}

} // namespace quire::cli
