// From sampled rows to events: stop conditions, text, logprobs, the best of several choices.
#include "core.hpp"

#include <algorithm>
#include <numeric>

namespace quire {
namespace {

double seconds_since(EngineClock::time_point from) {
  return std::chrono::duration<double>(EngineClock::now() - from).count();
}

std::vector<Candidate> alternatives(std::span<const quire_candidate> candidates, int32_t wanted) {
  std::vector<Candidate> out;
  for (const quire_candidate& c : candidates) {
    if (static_cast<int32_t>(out.size()) >= wanted) break;
    out.push_back({c.token, c.logprob});
  }
  return out;
}

} // namespace

void EngineCore::take_row(Step& step, size_t index) {
  Sequence& s = *step.rows[index].sequence;
  if (s.state == SequenceState::finished) return;           // by another row of its request
  auto* const record = static_cast<ChoiceRecord*>(s.owner); // beams have none
  const quire_sampled_row& sampled = step.sampled()[index];
  if (record && sampled.token >= 0 && !s.host_chosen)
    return deliver(*record, sampled.token, sampled.logprob, {sampled.candidates, sampled.num_candidates});
  auto& request = *static_cast<ActiveRequest*>(s.group->owner);
  if (sampled.token < 0)
    return end_request(request, FinishReason::error,
                       "the model's logits held a NaN or infinity, or no token was allowed: the other requests go on");
  if (request.beams) return take_beam_row(step, index);
  post_choice(step, index);
}

void EngineCore::post_choice(Step& step, size_t index) {
  Sequence& s = *step.rows[index].sequence;
  auto& record = *static_cast<ChoiceRecord*>(s.owner);
  std::unique_ptr<Choice> choice;
  if (spare_choices_.empty()) {
    choice = std::make_unique<Choice>();
  } else {
    choice = std::move(spare_choices_.back());
    spare_choices_.pop_back();
  }
  Choice& c = *choice;
  c.tag = &record;
  c.state = record.sampler;
  c.token = -1;
  c.error.clear();
  c.candidates.clear();
  s.sampling.fill(c.row, s.length(), s.num_output(), 0);
  c.counts.assign(c.row.counts, c.row.counts + c.row.num_counts);
  c.bias.assign(c.row.bias, c.row.bias + c.row.num_bias);
  c.mask.clear();
  if (c.row.mask) c.mask.assign(c.row.mask, c.row.mask + (options_.limits.vocab_size + 31) / 32);
  std::swap(c.logits, step.logits[step.rows[index].logits - 1]);
  ++record.request->num_outstanding;
  choosers_->post(std::move(choice));
}

// While a step runs there is time to wait a little, so that the choices make the next one; where nothing runs, their
// coming wakes the loop.
void EngineCore::collect_choices() {
  if (choosers_->outstanding() == 0) return;
  const double patience = pipe_.empty() ? 0 : mean_step_seconds_ / 4;
  choosers_->collect(choices_, std::chrono::nanoseconds(static_cast<int64_t>(patience * 1e9)));
  made_ = EngineClock::now();
  for (std::unique_ptr<Choice>& choice : choices_) {
    auto& record = *static_cast<ChoiceRecord*>(choice->tag);
    --record.request->num_outstanding;
    if (!record.finished && !record.request->over) {
      if (choice->error.empty()) {
        scheduler_.append(*record.sequence, choice->token);
        record.sequence->logprob_sum += static_cast<double>(choice->logprob);
        deliver(record, choice->token, choice->logprob, choice->candidates);
      } else {
        end_request(*record.request, FinishReason::error,
                    "sampler " + record.request->request.sampling.sampler + ": " + choice->error);
      }
    }
    choice->state.reset();
    spare_choices_.push_back(std::move(choice));
  }
}

// The token is already among the sequence's.
void EngineCore::deliver(ChoiceRecord& choice, int32_t token, float logprob,
                         std::span<const quire_candidate> candidates) {
  const Sequence& s = *choice.sequence;
  ++counters_.output_tokens;
  ++choice.num_tokens;
  TokenEvent event;
  event.request = choice.id;
  event.made = made_;
  event.choice = s.sampling.choice(); // the same number, in a cache line that is there already
  event.token = token;
  event.logprob = logprob;
  if (choice.logprobs > 0) event.candidates = alternatives(candidates, choice.logprobs);

  if (s.sampling.plan().stops(token)) {
    event.finish = FinishReason::stop;
  } else if (!choice.plain && choice.detokenizer) {
    const std::string text = choice.detokenizer->push(token);
    if (s.num_output() <= s.sampling.plan().min_tokens()) {
      choice.matcher->pass(text, event.text);
    } else if (choice.matcher->push(text, event.text)) {
      event.finish = FinishReason::stop;
      event.stop_match = choice.matcher->match();
    }
  }
  if (event.finish == FinishReason::none && s.tokens.size() >= s.max_length) event.finish = FinishReason::length;
  if (event.finish != FinishReason::none && choice.detokenizer && event.stop_match.empty()) {
    if (choice.matcher->push(choice.detokenizer->flush(), event.text))
      event.stop_match = choice.matcher->match();
    else
      choice.matcher->flush(event.text);
  }

  const FinishReason reason = event.finish;
  if (reason != FinishReason::none && !choice.request->holds_events) keep(*choice.request, s.choice, s.tokens);
  emit(choice, std::move(event));
  if (reason != FinishReason::none) finish_choice(choice);
}

void EngineCore::emit(ChoiceRecord& choice, TokenEvent&& event) {
  if (choice.plain && choice.started) return choice.sink->token(std::move(event));
  if (choice.request->holds_events) {
    choice.held.push_back(std::move(event));
  } else {
    send(*choice.request, std::move(event));
    choice.started = choice.request->first_token;
  }
}

void EngineCore::send(ActiveRequest& request, TokenEvent&& event) {
  if (event.made == EngineClock::time_point{}) event.made = made_; // of beams
  if (event.token >= 0 && !request.first_token) {
    request.first_token = true;
    request.summary.first_token_seconds = seconds_since(request.submitted);
  }
  request.request.sink->token(std::move(event));
}

void EngineCore::finish_choice(ChoiceRecord& choice) {
  ActiveRequest& request = *choice.request;
  choice.finished = true;
  scheduler_.finish(*choice.sequence);
  if (--request.num_unfinished > 0) return;
  if (request.holds_events) release_best(request);
  close_request(request);
}

// best_of: the n choices with the best mean logprob, numbered anew from the best.
void EngineCore::release_best(ActiveRequest& request) {
  std::vector<uint32_t> order(request.choices.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto mean = [&](uint32_t c) {
    const Sequence& s = *request.choices[c]->sequence;
    return s.logprob_sum / std::max(1u, s.num_output());
  };
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return mean(a) > mean(b); });
  for (uint32_t rank = 0; rank < request.request.n; ++rank) {
    ChoiceRecord& choice = *request.choices[order[rank]];
    keep(request, rank, choice.sequence->tokens);
    for (TokenEvent& event : choice.held) {
      event.choice = rank;
      send(request, std::move(event));
    }
  }
}

void EngineCore::keep(ActiveRequest& request, uint32_t choice, std::vector<int32_t> tokens) {
  if (request.request.keep) kept_.add(std::move(tokens), request.id, choice);
}

} // namespace quire
