// Exercises one plugin in a child process, so that one that crashes or hangs takes nothing with it.
//
// The child loads the file as the host does and calls what can be called without a real model: a backend lists its
// devices, and makes and destroys an instance on the first usable one; a model builds from a tiny made-up
// configuration; a sampler draws from made-up logits, forks and closes. The parent waits at most `timeout`, then stops
// it. Errors: none but a failed fork (quire::Error); the result says. Threads: fork() copies the calling thread alone,
// so call it before others are started, as `quire plugins --probe` does.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

namespace quire {

struct ProbeResult {
  bool ok = false;
  std::string report; // one line a finding; the last one says «FILE: works» or what went wrong and in which call
};

ProbeResult probe_plugin(const std::filesystem::path& file,
                         std::chrono::milliseconds timeout = std::chrono::seconds(30));

} // namespace quire
