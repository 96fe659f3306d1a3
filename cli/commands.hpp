// The subcommands of `quire`, one file each. add_* declares the options on the app; the callback that it returns runs
// the command and gives the exit code. Errors are thrown as quire::Error and printed by main as one sentence.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace quire {
struct EngineOptions;
}

namespace quire::cli {

using Command = std::function<int()>;

Command add_run(CLI::App& app);
Command add_serve(CLI::App& app);
Command add_chat(CLI::App& app);
Command add_devices(CLI::App& app);
Command add_plugins(CLI::App& app);
Command add_bench(CLI::App& app);

// What `run`, `serve` and `bench` share: the model, the device and the memory.
void add_engine_options(CLI::App& command, EngineOptions& options);

// "4GiB", "512MiB", "1000000" → bytes; throws Error that names the option.
uint64_t parse_bytes(const std::string& text, const std::string& option);

// A progress bar with GB/s on standard error, for EngineOptions::progress; silent where standard error is no terminal.
std::function<void(uint64_t done, uint64_t total)> progress_bar();

// Set by SIGINT or SIGTERM once install_stop_signals() was called; a second signal ends the process at once.
void install_stop_signals();
bool stop_requested();
// Waits until a stop is asked for.
void wait_for_stop();

} // namespace quire::cli
