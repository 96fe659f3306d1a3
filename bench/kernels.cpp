#include "kernels.hpp"

#include <boost/json.hpp>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <numeric>

#include "attention_program.hpp"
#include "kv/kv_format.hpp"
#include "plugin_host.hpp"
#include "program/builder.hpp"
#include "quire/error.hpp"
#include "quire/plugin_check.hpp"
#include "reference/reference.hpp"
#include "weights/formats.hpp"
#include "weights/model_files.hpp"

namespace quire::bench {
namespace {

void require(const quire_status& status) {
  if (status.code) throw Error(status.message);
}

struct InstanceDeleter {
  const quire_backend* backend;
  void operator()(void* instance) const { backend->destroy(instance); }
};

// The best device: a discrete GPU before an integrated one before a CPU.
uint32_t choose_device(const quire_backend& backend, int32_t wanted, quire_device_info& info) {
  quire_status status{};
  const uint32_t count = backend.device_count(backend.self, &status);
  require(status);
  int64_t best = -1;
  uint32_t best_kind = 0;
  for (uint32_t i = 0; i < count; ++i) {
    quire_device_info candidate{};
    backend.device_info(backend.self, i, &candidate, &status);
    require(status);
    if ((wanted >= 0 && i != static_cast<uint32_t>(wanted)) || !candidate.usable ||
        (best >= 0 && candidate.kind <= best_kind))
      continue;
    best = i;
    best_kind = candidate.kind;
    info = candidate;
  }
  if (best < 0)
    throw Error("the backend has no usable device" + (wanted >= 0 ? " " + std::to_string(wanted) : std::string()) +
                ": see `quire devices`");
  return static_cast<uint32_t>(best);
}

// A step of `sequences` equal sequences, each with `tokens` new ones at the end of `length`.
struct StepData {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> query_start, seq_len, table_start, table, rows;
  std::vector<const uint32_t*> tables;
  quire_step step{};

  StepData(uint32_t program, uint32_t groups, uint32_t sequences, uint32_t new_tokens, uint32_t length,
           uint32_t block_size, uint32_t vocab) {
    const uint32_t blocks = (length + block_size - 1) / block_size;
    for (uint32_t s = 0; s <= sequences; ++s) {
      query_start.push_back(s * new_tokens);
      table_start.push_back(s * blocks);
    }
    for (uint32_t s = 0; s < sequences; ++s) {
      seq_len.push_back(length);
      rows.push_back((s + 1) * new_tokens - 1);
    }
    tokens.resize(static_cast<size_t>(sequences) * new_tokens);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>((i * 7919 + 13) % vocab);
    table.resize(static_cast<size_t>(sequences) * blocks);
    // Block ids scattered over the pool, as after hours of serving: a multiplication by an odd number modulo a power of
    // two visits each id once.
    uint32_t range = 1;
    while (range < table.size()) range *= 2;
    size_t out = 0;
    for (uint32_t i = 0; i < range; ++i)
      if (const uint32_t id = (i * 2654435761u) & (range - 1); id < table.size()) table[out++] = id;
    tables.assign(groups, table.data());
    step.struct_size = sizeof step;
    step.program = program;
    step.num_tokens = static_cast<uint32_t>(tokens.size());
    step.num_sequences = sequences;
    step.num_rows = static_cast<uint32_t>(rows.size());
    step.tokens = tokens.data();
    step.query_start = query_start.data();
    step.seq_len = seq_len.data();
    step.table_start = table_start.data();
    step.tables = tables.data();
    step.rows = rows.data();
  }
  StepData(const StepData&) = delete;
  StepData& operator=(const StepData&) = delete;
};

// «576→1536 Q4_1», «9x64 over 3x64»: what tells one launch of an op from another.
std::string shape_of(const quire_program& program, uint32_t op_index) {
  const quire_op& op = program.ops[op_index];
  const auto value = [&](uint32_t id) -> const quire_value& { return program.values[id - 1]; };
  if (op.kind == QUIRE_OP_LINEAR) {
    std::string formats;
    for (uint32_t id : op.u.linear.weights) {
      if (!id) continue;
      const std::string name = format_info(program.weights[id - 1].format).name;
      if (formats.find(name) == std::string::npos) formats += " " + name;
    }
    return std::to_string(value(op.in[0]).heads * value(op.in[0]).dim) + "->" +
           std::to_string(value(op.out[0]).heads * value(op.out[0]).dim) + formats;
  }
  if (op.kind == QUIRE_OP_ATTEND) {
    const quire_kv_layer& kv = program.kv_layers[op.u.attend.kv_layer];
    return std::to_string(value(op.in[0]).heads) + "x" + std::to_string(value(op.in[0]).dim) + " over " +
           std::to_string(kv.kv_heads) + "x" + std::to_string(kv.k_dim);
  }
  const uint32_t id = op.out[0] ? op.out[0] : op.in[0];
  return id ? std::to_string(value(id).heads) + "x" + std::to_string(value(id).dim) : std::string();
}

const char* const op_words[] = {"none", "embed", "norm", "linear",      "rope",  "kv_store",      "attend",
                                "glu",  "add",   "mul",  "gather_rows", "route", "expert_linear", "collective"};

struct Row {
  std::string op, kernel, shape;
  uint32_t launches = 0;
  double seconds = 0;
  uint64_t bytes = 0, flops = 0;
};

boost::json::object profile_step(const quire_backend& backend, void* instance, const quire_program& program,
                                 const quire_step& step, const char* name, uint32_t repetitions, double stream,
                                 double matmul) {
  std::vector<quire_op_time> times(program.num_ops + 64);
  quire_status status{};
  const uint32_t count =
      backend.profile(instance, &step, repetitions, times.data(), static_cast<uint32_t>(times.size()), &status);
  require(status);
  times.resize(std::min<size_t>(count, times.size()));
  std::map<std::string, Row> rows;
  std::vector<std::string> order;
  double total = 0;
  for (const quire_op_time& t : times) {
    if (t.num_fused == 0 && t.op != UINT32_MAX) continue;
    total += t.seconds;
    const std::string op = t.op == UINT32_MAX ? "other" : op_words[program.ops[t.op].kind];
    const std::string shape = t.op == UINT32_MAX ? "" : shape_of(program, t.op);
    const std::string key = op + "|" + shape + "|" + t.kernel;
    if (!rows.contains(key)) order.push_back(key);
    Row& row = rows[key];
    row.op = op, row.shape = shape, row.kernel = t.kernel;
    ++row.launches;
    row.seconds += t.seconds;
    row.bytes += t.bytes;
    row.flops += t.flops;
  }
  boost::json::array kernels;
  for (const std::string& key : order) {
    const Row& r = rows[key];
    const double gbs = r.seconds > 0 ? static_cast<double>(r.bytes) / r.seconds : 0,
                 flops = r.seconds > 0 ? static_cast<double>(r.flops) / r.seconds : 0;
    boost::json::object k{{"op", r.op},           {"shape", r.shape}, {"kernel", r.kernel}, {"launches", r.launches},
                          {"seconds", r.seconds}, {"bytes", r.bytes}, {"flops", r.flops},   {"bytes_per_s", gbs},
                          {"flops_per_s", flops}};
    if (stream > 0) k["share_of_streaming"] = gbs / stream;
    if (matmul > 0) k["share_of_matmul"] = flops / matmul;
    kernels.push_back(std::move(k));
  }
  return {{"step", name},
          {"tokens", step.num_tokens},
          {"sequences", step.num_sequences},
          {"context", step.seq_len[0]},
          {"seconds", total},
          {"kernels", std::move(kernels)}};
}

uint32_t kv_format_of(const std::string& word) { return parse_kv_format(word, "--kv-format"); }

// The plugins, and one instance of the backend that was asked for.
struct Opened {
  PluginHost host;
  const quire_backend* backend = nullptr;
  quire_device_info info{};
  std::unique_ptr<void, InstanceDeleter> instance;

  explicit Opened(const KernelOptions& o) {
    host.add_builtin(reference_plugin());
    PluginSearch search;
    search.paths.assign(o.plugins.begin(), o.plugins.end());
    host.load(search);
    backend = &host.backend(o.backend).backend;
    if (!backend->profile) throw Error("the backend `" + o.backend + "` can't time its launches");
    renew(o);
  }
  // An instance without programs.
  void renew(const KernelOptions& o) {
    quire_create_options create{};
    create.struct_size = sizeof create;
    create.device = choose_device(*backend, o.device, info);
    create.invariant = o.invariant;
    create.cache_dir = o.cache_dir.empty() ? nullptr : o.cache_dir.c_str();
    quire_status status{};
    instance.reset();
    instance = {backend->create(backend->self, &create, &status), InstanceDeleter{backend}};
    require(status);
  }
};

struct Ceilings {
  double stream = 0, matmul = 0;
};
Ceilings measure_ceilings(const Opened& opened) {
  Ceilings c;
  quire_status status{};
  if (opened.backend->ceilings) {
    opened.backend->ceilings(opened.instance.get(), &c.stream, &c.matmul, &status);
    require(status);
  }
  return c;
}

boost::json::object result_of(const KernelOptions& o, const Opened& opened, const std::string& model,
                              const Ceilings& ceilings, boost::json::array steps) {
  return {{"backend", o.backend},
          {"device", opened.info.name},
          {"driver", opened.info.driver},
          {"model", model},
          {"tuned", o.tune},
          {"ceilings", {{"streaming_bytes_per_s", ceilings.stream}, {"matmul_flops_per_s", ceilings.matmul}}},
          {"steps", std::move(steps)}};
}

// One step of sequences of a length, over layers enough that their KV passes any L2 before a layer is read again.
boost::json::object attention_step(Opened& opened, const KernelOptions& o, const Ceilings& ceilings, uint32_t sequences,
                                   uint32_t length, bool prefill) {
  constexpr uint64_t kColdBytes = 240'000'000;
  constexpr uint32_t kChunk = 8192;
  const AttentionShape shape{o.heads, o.kv_heads, o.head_dim};
  const uint32_t format = kv_format_of(o.kv_format);
  const uint64_t layer_bytes = uint64_t{2} * sequences * length * o.kv_heads * o.head_dim * kv_element_bytes(format);
  const auto layers = static_cast<uint32_t>(std::clamp<uint64_t>(kColdBytes / layer_bytes + 1, 2, 96));
  opened.renew(o);
  const quire_backend& backend = *opened.backend;
  void* const instance = opened.instance.get();
  quire_status status{};
  const AttentionProgram built(shape, layers, length);
  const quire_program program = built.view();
  quire_limits limits{};
  limits.struct_size = sizeof limits;
  limits.max_tokens = prefill ? length : std::max(std::min(length, kChunk), sequences);
  limits.max_sequences = limits.max_rows = sequences;
  limits.max_context = length;
  limits.block_size = o.block_size;
  limits.kv_format = format;
  const uint32_t id = backend.compile(instance, &program, &limits, &status);
  require(status);
  const StepData all(id, 1, sequences, prefill ? length : 1, length, o.block_size, program.vocab_size);
  quire_kv_config kv{};
  kv.struct_size = sizeof kv;
  kv.program = id;
  kv.num_blocks[0] = static_cast<uint32_t>(all.table.size());
  backend.kv_create(instance, &kv, &status);
  require(status);
  // The cache that is read is one that was written.
  const uint32_t blocks = (length + o.block_size - 1) / o.block_size;
  for (uint32_t s = 0; s < sequences && !prefill; ++s)
    for (uint32_t done = 0; done < length; done += kChunk) {
      const uint32_t end = std::min(length, done + kChunk), count = end - done;
      std::vector<int32_t> tokens(count);
      for (uint32_t i = 0; i < count; ++i)
        tokens[i] = static_cast<int32_t>((uint64_t{done + i} * 7919 + s * 31) % program.vocab_size);
      const uint32_t query_start[] = {0, count}, table_start[] = {0, blocks};
      const uint32_t* const table = all.table.data() + size_t{s} * blocks;
      quire_step step{};
      step.struct_size = sizeof step;
      step.program = id;
      step.num_tokens = count, step.num_sequences = 1;
      step.tokens = tokens.data();
      step.query_start = query_start, step.seq_len = &end;
      step.table_start = table_start, step.tables = &table;
      const uint64_t ticket = backend.submit(instance, &step, &status);
      require(status);
      backend.wait(instance, ticket, nullptr, 0, &status);
      require(status);
    }
  boost::json::object result = profile_step(backend, instance, program, all.step, prefill ? "prefill" : "decode",
                                            o.repetitions, ceilings.stream, ceilings.matmul);
  auto& kernels = result.at("kernels").as_array();
  boost::json::array attends;
  for (const auto& kernel : kernels)
    if (kernel.at("op").as_string() == "attend") attends.push_back(kernel);
  kernels = std::move(attends);
  return result;
}

} // namespace

boost::json::object bench_attention(const KernelOptions& o) {
  if (o.kv_heads == 0 || o.head_dim == 0 || o.heads == 0 || o.heads % o.kv_heads != 0)
    throw Error("--heads must be a multiple of --kv-heads, and none of them 0");
  Opened opened(o);
  const Ceilings ceilings = measure_ceilings(opened);
  boost::json::array steps;
  constexpr uint64_t kSomeBytes = 64 << 20; // of KV a layer
  const uint64_t position_bytes = uint64_t{2} * o.kv_heads * o.head_dim * kv_element_bytes(kv_format_of(o.kv_format));
  const auto some = static_cast<uint32_t>(std::max<uint64_t>(kSomeBytes / (position_bytes * 1024), 1));
  const uint32_t shapes[][2] = {{64, 4096}, {1, 32768}, {some, 1024}, {1, 1024}, {64, 128}};
  for (const auto& [sequences, length] : shapes)
    steps.push_back(attention_step(opened, o, ceilings, sequences, length, false));
  if (o.prefill > 0) steps.push_back(attention_step(opened, o, ceilings, 1, o.prefill, true));
  return result_of(o, opened, "attention", ceilings, std::move(steps));
}

boost::json::object bench_kernels(const KernelOptions& o) {
  Opened opened(o);
  const quire_backend& backend = *opened.backend;
  void* const instance = opened.instance.get();
  quire_status status{};

  const std::shared_ptr<ModelFiles> files = ModelFiles::open(o.model, parse_load_format(o.load_format));
  const Plugin& model = opened.host.model(files->architecture());
  const Program built = build_program(model.model, model.id, program_source(files));
  const quire_program program = built.view();
  quire_limits limits{};
  limits.struct_size = sizeof limits;
  limits.max_tokens = std::max(o.batch, o.prefill);
  limits.max_sequences = limits.max_rows = std::max(o.batch, 1u);
  limits.max_context = std::max(o.context, o.prefill);
  limits.block_size = o.block_size;
  limits.kv_format = kv_format_of(o.kv_format);
  const uint32_t id = backend.compile(instance, &program, &limits, &status);
  require(status);
  const StepData decode(id, program.num_kv_groups, o.batch, 1, o.context, o.block_size, program.vocab_size);
  const StepData prefill(id, program.num_kv_groups, 1, std::max(o.prefill, 1u), std::max(o.prefill, 1u), o.block_size,
                         program.vocab_size);
  quire_kv_config kv{};
  kv.struct_size = sizeof kv;
  kv.program = id;
  for (uint32_t g = 0; g < program.num_kv_groups; ++g)
    kv.num_blocks[g] = static_cast<uint32_t>(std::max(decode.table.size(), prefill.table.size()));
  backend.kv_create(instance, &kv, &status);
  require(status);

  constexpr uint32_t kSliceUs = 100'000;
  while (o.tune && backend.idle != nullptr && backend.idle(instance, kSliceUs, &status) != 0) require(status);
  require(status);
  const Ceilings ceilings = measure_ceilings(opened);
  boost::json::array steps;
  if (o.prefill > 0) // first: it fills the cache that decoding reads
    steps.push_back(profile_step(backend, instance, program, prefill.step, "prefill", o.repetitions, ceilings.stream,
                                 ceilings.matmul));
  if (o.batch > 0)
    steps.push_back(profile_step(backend, instance, program, decode.step, "decode", o.repetitions, ceilings.stream,
                                 ceilings.matmul));
  return result_of(o, opened, files->name(), ceilings, std::move(steps));
}

void write_dummy(const std::string& configuration, const std::string& load_format, const std::string& folder,
                 const std::function<void(uint64_t, uint64_t)>& progress) {
  const LoadOptions load = parse_load_format(load_format);
  if (!load.dummy) throw Error("--load-format " + load_format + ": write-dummy takes dummy or dummy:FORMAT");
  PluginHost host;
  host.load({});
  const std::shared_ptr<ModelFiles> files = ModelFiles::open(configuration, load);
  const Plugin& model = host.model(files->architecture());
  const Program program = build_program(model.model, model.id, program_source(files)); // asks for every weight
  files->write_dummy(folder, 5ull << 30, progress);
}

std::string kernel_table(const boost::json::object& result) {
  std::string out;
  char line[256];
  const auto number = [](const boost::json::value& v) { return v.to_number<double>(); };
  const auto& ceilings = result.at("ceilings").as_object();
  std::snprintf(line, sizeof line, "%s on %s (%s), %s\n", result.at("backend").as_string().c_str(),
                result.at("device").as_string().c_str(), result.at("driver").as_string().c_str(),
                result.at("model").as_string().c_str());
  out += line;
  std::snprintf(line, sizeof line, "ceilings: reads %.1f GB/s, multiplies %.2f TFLOP/s\n",
                number(ceilings.at("streaming_bytes_per_s")) * 1e-9, number(ceilings.at("matmul_flops_per_s")) * 1e-12);
  out += line;
  for (const auto& s : result.at("steps").as_array()) {
    std::snprintf(line, sizeof line,
                  "\n%s: %lld tokens of %lld sequences at %lld: %.3f ms\n%-14s %-26s %-34s %8s %10s %9s %9s %6s %6s\n",
                  s.at("step").as_string().c_str(), static_cast<long long>(s.at("tokens").to_number<int64_t>()),
                  static_cast<long long>(s.at("sequences").to_number<int64_t>()),
                  static_cast<long long>(s.at("context").to_number<int64_t>()), number(s.at("seconds")) * 1e3, "op",
                  "shape", "kernel", "launches", "us each", "GB/s", "TFLOP/s", "mem %", "mul %");
    out += line;
    for (const auto& k : s.at("kernels").as_array()) {
      const auto& o = k.as_object();
      std::snprintf(line, sizeof line, "%-14s %-26s %-34s %8lld %10.2f %9.1f %9.3f %6.1f %6.1f\n",
                    o.at("op").as_string().c_str(), o.at("shape").as_string().c_str(),
                    o.at("kernel").as_string().c_str(), static_cast<long long>(o.at("launches").to_number<int64_t>()),
                    number(o.at("seconds")) * 1e6 / number(o.at("launches")), number(o.at("bytes_per_s")) * 1e-9,
                    number(o.at("flops_per_s")) * 1e-12,
                    o.contains("share_of_streaming") ? number(o.at("share_of_streaming")) * 100 : 0.0,
                    o.contains("share_of_matmul") ? number(o.at("share_of_matmul")) * 100 : 0.0);
      out += line;
    }
  }
  return out;
}

} // namespace quire::bench
