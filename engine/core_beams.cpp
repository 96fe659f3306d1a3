// Beams: sequences of one request that fork and die by block references, in step with a BeamSearch.
#include "core.hpp"

#include <algorithm>

namespace quire {

void EngineCore::take_beam_row(Step& step, size_t index) {
  Sequence& s = *step.rows[index].sequence;
  auto& request = *static_cast<ActiveRequest*>(s.group->owner);
  BeamRecord& beams = *request.beams;
  const auto at = std::find(beams.sequences.begin(), beams.sequences.end(), &s) - beams.sequences.begin();
  const quire_sampled_row& sampled = step.sampled()[index];
  beams.rows[static_cast<size_t>(at)].assign(sampled.candidates, sampled.candidates + sampled.num_candidates);
  if (++beams.num_rows == beams.sequences.size()) advance_beams(request);
}

void EngineCore::advance_beams(ActiveRequest& request) {
  BeamRecord& beams = *request.beams;
  std::vector<std::span<const quire_candidate>> rows(beams.rows.begin(), beams.rows.end());
  const std::vector<Sequence*> before = beams.sequences;
  beams.search.advance(rows);
  counters_.output_tokens += before.size();
  if (beams.search.done()) return finish_beams(request);

  const std::span<const BeamSearch::Beam> next = beams.search.beams();
  std::vector<bool> lives(before.size(), false);
  for (const BeamSearch::Beam& beam : next) lives[beam.parent] = true;
  for (size_t i = 0; i < before.size(); ++i)
    if (!lives[i]) scheduler_.finish(*before[i]); // first, so that those who fork find room

  // The first child of a parent goes on in its place, after the others have forked from it.
  std::vector<bool> taken(before.size(), false);
  beams.sequences.assign(next.size(), nullptr);
  for (size_t j = 0; j < next.size(); ++j) {
    Sequence& parent = *before[next[j].parent];
    if (!taken[next[j].parent]) {
      taken[next[j].parent] = true;
      beams.sequences[j] = &parent;
      continue;
    }
    uint32_t number = 0; // none that lives has it
    const auto used = [&](const auto& s) { return s->state != SequenceState::finished && s->choice == number; };
    while (std::any_of(request.group.sequences.begin(), request.group.sequences.end(), used)) ++number;
    beams.sequences[j] = &scheduler_.fork(parent, number);
  }
  for (size_t j = 0; j < next.size(); ++j) scheduler_.append(*beams.sequences[j], next[j].token);
  beams.rows.resize(next.size());
  for (auto& row : beams.rows) row.clear();
  beams.num_rows = 0;
  send_settled(request);
}

namespace {

TokenEvent beam_event(const ActiveRequest& request, uint32_t choice, const BeamSearch::Token& token) {
  TokenEvent event;
  event.request = request.id;
  event.choice = choice;
  event.token = token.token;
  event.logprob = token.logprob;
  for (const quire_candidate& c : token.alternatives) event.candidates.push_back({c.token, c.logprob});
  return event;
}

} // namespace

void EngineCore::send_settled(ActiveRequest& request) {
  BeamRecord& beams = *request.beams;
  const std::vector<BeamSearch::Token> settled = beams.search.settled(beams.num_settled);
  beams.num_settled += static_cast<uint32_t>(settled.size());
  for (uint32_t choice = 0; choice < request.request.n; ++choice)
    for (const BeamSearch::Token& token : settled) send(request, beam_event(request, choice, token));
}

void EngineCore::finish_beams(ActiveRequest& request) {
  BeamRecord& beams = *request.beams;
  std::vector<int32_t> prompt = beams.sequences.front()->tokens;
  prompt.resize(beams.sequences.front()->num_prompt);
  const std::span<const BeamSearch::Hypothesis> finished = beams.search.finished();
  for (uint32_t choice = 0; choice < request.request.n; ++choice) {
    if (choice >= finished.size()) {
      TokenEvent event;
      event.request = request.id;
      event.choice = choice;
      event.finish = FinishReason::error;
      event.error = "beam search found only " + std::to_string(finished.size()) + " sequences: lower n";
      send(request, std::move(event));
      continue;
    }
    const std::vector<BeamSearch::Token> tokens = beams.search.tokens_of(finished[choice].node);
    request.summary.output_tokens += static_cast<uint32_t>(tokens.size());
    std::vector<int32_t> whole = prompt;
    for (const BeamSearch::Token& token : tokens) whole.push_back(token.token);
    keep(request, choice, std::move(whole));
    for (size_t i = beams.num_settled; i < tokens.size(); ++i) {
      TokenEvent event = beam_event(request, choice, tokens[i]);
      if (i + 1 == tokens.size()) event.finish = finished[choice].ended ? FinishReason::stop : FinishReason::length;
      send(request, std::move(event));
    }
  }
  close_request(request);
}

} // namespace quire
