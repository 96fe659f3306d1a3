#include "trials/trials.hpp"

#include "quire/error.hpp"
#include "support/model_fixture.hpp"
#include "support/temp_folder.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>

namespace quire::test {
namespace {

constexpr const char* small_config =
    R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
  "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 1024, "max_position_embeddings": 2048,
  "tie_word_embeddings": false, "torch_dtype": "float16"})";

struct Subject {
  TempFolder folder;
  std::unique_ptr<ModelOn> model;

  explicit Subject(const TrialOptions& o) {
    if (o.model.empty()) {
      LoadOptions load = parse_load_format("dummy:F16");
      load.dummy_seed = 11;
      model = std::make_unique<ModelOn>(o.backend, folder.write("config.json", small_config), o.plugin, load);
    } else {
      model = std::make_unique<ModelOn>(o.backend, o.model, o.plugin);
    }
    if (!model->available()) throw Error(model->why());
  }
};

struct Answer {
  std::vector<std::vector<int32_t>> tokens; // [choices]
  std::vector<uint32_t> logprob_bits;       // of all events, in their order a choice
};

Answer answer_of(const Collector& sink) {
  Answer answer;
  for (uint32_t c = 0; c < std::max<size_t>(1, sink.choices()); ++c) {
    answer.tokens.push_back(sink.tokens(c));
    for (const TokenEvent& e : sink.events()) {
      if (e.choice != c) continue;
      uint32_t bits;
      std::memcpy(&bits, &e.logprob, sizeof bits);
      answer.logprob_bits.push_back(bits);
    }
  }
  return answer;
}

bool begins_with(const std::vector<int32_t>& whole, const std::vector<int32_t>& part) {
  return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
}

class Checks {
 public:
  void expect(bool condition, const std::string& what) {
    if (condition || ++failures_ > 20) return; // the first ones tell
    std::printf("FAILED: %s\n", what.c_str());
  }
  void expect_drained(EngineCore& core, const std::string& when) {
    Stats s;
    for (int i = 0; i < 2000; ++i) {
      s = core.stats();
      if (s.running + s.waiting + s.swapped == 0 && s.blocks_free + s.blocks_cached == s.blocks_total) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    expect(false, when + ": " + std::to_string(s.blocks_total - s.blocks_free - s.blocks_cached) +
                      " blocks were not given back");
  }
  uint32_t failures() const { return failures_; }

 private:
  uint32_t failures_ = 0;
};

FixtureOptions roomy() {
  FixtureOptions o;
  o.block_size = 16;
  o.blocks = 1200;
  o.host_blocks = 256;
  o.max_sequences = 64;
  o.max_batched_tokens = 256;
  o.max_context = 256;
  o.prefix_cache = false;
  return o;
}

// ---- Trials

std::vector<Request> random_requests(uint32_t vocab, std::mt19937& random) {
  const auto pick = [&](uint32_t low, uint32_t high) {
    return low + static_cast<uint32_t>(random() % (high - low + 1));
  };
  std::vector<Request> requests;
  for (uint32_t i = 0; i < 48; ++i) {
    std::vector<int32_t> prompt = random_prompt(20 + 20 * (i % 3), 900 + i % 3, vocab); // one of three beginnings
    if (i % 4 == 3) prompt.clear();
    const auto tail = random_prompt(pick(1, 60), random(), vocab);
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    Request r = greedy(std::move(prompt), pick(4, 60));
    r.ignore_eos = true;
    switch (i % 6) {
    case 1:
    case 2:
      r.sampling.temperature = 1;
      r.sampling.seed = i;
      break;
    case 3:
      r.sampling.temperature = 1;
      r.sampling.seed = i;
      r.n = pick(2, 3);
      break;
    case 4:
      r.beam.width = static_cast<int32_t>(pick(2, 4));
      r.n = pick(1, 2);
      break;
    default:
      break;
    }
    requests.push_back(std::move(r));
  }
  return requests;
}

struct Live {
  RequestId id = 0;
  size_t request = 0;
  std::shared_ptr<Collector> sink;
  bool cancelled = false;
};

// Keeps up to 24 requests going until so many steps are done, then lets them end.
void disturb(EngineCore& core, const std::vector<Request>& requests, const std::vector<Answer>& expected,
             uint64_t steps, std::mt19937& random, Checks& checks, uint64_t& answers) {
  std::vector<Live> live;
  uint64_t last_progress = 0;
  auto since = std::chrono::steady_clock::now();
  while (true) {
    const uint64_t now = core.stats().steps;
    if (now != last_progress) last_progress = now, since = std::chrono::steady_clock::now();
    if (std::chrono::steady_clock::now() - since > std::chrono::seconds(60))
      return checks.expect(false, "nothing has moved for a minute");
    if (now >= steps && live.empty()) return;
    while (now < steps && live.size() < 24) {
      Live l;
      l.request = random() % requests.size();
      l.sink = std::make_shared<Collector>();
      Request r = requests[l.request];
      r.priority = static_cast<int32_t>(random() % 5) - 2;
      r.sink = l.sink;
      l.id = core.submit(std::move(r));
      live.push_back(std::move(l));
    }
    if (random() % 24 == 0 && !live.empty()) {
      Live& l = live[random() % live.size()];
      core.cancel(l.id);
      l.cancelled = true;
    }
    for (size_t i = 0; i < live.size();) {
      const Live& l = live[i];
      if (!l.sink->wait(std::chrono::seconds(0))) {
        ++i;
        continue;
      }
      const std::string name = "request " + std::to_string(l.request);
      checks.expect(l.sink->orderly(), name + ": events after its end");
      const Answer got = answer_of(*l.sink);
      const Answer& want = expected[l.request];
      for (size_t c = 0; c < got.tokens.size(); ++c)
        checks.expect(l.cancelled ? begins_with(want.tokens[c], got.tokens[c]) : got.tokens[c] == want.tokens[c],
                      name + ", choice " + std::to_string(c) + ": another answer than undisturbed, of " +
                          std::to_string(got.tokens[c].size()) + " tokens" + (l.sink->error().empty() ? "" : ": ") +
                          l.sink->error());
      ++answers;
      live[i] = std::move(live.back());
      live.pop_back();
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

} // namespace

uint32_t run_trials(const TrialOptions& o) {
  const Subject subject(o);
  Checks checks;
  std::mt19937 random(static_cast<uint32_t>(o.seed));
  const std::vector<Request> requests = random_requests(subject.model->vocab_size(), random);
  std::vector<Answer> expected;
  {
    const auto core = subject.model->engine(roomy());
    for (const Request& r : requests) {
      const auto sink = send(*core, r);
      checks.expect(sink->wait() && sink->error().empty(), "alone: " + sink->error());
      expected.push_back(answer_of(*sink));
    }
    checks.expect_drained(*core, "alone");
  }
  constexpr uint32_t chunks[] = {0, 16, 5, 33};
  uint64_t steps = 0, swaps = 0, recomputes = 0, answers = 0, cached = 0;
  for (uint32_t era = 0; steps < o.steps && checks.failures() == 0; ++era) {
    FixtureOptions tight = roomy();
    tight.blocks = 56;
    tight.host_blocks = 64;
    tight.max_sequences = 16;
    tight.max_batched_tokens = 96;
    tight.max_chunk = chunks[era % 4];
    tight.prefix_cache = era / 3 % 2 == 0;
    tight.preemption = era % 3 == 0   ? PreemptionMode::swap
                       : era % 3 == 1 ? PreemptionMode::recompute
                                      : PreemptionMode::automatic;
    if (era % 3 != 2) tight.before_schedule = preempt_at_random(tight.preemption, 6, era);
    const auto core = subject.model->engine(tight);
    disturb(*core, requests, expected, std::min<uint64_t>(o.steps - steps, o.steps / 6 + 1), random, checks, answers);
    checks.expect_drained(*core, "era " + std::to_string(era));
    const Stats s = core->stats();
    steps += s.steps;
    swaps += s.preemptions_swap;
    recomputes += s.preemptions_recompute;
    cached += s.cached_tokens;
  }
  checks.expect(swaps > 0 && recomputes > 0, "nothing was preempted");
  if (checks.failures() == 0) std::printf("ok: ");
  std::printf("%llu steps, %llu answers, %llu preemptions by swap and %llu by recompute, %llu tokens shared\n",
              static_cast<unsigned long long>(steps), static_cast<unsigned long long>(answers),
              static_cast<unsigned long long>(swaps), static_cast<unsigned long long>(recomputes),
              static_cast<unsigned long long>(cached));
  return checks.failures();
}

// ---- Invariance

namespace {

std::vector<Answer> run_all(EngineCore& core, const std::vector<Request>& requests, bool together, Checks& checks,
                            uint64_t* cached = nullptr) {
  std::vector<std::shared_ptr<Collector>> sinks;
  std::vector<Answer> answers;
  for (const Request& r : requests) {
    sinks.push_back(send(core, r));
    if (!together) sinks.back()->wait(std::chrono::seconds(600));
  }
  for (const auto& sink : sinks) {
    checks.expect(sink->wait(std::chrono::seconds(600)) && sink->error().empty(), "a request failed: " + sink->error());
    answers.push_back(answer_of(*sink));
    if (cached) *cached += sink->summary().cached_tokens;
  }
  checks.expect_drained(core, "at the end");
  return answers;
}

void compare(const std::vector<Answer>& got, const std::vector<Answer>& alone, const std::string& how, Checks& checks) {
  size_t tokens = 0, logprobs = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    tokens += got[i].tokens != alone[i].tokens;
    logprobs += got[i].logprob_bits != alone[i].logprob_bits;
  }
  checks.expect(tokens == 0, how + ": " + std::to_string(tokens) + " of " + std::to_string(got.size()) +
                                 " requests got other tokens than alone");
  checks.expect(logprobs == 0, how + ": " + std::to_string(logprobs) + " of " + std::to_string(got.size()) +
                                   " requests got log-probabilities of other bits than alone");
  if (tokens + logprobs == 0) std::printf("ok: %s\n", how.c_str());
}

} // namespace

uint32_t run_invariant(const TrialOptions& o) {
  const Subject subject(o);
  Checks checks;
  std::vector<Request> requests;
  const uint32_t vocab = subject.model->vocab_size();
  for (uint32_t i = 0; i < 64; ++i) {
    std::vector<int32_t> prompt = random_prompt(i % 3 == 2 ? 70 : 0, 5, vocab);
    const auto tail = random_prompt(3 + i * 7 % 100, static_cast<uint32_t>(o.seed) * 1000 + i, vocab);
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    Request r = greedy(std::move(prompt), 24);
    r.ignore_eos = true;
    if (i % 2) r.sampling.temperature = 1, r.sampling.seed = i;
    requests.push_back(std::move(r));
  }
  const FixtureOptions plain = roomy();
  const std::vector<Answer> alone = run_all(*subject.model->engine(plain), requests, false, checks);
  compare(run_all(*subject.model->engine(plain), requests, true, checks), alone, "in a batch of 64", checks);
  for (const uint32_t chunk : {1u, 7u, 16u, 50u, 128u}) {
    FixtureOptions cut = plain;
    cut.max_chunk = chunk;
    compare(run_all(*subject.model->engine(cut), requests, true, checks), alone,
            "in chunks of " + std::to_string(chunk), checks);
  }
  for (const PreemptionMode mode : {PreemptionMode::swap, PreemptionMode::recompute}) {
    FixtureOptions tight = plain;
    tight.blocks = 130;
    tight.preemption = mode;
    const auto core = subject.model->engine(tight);
    const std::string how = mode == PreemptionMode::swap ? "preempted by swap" : "preempted by recompute";
    compare(run_all(*core, requests, true, checks), alone, how, checks);
    const Stats s = core->stats();
    checks.expect((mode == PreemptionMode::swap ? s.preemptions_swap : s.preemptions_recompute) > 0,
                  how + ": nothing was preempted");
  }
  FixtureOptions caching = plain;
  caching.prefix_cache = true;
  const auto core = subject.model->engine(caching);
  run_all(*core, requests, true, checks);
  uint64_t cached = 0;
  compare(run_all(*core, requests, true, checks, &cached), alone, "after a prefix hit", checks);
  checks.expect(cached > 1000, "only " + std::to_string(cached) + " tokens were found in the prefix cache");
  return checks.failures();
}

} // namespace quire::test
