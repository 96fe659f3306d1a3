// A backend as tests use it: through its ABI table only.
//
// Errors: BackendError carries the status of a failed verb. Threads: one.
#pragma once

#include "quire/plugin.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace quire::tests {

class BackendError : public std::runtime_error {
 public:
  BackendError(const char* verb, const quire_status& status)
      : std::runtime_error(std::string(verb) + ": " + status.message), code(status.code) {}
  int32_t code;
};

// «reference» is linked in; any other is loaded from the path, or from where QUIRE_PLUGIN_PATH, the build tree or the
// bundle has it. nullptr, with the reason in *why, where there is none that fits; *absent: none was found at all.
// Loaded libraries stay for the life of the process.
const quire_plugin* find_backend(const std::string& name, const std::string& path, std::string* why,
                                 bool* absent = nullptr);

// An instance with RAII and exceptions.
class BackendSession {
 public:
  struct Options {
    uint32_t device = 0;
    uint32_t invariant = 1;
    uint32_t num_threads = 0;
    uint32_t validate = 0;
    std::string cache_dir;
    // Called with each warning and error that the backend logs (validation layers report so), on any thread and to the
    // end of the instance.
    std::function<void(const std::string&)> complaint;
  };
  BackendSession(const quire_plugin& plugin, const Options& options);
  ~BackendSession();
  BackendSession(const BackendSession&) = delete;
  BackendSession& operator=(const BackendSession&) = delete;

  const quire_backend& table() const { return table_; }
  void* instance() const { return instance_; }

  quire_memory_info memory();
  uint32_t compile(const quire_program& program, const quire_limits& limits);
  uint64_t kv_block_bytes(uint32_t program, uint32_t group);
  void kv_create(const quire_kv_config& config);
  uint64_t submit(const quire_step& step);
  void sample(uint64_t ticket, const std::vector<quire_sampling_row>& rows);
  void wait(uint64_t ticket, std::span<quire_sampled_row> rows);
  void copy_blocks(const std::vector<quire_block_copy>& copies);
  void swap_out(const std::vector<quire_block_copy>& copies);
  void swap_in(const std::vector<quire_block_copy>& copies);
  // Whether something is left to do in idle time; false where the backend has no use for it.
  bool idle(uint32_t microseconds);
  // count elements of 4 bytes into out.
  void read_output(uint32_t program, uint32_t index, void* out, uint64_t count);

 private:
  const quire_backend& table_;
  void* instance_ = nullptr;
  std::function<void(const std::string&)> complaint_;
};

} // namespace quire::tests
