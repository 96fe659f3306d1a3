// `quire`: run, serve, chat, bench, devices, plugins.
#include <CLI/CLI.hpp>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <exception>

#include "commands.hpp"

int main(int argc, char** argv) {
  using namespace quire::cli;
  spdlog::set_default_logger(spdlog::stderr_color_mt("quire")); // standard output belongs to the model's text
  spdlog::set_pattern("%H:%M:%S.%e %^%l%$ %v");

  CLI::App app{
      "Quire, an LLM serving engine: paged KV, continuous batching, CUDA and Vulkan backends, WebSocket streaming."};
  app.set_version_flag("--version", QUIRE_VERSION);
  app.require_subcommand(1);
  bool verbose = false, quiet = false;
  app.add_flag("-v,--verbose", verbose, "Log details too");
  app.add_flag("-q,--quiet", quiet, "Log warnings and errors only");

  std::vector<std::pair<CLI::App*, Command>> commands;
  const auto declare = [&](const char* name, const char* help, Command (*add)(CLI::App&)) {
    CLI::App* sub = app.add_subcommand(name, help);
    sub->fallthrough();
    commands.emplace_back(sub, add(*sub));
  };
  declare("run", "Answer one prompt on standard output", add_run);
  declare("serve", "Serve the model over WebSocket", add_serve);
  declare("chat", "Talk to a server over WebSocket", add_chat);
  declare("bench", "Measure kernels, latency, throughput, memory and the scheduler", add_bench);
  declare("devices", "List what each backend can run on", add_devices);
  declare("plugins", "List the plugins, or probe one", add_plugins);
  CLI11_PARSE(app, argc, argv);
  spdlog::set_level(verbose ? spdlog::level::debug : quiet ? spdlog::level::warn : spdlog::level::info);

  try {
    for (const auto& [sub, command] : commands)
      if (sub->parsed()) return command();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "quire: %s\n", e.what());
  }
  return 1;
}
