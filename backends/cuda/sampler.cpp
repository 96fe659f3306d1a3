#include "sampler.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace quire::cuda {
namespace {

uint64_t align_up(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

// Grows a buffer that nothing in flight uses: the slot's ticket was waited for.
template <class Buffer> void grow(Buffer& buffer, uint64_t bytes, const char* purpose) {
  if (buffer.bytes() < bytes) buffer = Buffer(align_up(bytes + bytes / 2), purpose);
}

bool adjusts(const quire_sampling_row& row) {
  const bool filters = row.temperature != 0 && (row.top_k != 0 || (row.top_p != 0 && row.top_p != 1) ||
                                                row.min_p != 0 || (row.typical_p != 0 && row.typical_p != 1));
  const bool penalises = (row.repetition_penalty != 0 && row.repetition_penalty != 1) || row.presence_penalty != 0 ||
                         row.frequency_penalty != 0;
  return filters || (penalises && (row.num_counts != 0 || row.pending_row != 0)) || row.num_bias != 0 ||
         row.mask != nullptr;
}

} // namespace

void Sampler::reserve(uint32_t max_rows, uint32_t vocab) {
  if (max_rows <= max_rows_ && vocab <= vocab_) return;
  const uint32_t rows = std::max(max_rows, max_rows_), words = std::max(vocab, vocab_);
  DeviceBuffer tokens(align_up(2ull * rows * 4), "sampled tokens");
  DeviceBuffer partials(align_up(uint64_t{rows} * sample_stretches(words) * sizeof(SamplePartial)), "sampling");
  DeviceBuffer results(align_up(rows * sizeof(SampleResult)), "sampling");
  DeviceBuffer candidates(align_up(uint64_t{rows} * QUIRE_MAX_CANDIDATES * sizeof(quire_candidate)), "sampling");
  for (Slot& slot : slots_) grow(slot.results, results.bytes() + candidates.bytes(), "sampled rows");
  tokens_ = std::move(tokens), partials_ = std::move(partials), results_ = std::move(results),
  candidates_ = std::move(candidates);
  max_rows_ = rows, vocab_ = words;
}

void Sampler::sample(uint64_t ticket, std::span<const quire_sampling_row> rows, const float* logits, uint32_t vocab,
                     const Queue& queue) {
  assert(rows.size() <= max_rows_ && vocab <= vocab_);
  Slot& slot = slots_[ticket % kSlots];
  const uint64_t mask_words = (uint64_t{vocab} + 31) / 32;
  uint64_t counts = 0, biases = 0, masks = 0, wanted = 0;
  bool any_adjusts = false;
  for (const quire_sampling_row& row : rows) {
    counts += row.num_counts, biases += row.num_bias;
    masks += row.mask != nullptr, wanted += row.logits != nullptr;
    any_adjusts = any_adjusts || adjusts(row);
  }
  const uint64_t counts_at = align_up(rows.size() * sizeof(SampleRow)),
                 bias_at = align_up(counts_at + counts * sizeof(quire_token_count));
  const uint64_t masks_at = align_up(bias_at + biases * sizeof(quire_logit_bias)),
                 bytes = align_up(masks_at + masks * mask_words * 4);
  grow(slot.upload, bytes, "sampling parameters");
  grow(slot.device, bytes, "sampling parameters");
  if (wanted != 0) grow(slot.logits, wanted * vocab * 4, "logits for the host");
  if (any_adjusts) grow(adjusted_, uint64_t{max_rows_} * vocab_ * 4, "adjusted logits");

  slot.wanted.clear();
  slot.has_candidates = false;
  uint32_t count_index = 0, bias_index = 0;
  uint64_t mask_index = 0;
  auto* to = slot.upload.as<SampleRow>();
  for (const quire_sampling_row& from : rows) {
    SampleRow row{};
    const auto share = [](float p) { return p == 1 ? 0.f : p; };
    row.temperature = from.temperature, row.min_p = from.min_p;
    row.top_p = share(from.top_p), row.typical_p = share(from.typical_p);
    row.top_k = from.top_k;
    row.repetition_penalty = from.repetition_penalty == 0 ? 1.f : from.repetition_penalty;
    row.presence_penalty = from.presence_penalty, row.frequency_penalty = from.frequency_penalty;
    row.seed_low = static_cast<uint32_t>(from.seed), row.seed_high = static_cast<uint32_t>(from.seed >> 32);
    row.choice = from.choice, row.position = from.position;
    row.num_candidates = std::min({from.num_candidates, static_cast<uint32_t>(QUIRE_MAX_CANDIDATES), vocab});
    slot.has_candidates = slot.has_candidates || row.num_candidates != 0;
    row.pending_row = from.pending_row;
    row.counts = count_index, row.num_counts = from.num_counts;
    row.bias = bias_index, row.num_bias = from.num_bias;
    if (from.num_counts != 0)
      std::memcpy(slot.upload.as<quire_token_count>(counts_at) + count_index, from.counts,
                  from.num_counts * sizeof(quire_token_count));
    if (from.num_bias != 0)
      std::memcpy(slot.upload.as<quire_logit_bias>(bias_at) + bias_index, from.bias,
                  from.num_bias * sizeof(quire_logit_bias));
    count_index += from.num_counts, bias_index += from.num_bias;
    row.mask = kNoMask;
    if (from.mask != nullptr) {
      row.mask = static_cast<uint32_t>(mask_index);
      std::memcpy(slot.upload.as<uint32_t>(masks_at) + mask_index, from.mask, mask_words * 4);
      mask_index += mask_words;
    }
    row.adjusts = adjusts(from);
    if (from.logits != nullptr) {
      const uint64_t offset = slot.wanted.size() * uint64_t{vocab};
      check(cudaMemcpyAsync(slot.logits.as<float>() + offset,
                            logits + static_cast<uint64_t>(&from - rows.data()) * vocab, uint64_t{vocab} * 4,
                            cudaMemcpyDeviceToHost, queue.stream),
            "bringing logits to the host");
      slot.wanted.push_back({from.logits, offset});
    }
    *to++ = row;
  }
  check(cudaMemcpyAsync(slot.device.data(), slot.upload.data(), bytes, cudaMemcpyHostToDevice, queue.stream),
        "sending sampling parameters");
  SampleArgs a{};
  a.logits = logits, a.adjusted = adjusted_.as<float>(), a.vocab = vocab;
  a.rows = slot.device.as<SampleRow>();
  a.counts = slot.device.as<quire_token_count>(counts_at), a.bias = slot.device.as<quire_logit_bias>(bias_at);
  a.masks = slot.device.as<uint32_t>(masks_at);
  a.pending = tokens() + row_base(ticket + 1);
  a.partials = partials_.as<SamplePartial>();
  a.tokens = tokens() + row_base(ticket);
  a.results = results_.as<SampleResult>();
  a.candidates = candidates_.as<quire_candidate>();
  cuda::sample(queue, static_cast<uint32_t>(rows.size()), a);
  check(cudaMemcpyAsync(slot.results.data(), results_.data(), rows.size() * sizeof(SampleResult),
                        cudaMemcpyDeviceToHost, queue.stream),
        "bringing sampled rows to the host");
  if (slot.has_candidates)
    check(cudaMemcpyAsync(slot.results.data() + results_.bytes(), candidates_.data(),
                          rows.size() * QUIRE_MAX_CANDIDATES * sizeof(quire_candidate), cudaMemcpyDeviceToHost,
                          queue.stream),
          "bringing candidates to the host");
  slot.rows = static_cast<uint32_t>(rows.size());
  slot.vocab = vocab;
}

void Sampler::take(uint64_t ticket, std::span<quire_sampled_row> rows) {
  Slot& slot = slots_[ticket % kSlots];
  assert(rows.size() == slot.rows);
  const auto* results = slot.results.as<SampleResult>();
  const auto* candidates = slot.results.as<quire_candidate>(results_.bytes());
  for (uint32_t r = 0; r < rows.size(); ++r) {
    rows[r].token = results[r].token;
    rows[r].logprob = results[r].logprob;
    rows[r].num_candidates = std::min(rows[r].num_candidates, results[r].num_candidates);
    if (rows[r].num_candidates != 0)
      std::copy_n(candidates + uint64_t{r} * QUIRE_MAX_CANDIDATES, rows[r].num_candidates, rows[r].candidates);
  }
  for (const Wanted& wanted : slot.wanted)
    std::memcpy(wanted.to, slot.logits.as<float>() + wanted.offset, uint64_t{slot.vocab} * 4);
  slot.wanted.clear();
  slot.rows = 0;
}

uint64_t Sampler::bytes() const {
  uint64_t bytes = tokens_.bytes() + partials_.bytes() + results_.bytes() + candidates_.bytes() + adjusted_.bytes();
  for (const Slot& slot : slots_) bytes += slot.device.bytes();
  return bytes;
}

} // namespace quire::cuda
