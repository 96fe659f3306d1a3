// An EngineCore over a real backend and a small model from a folder, without the front's choices: for tests that force
// preemption, chunks and sharing.
#pragma once

#include "core.hpp"
#include "plugin_host.hpp"
#include "program/builder.hpp"
#include "support/backend_session.hpp"
#include "support/core_fixture.hpp"
#include "weights/model_files.hpp"

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

namespace quire::test {

// A model and the backend that runs it; several engines are made on it one after another.
class ModelOn {
 public:
  // Throws Error; available() is false, with the reason, where the backend isn't there.
  ModelOn(const std::string& backend, const std::filesystem::path& model, const std::string& plugin = "",
          const LoadOptions& load = {})
      : backend_(backend) {
    datum_ = tests::find_backend(backend, plugin, &why_);
    if (!datum_) return;
    const auto* table = static_cast<const quire_backend*>(datum_->table);
    quire_status status{};
    if (table->device_count(table->self, &status) == 0) {
      why_ = backend + " has no device";
      datum_ = nullptr;
      return;
    }
    PluginSearch search;
    if (const char* build = std::getenv("QUIRE_BUILD"))
      search.paths.push_back(std::filesystem::path(build) / "plugins");
    plugins_.load(search);
    files_ = ModelFiles::open(model, load);
    const Plugin& family = plugins_.model(files_->architecture());
    program_ = build_program(family.model, family.id, program_source(files_));
  }
  bool available() const { return datum_ != nullptr; }
  const std::string& why() const { return why_; }
  uint32_t vocab_size() const { return program_.vocab_size; }

  std::unique_ptr<EngineCore> engine(const FixtureOptions& o) const {
    DeviceSetup setup;
    setup.backend = static_cast<const quire_backend*>(datum_->table);
    setup.backend_name = backend_;
    setup.program = program_.view();
    setup.invariant = true;
    setup.limits.struct_size = sizeof(quire_limits);
    setup.limits.max_tokens = o.max_batched_tokens;
    setup.limits.max_sequences = setup.limits.max_rows = o.max_sequences;
    setup.limits.max_context = o.max_context;
    setup.limits.block_size = o.block_size;
    setup.limits.kv_format = backend_ == "reference" ? QUIRE_F32 : QUIRE_F16;
    auto device = std::make_unique<Device>(std::move(setup));
    const std::vector<uint32_t> blocks(program_.kv_groups.size(), o.blocks),
        host(program_.kv_groups.size(), o.host_blocks);
    device->create_kv(blocks, host);
    CoreOptions c;
    c.limits = {program_.vocab_size, o.max_context, o.max_sequences};
    c.scheduler.max_sequences = o.max_sequences;
    c.scheduler.max_batched_tokens = o.max_batched_tokens;
    c.scheduler.max_chunk = o.max_chunk;
    c.scheduler.vocab_size = program_.vocab_size;
    c.scheduler.program = device->program();
    c.scheduler.preemption = o.preemption;
    c.kv.block_size = o.block_size;
    for (size_t g = 0; g < program_.kv_groups.size(); ++g) {
      c.kv.groups.push_back({o.blocks, o.host_blocks, program_.kv_groups[g].window});
      c.scheduler.block_bytes += device->block_bytes(static_cast<uint32_t>(g));
    }
    c.kv.prefix_cache = o.prefix_cache;
    c.kv.max_step_tokens = o.max_batched_tokens;
    c.end_tokens = o.end_tokens;
    c.before_schedule = o.before_schedule;
    c.seed = 1;
    c.check_every_step = true;
    return std::make_unique<EngineCore>(std::move(c), std::move(device));
  }

 private:
  std::string backend_, why_;
  const quire_plugin* datum_ = nullptr;
  PluginHost plugins_;
  std::shared_ptr<ModelFiles> files_;
  Program program_;
};

inline std::shared_ptr<Collector> send(EngineCore& core, Request request) {
  auto sink = std::make_shared<Collector>();
  request.sink = sink;
  core.submit(std::move(request));
  return sink;
}

} // namespace quire::test
