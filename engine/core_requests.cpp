// From a Request to an ActiveRequest, on the caller's thread.
#include "core.hpp"

#include "quire/error.hpp"

#include <algorithm>

namespace quire {

RequestId EngineCore::submit(Request request) {
  auto active = make_request(std::move(request));
  const RequestId id = active->id;
  inbox_.post({std::move(active), 0, false});
  return id;
}

// splitmix64 (Steele, Lea, Flood 2014) over a counter: as many different seeds as there are requests.
uint64_t EngineCore::draw_seed() {
  uint64_t x = seed_base_ + 0x9E3779B97F4A7C15ull * ++seeds_drawn_;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Beams live and die together, so the KV memory must hold all of them at once, at full length and sharing no more than
// the prompt.
void EngineCore::fit_beams(Request& request, uint32_t num_prompt) const {
  const uint64_t block_size = options_.kv.block_size, width = static_cast<uint64_t>(request.beam.width);
  uint64_t fits = options_.limits.max_context;
  for (const KvGroupConfig& group : options_.kv.groups) {
    if (group.window) continue; // holds a window a beam, whatever the length
    const uint64_t prompt_blocks = (num_prompt + block_size - 1) / block_size;
    const uint64_t left = group.num_blocks > prompt_blocks ? (group.num_blocks - prompt_blocks) / width : 0;
    fits = std::min(fits, left > 1 ? (left - 1) * block_size : 0);
  }
  if (request.max_tokens == 0 && fits > 0) request.max_tokens = static_cast<uint32_t>(fits);
  const uint64_t wanted = std::min<uint64_t>(request.max_tokens, options_.limits.max_context - num_prompt);
  if (fits == 0 || wanted > fits)
    throw Error("beam_width " + std::to_string(width) + " with " + std::to_string(wanted) +
                " tokens each doesn't fit: after this prompt the KV memory holds " + std::to_string(fits) +
                " tokens a beam, so lower max_tokens or beam_width");
}

std::unique_ptr<ActiveRequest> EngineCore::make_request(Request request) {
  KeptTokens::Tokens history;
  if (request.continue_from) {
    history = kept_.find(request.continue_from);
    if (!history)
      throw Error("continue_from names sequence " + std::to_string(request.continue_from) +
                  ", which is unknown: it was released, or forgotten to make room; send the whole prompt");
  }
  validate(request, options_.limits, history ? history->size() : 0);
  if (!request.stop.empty() && !options_.tokenizer)
    throw Error("stop strings need a tokenizer, and this model has none: use stop_tokens");

  auto active = std::make_unique<ActiveRequest>();
  ActiveRequest& a = *active;
  a.id = ++last_request_;
  a.submitted = EngineClock::now();
  if (request.deadline_seconds > 0)
    a.deadline = a.submitted + std::chrono::duration_cast<EngineClock::duration>(
                                   std::chrono::duration<double>(request.deadline_seconds));
  a.seed = request.sampling.seed ? *request.sampling.seed : draw_seed();

  std::vector<int32_t> tokens;
  tokens.reserve((history ? history->size() : 0) + request.prompt.size());
  if (history) tokens = *history;
  tokens.insert(tokens.end(), request.prompt.begin(), request.prompt.end());
  request.prompt = {};
  const auto num_prompt = static_cast<uint32_t>(tokens.size());
  if (request.beam.width > 0) fit_beams(request, num_prompt);
  const uint32_t room = options_.limits.max_context - num_prompt;
  const uint32_t max_tokens = request.max_tokens ? std::min(request.max_tokens, room) : room;

  std::vector<int32_t> ends = request.stop_tokens;
  if (!request.ignore_eos) ends.insert(ends.end(), options_.end_tokens.begin(), options_.end_tokens.end());
  auto plan = std::make_shared<SamplingPlan>(request.sampling, ends, a.seed, options_.limits.vocab_size);

  a.group.id = a.id;
  a.group.priority = request.priority;
  a.group.salt = request.cache_salt;
  a.group.owner = &a;
  a.summary.request = a.id;
  a.summary.seed = a.seed;
  a.summary.prompt_tokens = num_prompt;

  if (request.beam.width > 0) {
    BeamRules rules;
    rules.width = static_cast<uint32_t>(request.beam.width);
    rules.length_penalty = request.beam.length_penalty;
    rules.early_stopping = request.beam.early_stopping;
    rules.max_tokens = max_tokens;
    rules.min_tokens = plan->min_tokens();
    rules.ends.assign(plan->ends().begin(), plan->ends().end());
    rules.alternatives = static_cast<uint32_t>(std::max(request.sampling.logprobs, 0));
    a.beams = std::make_unique<BeamRecord>(BeamRecord{BeamSearch(std::move(rules)), {}, {}, 0, 0});
    const uint32_t wanted = a.beams->search.candidates_wanted(options_.limits.vocab_size);
    if (wanted > QUIRE_MAX_CANDIDATES)
      throw Error("beam_width " + std::to_string(request.beam.width) + " with " + std::to_string(plan->ends().size()) +
                  " tokens that can end a sequence needs " + std::to_string(wanted) + " candidates: the limit is " +
                  std::to_string(QUIRE_MAX_CANDIDATES));
    plan->set_num_candidates(wanted);
    a.group.gang = true;
  }

  const quire_sampler* sampler = nullptr;
  if (!request.sampling.sampler.empty()) sampler = options_.find_sampler(request.sampling.sampler);
  std::shared_ptr<const StopPatterns> patterns;
  if (!request.stop.empty()) patterns = std::make_shared<const StopPatterns>(request.stop);
  const std::shared_ptr<const SamplingPlan> shared_plan = std::move(plan);
  const uint32_t num_choices = num_sampled_choices(request);
  for (uint32_t c = 0; c < num_choices; ++c) {
    auto sequence = std::make_unique<Sequence>();
    Sequence& s = *sequence;
    s.group = &a.group;
    s.choice = c;
    s.num_prompt = num_prompt;
    s.max_length = num_prompt + max_tokens;
    s.host_chosen = a.beams || sampler;
    s.sampling = SamplingState(shared_plan, c, tokens);
    a.group.sequences.push_back(std::move(sequence));
    if (a.beams) break;
    auto choice = std::make_unique<ChoiceRecord>();
    choice->request = &a;
    choice->sequence = &s;
    choice->sink = request.sink.get();
    choice->id = a.id;
    choice->logprobs = request.sampling.logprobs;
    choice->plain = !patterns && num_choices == request.n;
    s.owner = choice.get();
    if (patterns) {
      choice->detokenizer.emplace(options_.tokenizer, DecodeOptions{}, false);
      choice->matcher.emplace(patterns);
    }
    if (sampler)
      choice->sampler =
          SamplerState::open(*sampler, request.sampling.sampler_parameters, a.seed, c, options_.limits.vocab_size);
    a.choices.push_back(std::move(choice));
  }
  a.group.sequences.front()->tokens = std::move(tokens);
  if (a.beams) {
    a.beams->sequences = {a.group.sequences.front().get()};
    a.beams->rows.resize(1);
  }
  a.num_unfinished = a.beams ? request.n : num_choices;
  a.holds_events = !a.beams && num_choices > request.n;
  a.request = std::move(request);
  return active;
}

} // namespace quire
