#include "device.hpp"

#include "quire/error.hpp"
#include "schedule/step.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <vector>

namespace quire {
namespace {

void log_line(void*, int32_t level, const char* message) {
  switch (level) {
  case QUIRE_LOG_DEBUG:
    spdlog::debug("{}", message);
    break;
  case QUIRE_LOG_INFO:
    spdlog::info("{}", message);
    break;
  case QUIRE_LOG_WARNING:
    spdlog::warn("{}", message);
    break;
  default:
    spdlog::error("{}", message);
    break;
  }
}

void show_progress(void* host, uint64_t done, uint64_t total) {
  const auto& progress = *static_cast<const std::function<void(uint64_t, uint64_t)>*>(host);
  if (progress) progress(done, total);
}

} // namespace

Device::Device(DeviceSetup setup) : setup_(std::move(setup)) {
  quire_status status{};
  make(status);
  if (status.code == QUIRE_OK) return;
  unmake();
  require(status);
}

Device::~Device() { unmake(); }

void Device::require(const quire_status& status) const {
  if (status.code != QUIRE_OK) throw Error(setup_.backend_name + ": " + status.message);
}

void Device::make(quire_status& status) {
  quire_create_options options{};
  options.struct_size = sizeof options;
  options.device = setup_.device;
  options.invariant = setup_.invariant;
  options.num_threads = setup_.num_threads;
  options.validate = setup_.validate;
  options.cache_dir = setup_.cache_dir.empty() ? nullptr : setup_.cache_dir.c_str();
  options.host = &setup_.progress;
  options.log = log_line;
  options.progress = restarting_ ? nullptr : show_progress;
  const quire_backend& b = *setup_.backend;
  instance_ = b.create(b.self, &options, &status);
  if (status.code != QUIRE_OK) instance_ = nullptr;
  if (instance_) program_ = b.compile(instance_, &setup_.program, &setup_.limits, &status);
}

void Device::unmake() {
  if (instance_) setup_.backend->destroy(instance_);
  instance_ = nullptr;
}

quire_memory_info Device::memory() const {
  quire_memory_info info{};
  quire_status status{};
  setup_.backend->memory(instance_, &info, &status);
  require(status);
  return info;
}

uint64_t Device::block_bytes(uint32_t group) const {
  quire_status status{};
  const uint64_t bytes = setup_.backend->kv_block_bytes(instance_, program_, group, &status);
  require(status);
  return bytes;
}

void Device::create_kv(std::span<const uint32_t> blocks, std::span<const uint32_t> host_blocks) {
  kv_ = {};
  kv_.struct_size = sizeof kv_;
  std::copy(blocks.begin(), blocks.end(), kv_.num_blocks);
  std::copy(host_blocks.begin(), host_blocks.end(), kv_.host_blocks);
  quire_status status{};
  make_kv(status);
  require(status);
}

void Device::make_kv(quire_status& status) {
  kv_.program = program_;
  setup_.backend->kv_create(instance_, &kv_, &status);
}

bool Device::restart(quire_status& status) {
  unmake();
  restarting_ = true;
  status = {};
  make(status);
  if (status.code == QUIRE_OK) make_kv(status);
  if (status.code == QUIRE_OK) return true;
  unmake();
  return false;
}

void Device::transfer(const KvTransfers& t, quire_status& status) {
  const quire_backend& b = *setup_.backend;
  const auto move = [&](auto verb, const std::vector<quire_block_copy>& list) {
    if (!list.empty() && status.code == QUIRE_OK)
      verb(instance_, list.data(), static_cast<uint32_t>(list.size()), &status);
  };
  move(b.swap_out, t.swap_out);
  move(b.swap_in, t.swap_in);
  move(b.copy_blocks, t.copies);
}

uint64_t Device::submit(const Step& step, quire_status& status) {
  const quire_backend& b = *setup_.backend;
  const uint64_t ticket = b.submit(instance_, &step.view(), &status);
  if (status.code == QUIRE_OK && !step.rows.empty()) b.sample(instance_, ticket, &step.sampling(), &status);
  return ticket;
}

void Device::wait(Step& step, bool sampled, quire_status& status) {
  const std::span<quire_sampled_row> rows = sampled ? step.sampled() : std::span<quire_sampled_row>{};
  setup_.backend->wait(instance_, step.device_ticket, rows.data(), static_cast<uint32_t>(rows.size()), &status);
}

bool Device::idle(std::chrono::microseconds time, quire_status& status) {
  const quire_backend& b = *setup_.backend;
  return b.idle != nullptr && b.idle(instance_, static_cast<uint32_t>(time.count()), &status) != 0;
}

std::vector<std::pair<std::string, double>> Device::counters() const {
  std::vector<quire_counter> counters(64);
  quire_status status{};
  const auto read = [&] {
    return setup_.backend->counters(instance_, counters.data(), static_cast<uint32_t>(counters.size()), &status);
  };
  if (instance_ == nullptr || setup_.backend->counters == nullptr) return {};
  const uint32_t count = read();
  counters.resize(count);
  if (count > 64) read();
  std::vector<std::pair<std::string, double>> result;
  for (const quire_counter& c : counters) result.emplace_back(c.name, c.value);
  return result;
}

void Device::measure_swap_rate() {
  using Clock = std::chrono::steady_clock;
  const quire_backend& b = *setup_.backend;
  if (!b.swap_out || !b.swap_in) return;
  const auto groups = static_cast<uint32_t>(setup_.program.num_kv_groups);
  uint32_t count = 8;
  for (uint32_t g = 0; g < groups; ++g) count = std::min({count, kv_.num_blocks[g], kv_.host_blocks[g]});
  if (count == 0) return;
  std::vector<quire_block_copy> moves;
  uint64_t bytes = 0;
  for (uint32_t g = 0; g < groups; ++g) {
    for (uint32_t i = 0; i < count; ++i) moves.push_back({g, i, i});
    bytes += count * block_bytes(g);
  }

  // A step of one token in block 0 is the only thing that can be waited for; the blocks hold nothing yet.
  const int32_t token = 0;
  const uint32_t query_start[2] = {0, 1}, seq_len = 1, table_start[2] = {0, 1}, block = 0;
  const std::vector<const uint32_t*> tables(groups, &block);
  quire_step step{};
  step.struct_size = sizeof step;
  step.program = program_;
  step.num_tokens = step.num_sequences = 1;
  step.tokens = &token;
  step.query_start = query_start;
  step.seq_len = &seq_len;
  step.table_start = table_start;
  step.tables = tables.data();
  double seconds[2] = {std::numeric_limits<double>::max(),
                       std::numeric_limits<double>::max()}; // without and with the moves
  for (int repetition = 0; repetition < 2; ++repetition)
    for (int with = 0; with < 2; ++with) {
      quire_status status{};
      const auto start = Clock::now();
      if (with) b.swap_out(instance_, moves.data(), static_cast<uint32_t>(moves.size()), &status);
      if (with && status.code == QUIRE_OK)
        b.swap_in(instance_, moves.data(), static_cast<uint32_t>(moves.size()), &status);
      uint64_t ticket = 0;
      if (status.code == QUIRE_OK) ticket = b.submit(instance_, &step, &status);
      if (status.code == QUIRE_OK) b.wait(instance_, ticket, nullptr, 0, &status);
      require(status);
      seconds[with] = std::min(seconds[with], std::chrono::duration<double>(Clock::now() - start).count());
    }
  const double moved = std::max(seconds[1] - seconds[0], 1e-6);
  swap_rate_ = 2.0 * static_cast<double>(bytes) / moved;
}

} // namespace quire
