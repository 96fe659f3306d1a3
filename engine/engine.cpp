// Engine: from options to a core that serves. Plugins, device, model, memory plan; then everything is EngineCore's.
#include "quire/engine.hpp"

#include "backend_choice.hpp"
#include "core.hpp"
#include "decode_rate.hpp"
#include "kv/kv_format.hpp"
#include "memory_plan.hpp"
#include "plugin_host.hpp"
#include "program/builder.hpp"
#include "program/print.hpp"
#include "quire/error.hpp"
#include "reference/reference.hpp"
#include "text/chat_template.hpp"
#include "text/gguf_vocabulary.hpp"
#include "text/tokenizer.hpp"
#include "weights/gguf_names.hpp"
#include "weights/mapped_file.hpp"
#include "weights/model_files.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>

namespace quire {
namespace {

using Clock = std::chrono::steady_clock;

// Cheap checks of the options before anything is loaded.
void check_options(const EngineOptions& o) {
  const auto refuse = [](const std::string& sentence) { throw Error(sentence); };
  if (o.model.empty()) refuse("--model is missing: name a GGUF file or a Hugging Face folder");
  if (o.block_size < 8 || o.block_size > 256 || (o.block_size & (o.block_size - 1)))
    refuse("block_size is " + std::to_string(o.block_size) + ": it must be a power of two from 8 to 256");
  if (o.max_sequences < 1 || o.max_sequences > 65536)
    refuse("max_sequences is " + std::to_string(o.max_sequences) + ": it must be from 1 to 65536");
  if (o.max_batched_tokens && (o.max_batched_tokens < o.max_sequences || o.max_batched_tokens > (1u << 20)))
    refuse("max_batched_tokens is " + std::to_string(o.max_batched_tokens) + ": it must be from max_sequences, " +
           std::to_string(o.max_sequences) + ", to 1048576");
  if (!(o.memory_fraction > 0 && o.memory_fraction <= 1))
    refuse("memory_fraction is " + std::to_string(o.memory_fraction) + ": it must be above 0 and at most 1");
}

bool is_static(const std::string& batching) {
  if (batching != "continuous" && batching != "static")
    throw Error("batching is `" + batching + "`: it must be continuous or static");
  return batching == "static";
}

uint32_t kv_format(const std::string& word) { return parse_kv_format(word, "kv_format"); }

PreemptionMode preemption_mode(const std::string& word) {
  if (word == "auto") return PreemptionMode::automatic;
  if (word == "swap") return PreemptionMode::swap;
  if (word == "recompute") return PreemptionMode::recompute;
  throw Error("preemption is `" + word + "`: it must be auto, swap or recompute");
}

std::string cache_folder(const std::string& asked) {
  if (asked == "-") return {};
  std::filesystem::path path = asked;
  if (asked.empty()) {
    const char *xdg = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
    if (xdg && *xdg)
      path = std::filesystem::path(xdg) / "quire";
    else if (home && *home)
      path = std::filesystem::path(home) / ".cache" / "quire";
    else
      return {};
  }
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error) return path.string();
  spdlog::warn("{} can't be made ({}): pipelines are not kept", path.string(), error.message());
  return {};
}

std::shared_ptr<const Tokenizer> load_tokenizer(const ModelFiles& files, uint32_t vocab_size) {
  if (files.tokenizer_json()) return Tokenizer::from_folder(files.tokenizer_json()->parent_path());
  if (files.gguf() && (files.has_tokenizer() || !files.made_up()))
    return Tokenizer::from_gguf(gguf_vocabulary(*files.gguf()), files.gguf()->name());
  if (!files.made_up())
    throw Error(files.name() + ": there is no tokenizer.json: put the model's own beside config.json");
  if (vocab_size < 256)
    throw Error(
        "a dummy model without a tokenizer is given one of bytes, which needs a vocab_size of at least 256, not " +
        std::to_string(vocab_size));
  spdlog::info("dummy model without a tokenizer: token ids 0 to 255 are bytes");
  return Tokenizer::from_bytes(static_cast<int32_t>(vocab_size));
}

std::shared_ptr<const ChatTemplate> load_chat_template(const ModelFiles& files) {
  const std::string* source = files.chat_template();
  if (!source) return nullptr;
  try {
    return std::make_shared<const ChatTemplate>(ChatTemplate::parse(*source, files.name() + " chat_template"));
  } catch (const Error& error) {
    spdlog::warn("the model's chat template can't be used: {}", error.what());
    return nullptr;
  }
}

// How fast a backend brings the weights to the device, by what it reports of its progress.
class LoadRate {
 public:
  void operator()(uint64_t done, uint64_t) {
    const auto now = Clock::now();
    if (reports_++ == 0) first_ = now, first_bytes_ = done;
    last_ = now, last_bytes_ = done;
  }
  double bytes_per_second() const {
    const double seconds = std::chrono::duration<double>(last_ - first_).count();
    return seconds > 0 ? static_cast<double>(last_bytes_ - first_bytes_) / seconds : 0;
  }

 private:
  uint64_t reports_ = 0, first_bytes_ = 0, last_bytes_ = 0;
  Clock::time_point first_, last_;
};

} // namespace

struct Engine::Impl {
  PluginHost plugins;
  std::shared_ptr<ModelFiles> files;
  Program program;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;
  DeviceChoice device_choice;
  ModelInfo info;
  CoreOptions core_options;
  std::unique_ptr<EngineCore> core;

  explicit Impl(const EngineOptions& options);
  void load_plugins(const EngineOptions& options);
  void load_model(const EngineOptions& options);
  std::unique_ptr<Device> open_device(const EngineOptions& options, bool& cpu, quire_limits& limits);
  CoreOptions plan(const EngineOptions& options, Device& device, bool cpu, const quire_limits& limits);
};

void Engine::Impl::load_plugins(const EngineOptions& options) {
  plugins.add_builtin(reference_plugin());
  PluginSearch search;
  search.paths.assign(options.plugins.begin(), options.plugins.end());
  plugins.load(search, [](const std::string& line) { spdlog::warn("{}", line); });
}

void Engine::Impl::load_model(const EngineOptions& options) {
  LoadOptions load = parse_load_format(options.load_format);
  load.dummy_seed = options.seed;
  files = ModelFiles::open(options.model, load);
  const Plugin& model = plugins.model(files->architecture());
  program = build_program(model.model, model.id, program_source(files, options.max_context));
  tokenizer = load_tokenizer(*files, program.vocab_size);
  if (static_cast<uint32_t>(tokenizer->vocab_size()) > program.vocab_size)
    throw Error((files->tokenizer_json() ? files->tokenizer_json()->string()
                 : files->gguf()         ? files->gguf()->name()
                                         : files->name()) +
                ": the tokenizer has " + std::to_string(tokenizer->vocab_size()) +
                " tokens and the model's embedding " + std::to_string(program.vocab_size) +
                " rows: they don't belong together; take both from the same checkpoint");
  chat_template = load_chat_template(*files);

  info.name = files->name();
  info.architecture = files->architecture();
  info.source = options.model;
  info.vocab_size = program.vocab_size;
  info.num_layers = static_cast<uint32_t>(program.kv_layers.size());
  for (const quire_weight& w : program.weights) info.parameters += std::max<uint64_t>(w.experts, 1) * w.rows * w.cols;
  std::vector<int32_t> ends(tokenizer->end_ids().begin(), tokenizer->end_ids().end());
  const auto& defaults = files->generation_defaults().eos_token_ids;
  ends.insert(ends.end(), defaults.begin(), defaults.end());
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  info.end_tokens = std::move(ends);
}

std::unique_ptr<Device> Engine::Impl::open_device(const EngineOptions& options, bool& cpu, quire_limits& limits) {
  const auto rate = [&](const BackendCandidate& c) {
    return measure_decode_rate(c.plugin->backend, program.view(),
                               {c.device, options.num_threads, cache_folder(options.cache_dir)});
  };
  const std::vector<BackendCandidate> candidates = choose_backends(plugins, options.backend, options.device, rate);
  for (size_t i = 0; i < candidates.size(); ++i) {
    const BackendCandidate& c = candidates[i];
    cpu = c.info.kind == QUIRE_DEVICE_CPU;
    DeviceSetup setup;
    setup.backend = &c.plugin->backend;
    setup.backend_name = c.plugin->id;
    setup.device = c.device;
    setup.invariant = options.invariant;
    setup.validate = options.validate;
    setup.num_threads = options.num_threads;
    setup.cache_dir = cache_folder(options.cache_dir);
    setup.program = program.view();
    const auto loading = std::make_shared<LoadRate>();
    setup.progress = [loading, shown = options.progress](uint64_t done, uint64_t total) {
      (*loading)(done, total);
      if (shown) shown(done, total);
    };
    limits = {};
    limits.struct_size = sizeof limits;
    limits.max_sequences = limits.max_rows = options.max_sequences;
    const uint32_t budget = cpu ? 64 : c.info.kind == QUIRE_DEVICE_INTEGRATED ? 512 : 2048;
    limits.max_tokens =
        options.max_batched_tokens ? options.max_batched_tokens : std::max(budget, options.max_sequences);
    limits.max_context = options.max_context ? options.max_context : program.max_context;
    limits.block_size = options.block_size;
    limits.kv_format = kv_format(options.kv_format);
    setup.limits = limits;
    spdlog::info("device: {} ({}), {}", c.choice.device, c.choice.backend, c.choice.why);
    try {
      auto device = std::make_unique<Device>(std::move(setup));
      device_choice = c.choice;
      info.weights_bytes_per_second = loading->bytes_per_second();
      return device;
    } catch (const Error& error) {
      if (i + 1 == candidates.size()) throw;
      spdlog::warn("{}: trying the next device", error.what());
    }
  }
  throw Error("no device can be used");
}

CoreOptions Engine::Impl::plan(const EngineOptions& options, Device& device, bool cpu, const quire_limits& limits) {
  const quire_memory_info memory = device.memory();
  MemoryNeeds needs;
  for (uint32_t g = 0; g < program.kv_groups.size(); ++g) {
    needs.block_bytes.push_back(device.block_bytes(g));
    needs.windows.push_back(program.kv_groups[g].window);
  }
  needs.block_size = options.block_size;
  needs.max_context = limits.max_context;
  needs.context_is_firm = options.max_context != 0;
  needs.max_sequences = options.max_sequences;
  needs.max_step_tokens = limits.max_tokens;
  needs.kv_bytes = kv_budget(options.kv_memory_bytes, options.memory_fraction, memory.free_bytes,
                             memory.weights_bytes + memory.scratch_bytes, cpu);
  needs.swap_bytes = cpu ? std::min(options.swap_memory_bytes, needs.kv_bytes / 4) : options.swap_memory_bytes;
  const MemoryPlan plan = plan_memory(needs);
  device.create_kv(plan.blocks, plan.host_blocks);
  if (options.preemption == "auto") device.measure_swap_rate();

  CoreOptions result;
  result.limits = {program.vocab_size, plan.max_context, options.max_sequences};
  result.scheduler.max_sequences = options.max_sequences;
  result.scheduler.max_batched_tokens = limits.max_tokens;
  result.scheduler.vocab_size = program.vocab_size;
  result.scheduler.program = device.program();
  result.scheduler.preemption = preemption_mode(options.preemption);
  result.scheduler.static_batching = is_static(options.batching);
  for (size_t g = 0; g < plan.blocks.size(); ++g) {
    result.kv.groups.push_back({plan.blocks[g], plan.host_blocks[g], needs.windows[g]});
    result.scheduler.block_bytes += needs.block_bytes[g];
  }
  result.kv.block_size = options.block_size;
  result.kv.prefix_cache = options.prefix_cache;
  result.kv.max_step_tokens = limits.max_tokens;
  result.kv.policy = parse_policy(options.kv_policy);
  result.kv.max_length = plan.max_context;
  result.end_tokens = info.end_tokens;
  result.tokenizer = tokenizer;
  result.find_sampler = [this](const std::string& id) { return &plugins.sampler(id).sampler; };
  result.weights_damaged = [files = files]() -> std::string {
    return files->damaged()
               ? files->name() + " became shorter while it was in use: put the whole file back and start anew"
               : std::string();
  };
  result.seed = options.seed;

  info.weights_bytes = memory.weights_bytes;
  info.scratch_bytes = memory.scratch_bytes;
  info.kv_bytes = plan.kv_bytes;
  info.max_context = plan.max_context;
  info.block_size = options.block_size;
  info.num_blocks = plan.blocks.front();
  if (info.weights_bytes_per_second > 0)
    spdlog::info("weights reached the device at {:.1f} GB/s", info.weights_bytes_per_second * 1e-9);
  spdlog::info("memory: weights {}, KV {} of {} in {} blocks of {} tokens, scratch {}, swap {}",
               bytes_text(info.weights_bytes), bytes_text(plan.kv_bytes), kv_format_name(limits.kv_format),
               info.num_blocks, info.block_size, bytes_text(info.scratch_bytes), bytes_text(plan.swap_bytes));
  spdlog::info("longest context {} tokens, up to {} sequences at a time, {} tokens a step; room for {:.1f} sequences "
               "of full length",
               plan.max_context, options.max_sequences, limits.max_tokens,
               static_cast<double>(info.num_blocks) * info.block_size / plan.max_context);
  return result;
}

Engine::Impl::Impl(const EngineOptions& options) {
  check_options(options);
  kv_format(options.kv_format);
  preemption_mode(options.preemption);
  is_static(options.batching);
  parse_policy(options.kv_policy);
  const auto start = Clock::now();
  load_plugins(options);
  load_model(options);
  if (options.max_context > program.max_context)
    throw Error("max_context is " + std::to_string(options.max_context) + ", and the model was made for " +
                std::to_string(program.max_context) + " tokens: lower --max-context");
  spdlog::info("model: {} ({}), {:.1f} million parameters, {} layers, vocabulary {}{}", info.name, info.architecture,
               static_cast<double>(info.parameters) * 1e-6, info.num_layers, info.vocab_size,
               files->made_up() ? ", dummy weights: its words mean nothing" : "");
  bool cpu = false;
  quire_limits limits{};
  files->start_read_ahead();
  if (options.check_weights)
    for (const TensorEntry& tensor : files->tensors())
      if (tensor.data && tensor.file < files->files().size())
        ModelFiles::check_finite(tensor, files->files()[tensor.file]->file_name());
  std::unique_ptr<Device> device = open_device(options, cpu, limits);
  files->check_unchanged();
  core_options = plan(options, *device, cpu, limits);
  core = std::make_unique<EngineCore>(core_options, std::move(device));
  info.load_seconds = std::chrono::duration<double>(Clock::now() - start).count();
  spdlog::info("ready after {:.2f} s", info.load_seconds);
}

Engine::Engine(const EngineOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Engine::~Engine() = default;

RequestId Engine::submit(Request request) { return impl_->core->submit(std::move(request)); }
void Engine::cancel(RequestId request) { impl_->core->cancel(request); }
void Engine::release(SequenceHandle sequence) { impl_->core->kept().release(sequence); }
SequenceHandle Engine::kept(RequestId request, uint32_t choice) const {
  return impl_->core->kept().of(request, choice);
}
SequenceHandle Engine::fork(SequenceHandle sequence, uint32_t at_token) {
  return impl_->core->kept().fork(sequence, at_token);
}
std::shared_ptr<const std::vector<int32_t>> Engine::tokens_of(SequenceHandle sequence) const {
  return impl_->core->kept().find(sequence);
}
void Engine::reconfigure(const std::string& kv_policy, const std::string& batching) {
  impl_->core_options.kv.policy = parse_policy(kv_policy);
  impl_->core_options.scheduler.static_batching = is_static(batching);
  std::unique_ptr<Device> device = impl_->core->close();
  if (!device->alive()) throw Error("the device was lost: start anew");
  impl_->core = std::make_unique<EngineCore>(impl_->core_options, std::move(device));
}
Stats Engine::stats() const { return impl_->core->stats(); }
std::vector<std::pair<std::string, double>> Engine::backend_counters() const { return impl_->core->backend_counters(); }
const DeviceChoice& Engine::device() const { return impl_->device_choice; }
const ModelInfo& Engine::model() const { return impl_->info; }
std::shared_ptr<const Tokenizer> Engine::tokenizer() const { return impl_->tokenizer; }
std::shared_ptr<const ChatTemplate> Engine::chat_template() const { return impl_->chat_template; }

} // namespace quire
