// `quire bench`: what bench/ measures, as a table or as JSON.
#include <CLI/CLI.hpp>

#include <boost/json.hpp>

#include <cstdio>
#include <string>

#include "bench/kernels.hpp"
#include "bench/latency.hpp"
#include "bench/memory.hpp"
#include "bench/scheduler.hpp"
#include "bench/sweep.hpp"
#include "commands.hpp"
#include "quire/engine.hpp"
#include "quire/error.hpp"
#include "weights/model_files.hpp"

namespace quire::cli {
namespace {

void print(const boost::json::object& result, bool as_json) {
  if (as_json) {
    std::printf("%s\n", boost::json::serialize(result).c_str());
    return;
  }
  for (const auto& [key, value] : result)
    std::printf("%-32s %s\n", std::string(key).c_str(),
                value.is_double() ? boost::json::serialize(boost::json::value(value)).c_str()
                                  : boost::json::serialize(value).c_str());
}

boost::json::object described(const Engine& engine, const std::string& tuning, boost::json::object result) {
  result["tuning"] = tuning;
  result["model"] = engine.model().name;
  result["backend"] = engine.device().backend;
  result["device"] = engine.device().device;
  result["ready_s"] = engine.model().load_seconds;
  result["weights_bytes_per_s"] = engine.model().weights_bytes_per_second;
  return result;
}

struct BenchOptions {
  EngineOptions engine;
  bool json = false;
  bool tune = true;

  void add_to(CLI::App& app) {
    app.add_flag("!--no-tune", tune, "Measure at once, before the backend has timed its kernels in idle time");
    app.add_flag("--json", json, "As JSON");
  }
  // Of an engine that measures next.
  std::string tuning(const Engine& e) const { return tune ? bench::wait_for_tuning(e) : "not waited for"; }
};

Command add_latency(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("latency", "Time to first token, prefill and decode rates of equal batches");
  const auto o = std::make_shared<BenchOptions>();
  const auto l = std::make_shared<bench::LatencyOptions>();
  add_engine_options(*app, o->engine);
  app->add_option("--prompt-tokens", l->prompt_tokens)->capture_default_str();
  app->add_option("--output-tokens", l->output_tokens)->capture_default_str();
  app->add_option("--batch", l->batch)->capture_default_str();
  app->add_option("--repetitions", l->repetitions)->capture_default_str();
  app->add_option("--seed", l->seed)->capture_default_str();
  o->add_to(*app);
  return [app, o, l]() -> int {
    if (!app->parsed()) return -1;
    o->engine.max_sequences = std::max(o->engine.max_sequences, l->batch);
    Engine engine(o->engine);
    const std::string tuning = o->tuning(engine);
    print(described(engine, tuning, bench::bench_latency(engine, *l)), o->json);
    return 0;
  };
}

Command add_prefix(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("prefix", "Time to first token of a request whose prefix is cached");
  const auto o = std::make_shared<BenchOptions>();
  const auto p = std::make_shared<bench::PrefixOptions>();
  add_engine_options(*app, o->engine);
  app->add_option("--prefix-tokens", p->prefix_tokens, "In common")->capture_default_str();
  app->add_option("--tail-tokens", p->tail_tokens, "Of each request's own")->capture_default_str();
  app->add_option("--repetitions", p->repetitions, "Pairs; the best one counts")->capture_default_str();
  app->add_option("--seed", p->seed)->capture_default_str();
  o->add_to(*app);
  return [app, o, p]() -> int {
    if (!app->parsed()) return -1;
    Engine engine(o->engine);
    const std::string tuning = o->tuning(engine);
    print(described(engine, tuning, bench::bench_prefix(engine, *p)), o->json);
    return 0;
  };
}

Command add_throughput(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("throughput", "Output tokens/s of many requests, at once or at a rate");
  const auto o = std::make_shared<BenchOptions>();
  const auto t = std::make_shared<bench::ThroughputOptions>();
  o->engine.max_sequences = 256;
  add_engine_options(*app, o->engine);
  app->add_option("--kv-policy", o->engine.kv_policy, "paged, max, pow2 or oracle (the paper's baselines)")
      ->capture_default_str();
  app->add_option("--batching", o->engine.batching, "continuous or static")->capture_default_str();
  app->add_option("--requests", t->requests)->capture_default_str();
  app->add_option("--min-tokens", t->min_tokens, "Of prompts and outputs, uniform")->capture_default_str();
  app->add_option("--max-tokens", t->max_tokens)->capture_default_str();
  app->add_option("--rate", t->requests_per_second, "Requests/s of a ShareGPT-like trace; 0: all at once")
      ->capture_default_str();
  app->add_option("--seed", t->seed)->capture_default_str();
  o->add_to(*app);
  return [app, o, t]() -> int {
    if (!app->parsed()) return -1;
    Engine engine(o->engine);
    const std::string tuning = o->tuning(engine);
    print(described(engine, tuning, bench::bench_throughput(engine, *t)), o->json);
    return 0;
  };
}

Command add_sweep(CLI::App& parent) {
  CLI::App* app =
      parent.add_subcommand("sweep", "Allocation policies at rising request rates: latency and what each sustains");
  const auto o = std::make_shared<BenchOptions>();
  const auto s = std::make_shared<bench::SweepOptions>();
  o->engine.max_sequences = 256;
  add_engine_options(*app, o->engine);
  app->add_option("--policies", s->policies, "paged, max, pow2, oracle, static")->delimiter(',')->capture_default_str();
  app->add_option("--rates", s->rates, "Requests/s, rising")->delimiter(',')->capture_default_str();
  app->add_option("--seconds", s->seconds, "Of arrivals a rate")->capture_default_str();
  app->add_option("--latency-limit", s->latency_limit,
                  "Seconds a token that a sustained rate stays below; 0: 3 times the least")
      ->capture_default_str();
  app->add_option("--max-total-tokens", s->max_total_tokens, "Prompt and output of a request")->capture_default_str();
  app->add_option("--seed", s->seed)->capture_default_str();
  o->add_to(*app);
  return [app, o, s]() -> int {
    if (!app->parsed()) return -1;
    Engine engine(o->engine);
    const std::string tuning = o->tuning(engine);
    print(described(engine, tuning, bench::bench_sweep(engine, *s)), o->json);
    return 0;
  };
}

Command add_kernels(CLI::App& parent) {
  CLI::App* app =
      parent.add_subcommand("kernels", "Each launch of a decode and a prefill step, against the device's own ceilings");
  const auto k = std::make_shared<bench::KernelOptions>();
  const auto as_json = std::make_shared<bool>(false);
  const auto attention = std::make_shared<bool>(false);
  auto* const model = app->add_option("-m,--model", k->model, "GGUF file or Hugging Face folder");
  auto* const alone = app->add_flag("--attention", *attention, "Without a model: attention at a list of shapes");
  alone->excludes(model);
  app->add_option("--heads", k->heads, "Of --attention")->needs(alone)->capture_default_str();
  app->add_option("--kv-heads", k->kv_heads, "Of --attention")->needs(alone)->capture_default_str();
  app->add_option("--head-dim", k->head_dim, "Of --attention")->needs(alone)->capture_default_str();
  app->add_option("--load-format", k->load_format, "auto, or dummy[:FORMAT]")->capture_default_str();
  app->add_option("--backend", k->backend)->capture_default_str();
  app->add_option("--device", k->device)->capture_default_str();
  app->add_option("--plugin", k->plugins, "A plugin file to load, besides the search path");
  app->add_option("--cache-dir", k->cache_dir, "For pipelines and tuning");
  app->add_option("--batch", k->batch, "Sequences of the decode step")->capture_default_str();
  app->add_option("--context", k->context, "Their length")->capture_default_str();
  app->add_option("--prefill", k->prefill, "Tokens of the prefill step; 0: none")->capture_default_str();
  app->add_option("--block-size", k->block_size)->capture_default_str();
  app->add_option("--kv-format", k->kv_format, "f16, bf16, f32 or f8")->capture_default_str();
  app->add_option("--repetitions", k->repetitions)->capture_default_str();
  app->add_flag("--invariant", k->invariant);
  app->add_flag("--tune", k->tune, "Let the backend time its kernels first");
  app->add_flag("--json", *as_json, "As JSON");
  return [app, k, attention, as_json]() -> int {
    if (!app->parsed()) return -1;
    if (!*attention && k->model.empty()) throw Error("--model is missing: name a model, or measure --attention alone");
    const boost::json::object result = *attention ? bench::bench_attention(*k) : bench::bench_kernels(*k);
    if (*as_json)
      print(result, true);
    else
      std::fputs(bench::kernel_table(result).c_str(), stdout);
    return 0;
  };
}

Command add_scheduler(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("scheduler", "Blocks, admission and scheduler steps on the host");
  const auto as_json = std::make_shared<bool>(false);
  const auto filter = std::make_shared<std::string>();
  app->add_option("--filter", *filter, "A regular expression over the names");
  app->add_flag("--json", *as_json, "As Google Benchmark's JSON");
  return [app, as_json, filter]() -> int {
    if (!app->parsed()) return -1;
    bench::SchedulerBenchOptions options;
    options.json = *as_json;
    options.filter = filter->empty() ? nullptr : filter->c_str();
    return bench::run_scheduler_benchmarks(options);
  };
}

Command add_memory(CLI::App& parent) {
  CLI::App* app =
      parent.add_subcommand("memory", "The study of paged memory, beside the paper's figures; needs no device");
  const auto o = std::make_shared<bench::MemoryStudyOptions>();
  app->add_option("--out", o->out_dir, "Folder for CSV and SVG files; empty: none")->capture_default_str();
  app->add_option("--beam-traces", o->beam_traces, "Recorded beams; the built-in ones by default");
  app->add_option("--seed", o->seed)->capture_default_str();
  app->add_option("--minutes", o->minutes, "Of virtual time")->capture_default_str();
  app->add_flag("--json", o->json, "As JSON");
  return [app, o]() -> int { return app->parsed() ? bench::run_memory_study(*o) : -1; };
}

Command add_write_dummy(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("write-dummy", "Write a model of random weights that loads like a real one");
  struct Options {
    std::string config, format = "dummy", folder;
  };
  const auto o = std::make_shared<Options>();
  app->add_option("-m,--model", o->config, "Folder or file with the configuration")->required();
  app->add_option("--load-format", o->format, "dummy[:FORMAT]")->capture_default_str();
  app->add_option("folder", o->folder, "Folder to write")->required();
  return [app, o]() -> int {
    if (!app->parsed()) return -1;
    bench::write_dummy(o->config, o->format, o->folder, progress_bar());
    return 0;
  };
}

} // namespace

Command add_bench(CLI::App& app) {
  app.require_subcommand(1);
  const std::vector<Command> commands{add_latency(app), add_prefix(app),    add_throughput(app), add_sweep(app),
                                      add_kernels(app), add_scheduler(app), add_memory(app),     add_write_dummy(app)};
  return [commands] {
    for (const Command& command : commands)
      if (const int code = command(); code >= 0) return code; // -1: another one was asked for
    return 1;
  };
}

} // namespace quire::cli
