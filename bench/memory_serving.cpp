// The parts of the memory study that serve requests: the real scheduler and KV manager on a virtual device.
#include "bench/memory_figures.hpp"
#include "bench/plot.hpp"

#include <algorithm>

namespace quire::bench {

namespace {

constexpr double kNone = std::nan("");
constexpr PolicyKind kPolicies[] = {PolicyKind::max, PolicyKind::pow2, PolicyKind::oracle, PolicyKind::paged};

std::string name_of(PolicyKind kind) {
  switch (kind) {
  case PolicyKind::max:
    return "Orca Max";
  case PolicyKind::pow2:
    return "Orca Pow2";
  case PolicyKind::oracle:
    return "Orca Oracle";
  default:
    return "paged";
  }
}

} // namespace

// An A100's own figures: 26 GB of weights and the KV cache are read at 1,555 GB/s, prefill runs at half of 312 Tflop/s.
// On top, what the host takes: a constant and a part for each sequence. The paper does not give them; they are such
// that the paged system's average batches come out as the paper's (30.42 and 132.44). Blocks are swapped over PCIe 4.0
// at 25 GB/s.
StepCosts opt13b_costs(std::uint32_t block_size) {
  constexpr double kParameters = 13e9, kBandwidth = 1.555e12, kFlops = 0.5 * 312e12;
  constexpr double kHostBase = 10.3e-3, kHostPerSequence = 0.268e-3;
  return {.base_s = 2 * kParameters / kBandwidth + kHostBase,
          .per_sequence_s = kHostPerSequence,
          .per_prefill_token_s = 2 * kParameters / kFlops,
          .per_context_token_s = kKvBytesPerToken / kBandwidth,
          .per_swapped_block_s = kKvBytesPerToken * block_size / 25e9};
}

ServeOptions opt13b(PolicyKind policy, const MemoryStudyOptions& options, std::uint32_t block_size) {
  ServeOptions serve;
  const bool paged = policy == PolicyKind::paged;
  serve.kv.policy = policy;
  serve.kv.block_size = paged ? block_size : 1; // the baselines reserve slots
  serve.kv.groups = {{.num_blocks = kSlots / serve.kv.block_size, .host_blocks = paged ? 2 * kSlots / block_size : 0}};
  serve.kv.prefix_cache = false;
  serve.kv.max_length = 2048;
  serve.scheduler = {.max_sequences = 256, .max_batched_tokens = 2560, .vocab_size = 50272};
  serve.scheduler.block_bytes = static_cast<std::uint64_t>(kKvBytesPerToken) * serve.kv.block_size;
  serve.kv.max_step_tokens = serve.scheduler.max_batched_tokens;
  serve.costs = opt13b_costs(serve.kv.block_size);
  serve.horizon_s = options.minutes * 60;
  serve.warm_up_s = serve.horizon_s / 10;
  return serve;
}

std::vector<Request> requests_for(const Lengths& lengths, double rate_per_s, const MemoryStudyOptions& options) {
  return make_requests(lengths, rate_per_s, static_cast<std::uint32_t>(rate_per_s * options.minutes * 60 * 1.1) + 10,
                       options.seed);
}

void study_baselines(const MemoryStudyOptions& options, std::vector<Figure>& figures) {
  struct Paper {
    double shares[4];
    double batch;
  };
  const Paper sharegpt_paper[] = {{{20.4, 13.3, 57.3, 8.9}, 7.00},
                                  {{26.8, 17.9, 13.6, 41.6}, 9.81},
                                  {{38.2, 25.2, kNone, 36.6}, 13.62},
                                  {{96.3, kNone, kNone, kNone}, 30.42}};
  const double alpaca_paper[] = {7.00, 43.24, 72.75, 132.44};
  Table shares{"policy",
               {"tokens", "reserved", "internal", "external or free", "paper tokens", "paper reserved",
                "paper internal", "paper external"},
               {},
               {}};
  Table bars{"policy", {"tokens", "reserved", "internal", "external or free"}, {}, {}};
  Table batch{"policy", {"ShareGPT 2/s", "ShareGPT paper", "Alpaca 30/s", "Alpaca paper"}, {}, {}};
  const char* const parts[] = {"tokens", "reserved", "internal", "external or free"};
  const auto sharegpt_requests = requests_for(sharegpt(), 2, options),
             alpaca_requests = requests_for(alpaca(), 30, options);
  std::vector<Figure> batches;
  for (std::size_t p = 0; p < std::size(kPolicies); ++p) {
    const std::string name = name_of(kPolicies[p]);
    const ServeResult s = serve(opt13b(kPolicies[p], options), sharegpt_requests);
    const double own[] = {100 * s.shares.tokens, 100 * s.shares.reserved, 100 * s.shares.internal,
                          100 * s.shares.external};
    std::vector<double> cells(own, own + 4);
    bars.rows.push_back(name);
    bars.cells.push_back(cells);
    for (std::size_t i = 0; i < 4; ++i) {
      figures.push_back(
          {"slots by state, ShareGPT at 2/s", name + ": " + parts[i], "%", own[i], sharegpt_paper[p].shares[i]});
      cells.push_back(sharegpt_paper[p].shares[i]);
    }
    shares.rows.push_back(name);
    shares.cells.push_back(cells);
    if (kPolicies[p] == PolicyKind::paged) {
      figures.push_back({"slots by state, ShareGPT at 2/s", "paged: tokens / slots of referenced blocks", "%",
                         100 * s.utilisation, kNone});
      figures.push_back(
          {"slots by state, ShareGPT at 2/s", "paged: referenced blocks / all blocks", "%", 100 * s.occupancy, kNone});
    }
    const ServeResult a = serve(opt13b(kPolicies[p], options), alpaca_requests);
    batches.push_back({"average batch", name + ", ShareGPT at 2/s", "sequences", s.batch, sharegpt_paper[p].batch});
    batches.push_back({"average batch", name + ", Alpaca at 30/s", "sequences", a.batch, alpaca_paper[p]});
    batch.rows.push_back(name);
    batch.cells.push_back({s.batch, sharegpt_paper[p].batch, a.batch, alpaca_paper[p]});
  }
  figures.insert(figures.end(), batches.begin(), batches.end());
  if (options.out_dir.empty()) return;
  write_csv(options.out_dir / "slots.csv", shares);
  write_bar_chart(options.out_dir / "slots.svg",
                  {"Where the KV slots are, ShareGPT at 2 requests/s", "% of all slots", true}, bars);
  write_csv(options.out_dir / "batch.csv", batch);
  write_bar_chart(options.out_dir / "batch.svg", {"Average batch", "sequences in a step", false}, batch);
}

namespace {

// Chat (section 6.5): every request carries its conversation so far, cut to the last 1,024 tokens; answers of at most
// 1,024.
std::vector<Request> chat_requests(double rate_per_s, const MemoryStudyOptions& options) {
  constexpr double kGoOn =
      0.9; // chance of another round: ten rounds a conversation on average, so that most prompts are cut
  Lengths turns = sharegpt();
  turns.max_total = 1024;
  std::vector<Request> requests = requests_for(turns, rate_per_s, options);
  Random random(options.seed + 77);
  std::uint32_t history = 0;
  for (Request& request : requests) {
    history = random.uniform() < kGoOn ? history : 0;
    request.prompt = std::min(history + request.prompt, 1024u);
    history += request.prompt + request.output;
  }
  return requests;
}

MemoryStudyOptions shortened(MemoryStudyOptions options, double times) {
  options.minutes /= times;
  return options;
}

// Requests a second when far more come than can be served.
double capacity(ServeOptions serve_options, const std::vector<Request>& requests) {
  return serve(serve_options, requests).requests_per_s();
}

} // namespace

void study_prefix_and_chat(const MemoryStudyOptions& all, std::vector<Figure>& figures) {
  const MemoryStudyOptions options = shortened(all, 3);
  Table table{"system", {"1-shot prefix (80)", "5-shot prefix (341)", "chat"}, {}, {}};
  table.rows = {"Orca Oracle", "paged, no cache", "paged, prefix cache"};
  table.cells.assign(3, {});
  const struct {
    std::uint32_t prefix;
    double paper;
  } shots[] = {{80, 1.67}, {341, 3.58}};
  for (const auto& shot : shots) {
    // WMT16 English to German: sentences of some thirty tokens (section 6.4); the spread is an assumption.
    const Lengths translation{.name = "translation",
                              .mean_prompt = 30,
                              .mean_output = 33,
                              .sigma_prompt = 0.6,
                              .sigma_output = 0.6,
                              .fixed_prefix = shot.prefix};
    const auto requests = requests_for(translation, 80, options);
    const double oracle = capacity(opt13b(PolicyKind::oracle, options), requests);
    const double paged = capacity(opt13b(PolicyKind::paged, options), requests);
    ServeOptions cached = opt13b(PolicyKind::paged, options);
    cached.kv.prefix_cache = true;
    const double shared = capacity(cached, requests);
    const std::string name = "prefix of " + std::to_string(shot.prefix) + " tokens: ";
    figures.push_back({"shared prefix, requests served", name + "Orca Oracle", "requests/s", oracle, kNone});
    figures.push_back({"shared prefix, requests served", name + "paged, prefix cache", "requests/s", shared, kNone});
    figures.push_back({"shared prefix, requests served", name + "paged with prefix cache / Orca Oracle", "times",
                       shared / oracle, shot.paper});
    const double values[] = {oracle, paged, shared};
    for (std::size_t r = 0; r < 3; ++r) table.cells[r].push_back(values[r]);
  }
  const auto requests = chat_requests(4, options);
  double best_served = 0, best_batch = 0;
  for (const PolicyKind policy : kPolicies) {
    const ServeResult result = serve(opt13b(policy, options), requests);
    const double served = result.requests_per_s();
    figures.push_back({"chat", name_of(policy) + ": requests served", "requests/s", served, kNone});
    figures.push_back({"chat", name_of(policy) + ": average batch", "sequences", result.batch, kNone});
    if (policy == PolicyKind::oracle) table.cells[0].push_back(served);
    if (policy == PolicyKind::paged) {
      table.cells[1].push_back(served);
      table.cells[2].push_back(kNone);
      figures.push_back({"chat", "paged / best baseline, requests served", "times", served / best_served, 2});
      figures.push_back({"chat", "paged / best baseline, average batch", "times", result.batch / best_batch, kNone});
    }
    best_served = std::max(best_served, served);
    best_batch = std::max(best_batch, result.batch);
  }
  if (options.out_dir.empty()) return;
  write_csv(options.out_dir / "prefix_and_chat.csv", table);
  write_bar_chart(options.out_dir / "prefix_and_chat.svg", {"Requests served under overload", "requests/s", false},
                  table);
}

void study_block_size(const MemoryStudyOptions& all, std::vector<Figure>& figures) {
  const MemoryStudyOptions options = shortened(all, 6);
  Table table{"block size",
              {"ShareGPT batch", "ShareGPT utilisation %", "ShareGPT requests/s", "Alpaca batch",
               "Alpaca utilisation %", "Alpaca requests/s"},
              {},
              {}};
  Table bars{"block size", {"ShareGPT", "Alpaca"}, {}, {}};
  const auto sharegpt_requests = requests_for(sharegpt(), 6, options),
             alpaca_requests = requests_for(alpaca(), 80, options);
  for (const std::uint32_t size : {8u, 16u, 32u, 64u, 128u, 256u}) {
    ServeOptions serve_options = opt13b(PolicyKind::paged, options, size);
    serve_options.scheduler.max_sequences = 512;
    const ServeResult s = serve(serve_options, sharegpt_requests), a = serve(serve_options, alpaca_requests);
    table.rows.push_back(std::to_string(size));
    table.cells.push_back(
        {s.batch, 100 * s.utilisation, s.requests_per_s(), a.batch, 100 * a.utilisation, a.requests_per_s()});
    bars.rows.push_back(std::to_string(size));
    bars.cells.push_back({100 * s.utilisation, 100 * a.utilisation});
    const std::string name = "block size " + std::to_string(size) + ", ";
    figures.push_back({"block size, overload", name + "ShareGPT: tokens / slots of referenced blocks", "%",
                       100 * s.utilisation, kNone});
    figures.push_back({"block size, overload", name + "ShareGPT: average batch", "sequences", s.batch, kNone});
    figures.push_back({"block size, overload", name + "Alpaca: tokens / slots of referenced blocks", "%",
                       100 * a.utilisation, kNone});
    figures.push_back({"block size, overload", name + "Alpaca: average batch", "sequences", a.batch, kNone});
  }
  if (options.out_dir.empty()) return;
  write_csv(options.out_dir / "block_size.csv", table);
  write_bar_chart(options.out_dir / "block_size.svg",
                  {"Tokens in the slots of referenced blocks, by block size", "%", false}, bars);
}

void study_preemption(const MemoryStudyOptions& all, std::vector<Figure>& figures) {
  const MemoryStudyOptions options = shortened(all, 3);
  // One sequence of the average length out and back, or computed again: the transfers' size and number decide (figure
  // 19a).
  constexpr double kTokens = 460, kPcie = 25e9, kPerTransfer = 10e-6;
  constexpr int kTransfersPerBlock = 2 * 40; // K and V of each layer lie apart
  const StepCosts costs = opt13b_costs(16);
  Table table{"block size", {"swap out and in (ms)", "one launch a step (ms)", "recompute (ms)"}, {}, {}};
  for (const std::uint32_t size : {1u, 2u, 4u, 8u, 16u, 32u, 64u, 128u, 256u}) {
    const double blocks = std::ceil(kTokens / size), bytes = blocks * size * kKvBytesPerToken;
    table.rows.push_back(std::to_string(size));
    table.cells.push_back({2e3 * (bytes / kPcie + blocks * kTransfersPerBlock * kPerTransfer),
                           2e3 * (bytes / kPcie + kPerTransfer), 1e3 * kTokens * costs.per_prefill_token_s});
  }
  // The same choice inside the scheduler, under overload.
  Table runs{"preemption by", {"requests/s", "preemptions", "latency s/token"}, {}, {}};
  const auto requests = requests_for(sharegpt(), 2.2, options);
  for (const PreemptionMode mode : {PreemptionMode::swap, PreemptionMode::recompute}) {
    ServeOptions serve_options = opt13b(PolicyKind::paged, options);
    serve_options.scheduler.preemption = mode;
    const ServeResult r = serve(serve_options, requests);
    const std::string name = mode == PreemptionMode::swap ? "swap" : "recompute";
    const auto preemptions = static_cast<double>(r.preemptions_swap + r.preemptions_recompute);
    runs.rows.push_back(name);
    runs.cells.push_back({r.requests_per_s(), preemptions, r.latency_per_token_s});
    figures.push_back(
        {"preemption, ShareGPT at 2.2/s", name + ": requests served", "requests/s", r.requests_per_s(), kNone});
    figures.push_back({"preemption, ShareGPT at 2.2/s", name + ": preemptions", "", preemptions, kNone});
    figures.push_back({"preemption, ShareGPT at 2.2/s", name + ": latency", "s/token", r.latency_per_token_s, kNone});
  }
  // How much admissions leave free decides how often it comes to that.
  Table watermarks{"watermark %", {"requests/s", "preemptions", "latency s/token", "occupancy %"}, {}, {}};
  for (const int permille : {0, 10, 20, 30, 40, 60}) {
    ServeOptions serve_options = opt13b(PolicyKind::paged, options);
    serve_options.kv.watermark = permille * 1e-3;
    const ServeResult r = serve(serve_options, requests);
    const auto preemptions = static_cast<double>(r.preemptions_swap + r.preemptions_recompute);
    watermarks.rows.push_back(std::to_string(permille / 10));
    watermarks.cells.push_back({r.requests_per_s(), preemptions, r.latency_per_token_s, 100 * r.occupancy});
    const std::string name = "watermark " + watermarks.rows.back() + " %: ";
    figures.push_back(
        {"watermark, ShareGPT at 2.2/s", name + "requests served", "requests/s", r.requests_per_s(), kNone});
    figures.push_back({"watermark, ShareGPT at 2.2/s", name + "preemptions", "", preemptions, kNone});
  }
  for (std::size_t r = 0; r < table.rows.size(); ++r)
    figures.push_back({"bringing 460 tokens back",
                       "block size " + table.rows[r] + ": swap, a transfer a block and layer", "ms", table.cells[r][0],
                       kNone});
  figures.push_back({"bringing 460 tokens back", "swap, one launch a step", "ms", table.cells[4][1], kNone});
  figures.push_back({"bringing 460 tokens back", "recompute", "ms", table.cells[4][2], kNone});
  if (options.out_dir.empty()) return;
  write_csv(options.out_dir / "swap_or_recompute.csv", table);
  write_csv(options.out_dir / "preemption.csv", runs);
  write_csv(options.out_dir / "watermark.csv", watermarks);
  write_bar_chart(options.out_dir / "swap_or_recompute.svg",
                  {"Bringing back a sequence of 460 tokens, by block size", "ms", false}, table);
}

} // namespace quire::bench
