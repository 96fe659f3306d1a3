// One backend instance with its program and its KV memory, made from data that is kept, so that it can be made again
// after the device was lost.
//
// Construction throws Error ([load]). The step's verbs ([engine]) don't throw: they fill a status. Nothing here is
// locked.
#pragma once

#include "kv/types.hpp"
#include "quire/plugin.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace quire {

class Step;

struct DeviceSetup {
  const quire_backend* backend = nullptr; // of a loaded plugin: lives as long as the process
  std::string backend_name;               // for errors
  uint32_t device = 0;
  bool invariant = false;
  bool validate = false;
  uint32_t num_threads = 0;
  std::string cache_dir;   // empty: none
  quire_program program{}; // outlives the device, and its weights' planes too
  quire_limits limits{};
  std::function<void(uint64_t done_bytes, uint64_t total_bytes)> progress;
};

class Device {
 public:
  // Creates the instance and compiles the program: the long part of loading.
  explicit Device(DeviceSetup setup);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  quire_memory_info memory() const;
  uint64_t block_bytes(uint32_t group) const;
  void create_kv(std::span<const uint32_t> blocks, std::span<const uint32_t> host_blocks); // [groups] each

  // Bytes a second one way, measured by moving a few blocks; 0 where there is no swapping. Before the first step only.
  void measure_swap_rate();
  double swap_rate() const { return swap_rate_; }

  // ---- The step loop: status.code says how it went.
  void transfer(const KvTransfers& transfers, quire_status& status);
  uint64_t submit(const Step& step, quire_status& status);   // forward pass and sampling: the ticket
  void wait(Step& step, bool sampled, quire_status& status); // sampled: submit() succeeded wholly

  // Lets the backend work for about so long at what makes later steps faster; no step may be in flight. Whether
  // something is left to do.
  bool idle(std::chrono::microseconds time, quire_status& status);
  // What the backend has counted, by its own names; empty where it doesn't count.
  std::vector<std::pair<std::string, double>> counters() const;

  // Destroys the instance and makes it anew, weights, KV memory and all. False with a status where that fails; may be
  // tried again.
  bool restart(quire_status& status);
  bool alive() const { return instance_ != nullptr; }

  const DeviceSetup& setup() const { return setup_; }
  uint32_t program() const { return program_; }

 private:
  void make(quire_status& status);
  void make_kv(quire_status& status);
  void unmake();
  void require(const quire_status& status) const;

  DeviceSetup setup_;
  void* instance_ = nullptr;
  uint32_t program_ = 0;
  quire_kv_config kv_{};
  double swap_rate_ = 0;
  bool restarting_ = false; // progress is not shown again
};

} // namespace quire
