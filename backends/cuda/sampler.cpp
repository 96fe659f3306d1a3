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
  DeviceBuffer candidates(align_up(uint64_t{rows} * QUIRE_MAX_CANDIDATES * sizeof(quire_candidate)), "sampling");
  PinnedBuffer results(align_up(2ull * rows * sizeof(SampleResult)), "sampled rows");
  for (Slot& slot : slots_) { // growing while serving would wait for the device
    grow(slot.rows_upload, rows * sizeof(SampleRow), "sampling parameters");
    grow(slot.rows_device, rows * sizeof(SampleRow), "sampling parameters");
  }
  tokens_ = std::move(tokens), partials_ = std::move(partials), candidates_ = std::move(candidates);
  results_ = std::move(results);
  max_rows_ = rows, vocab_ = words;
}

SampleArgs Sampler::arguments(const SampleRow* packed, const float* logits, uint32_t vocab) const {
  SampleArgs a{};
  a.logits = logits, a.adjusted = adjusted_.as<float>(), a.vocab = vocab;
  a.rows = packed;
  a.partials = partials_.as<SamplePartial>();
  a.tokens = tokens();
  a.results = results_.as<SampleResult>();
  a.candidates = candidates_.as<quire_candidate>();
  return a;
}

void Sampler::queue_plain(const SampleRow* packed, uint32_t rows, const float* logits, uint32_t vocab,
                          const Queue& queue) const {
  assert(vocab <= vocab_);
  cuda::sample(queue, rows, true, arguments(packed, logits, vocab));
}

bool Sampler::pack_plain(uint64_t ticket, std::span<const quire_sampling_row> rows, uint32_t vocab,
                         std::span<SampleRow> to) {
  assert(rows.size() <= to.size() && rows.size() <= max_rows_);
  const Extras extras = pack(rows, vocab, row_base(ticket), to.data());
  const bool plain = extras.plain() && !extras.brings();
  for (SampleRow& row : to.subspan(plain ? rows.size() : 0)) row.out = kNotSampled;
  return plain;
}

void Sampler::sampled_plain(uint64_t ticket, uint32_t rows) {
  Slot& slot = slots_[ticket % kSlots];
  slot.wanted.clear();
  slot.has_candidates = false;
  slot.rows = rows;
}

Sampler::Extras Sampler::pack(std::span<const quire_sampling_row> rows, uint32_t vocab, uint32_t first_place,
                              SampleRow* to) {
  const auto share = [](float p) { return p == 1 ? 0.f : p; };
  const uint32_t mask_words = (vocab + 31) / 32;
  Extras extras;
  for (const quire_sampling_row& from : rows) {
    SampleRow row;
    row.temperature = from.temperature, row.min_p = from.min_p;
    row.top_p = share(from.top_p), row.typical_p = share(from.typical_p);
    row.top_k = from.top_k;
    row.repetition_penalty = from.repetition_penalty == 0 ? 1.f : from.repetition_penalty;
    row.presence_penalty = from.presence_penalty, row.frequency_penalty = from.frequency_penalty;
    row.seed_low = static_cast<uint32_t>(from.seed), row.seed_high = static_cast<uint32_t>(from.seed >> 32);
    row.choice = from.choice, row.position = from.position;
    row.num_candidates = std::min({from.num_candidates, static_cast<uint32_t>(QUIRE_MAX_CANDIDATES), vocab});
    row.pending_row = from.pending_row;
    row.counts = static_cast<uint32_t>(extras.counts), row.num_counts = from.num_counts;
    row.bias = static_cast<uint32_t>(extras.biases), row.num_bias = from.num_bias;
    row.mask = from.mask != nullptr ? static_cast<uint32_t>(extras.masks * mask_words) : kNoMask;
    row.adjusts = adjusts(from);
    row.out = first_place++;
    extras.counts += from.num_counts, extras.biases += from.num_bias;
    extras.masks += from.mask != nullptr, extras.wanted += from.logits != nullptr;
    extras.adjusts = extras.adjusts || row.adjusts != 0;
    extras.candidates = extras.candidates || row.num_candidates != 0;
    *to++ = row;
  }
  return extras;
}

void Sampler::pack_extras(std::span<const quire_sampling_row> rows, const float* logits, uint32_t vocab,
                          const Places& places, Slot& slot, const Queue& queue) {
  const auto* packed = slot.upload.as<SampleRow>();
  for (size_t r = 0; r < rows.size(); ++r) {
    const quire_sampling_row& from = rows[r];
    const SampleRow& row = packed[r];
    if (from.num_counts != 0)
      std::memcpy(slot.upload.as<quire_token_count>(places.counts) + row.counts, from.counts,
                  from.num_counts * sizeof(quire_token_count));
    if (from.num_bias != 0)
      std::memcpy(slot.upload.as<quire_logit_bias>(places.bias) + row.bias, from.bias,
                  from.num_bias * sizeof(quire_logit_bias));
    if (from.mask != nullptr)
      std::memcpy(slot.upload.as<uint32_t>(places.masks) + row.mask, from.mask, (uint64_t{vocab} + 31) / 32 * 4);
    if (from.logits == nullptr) continue;
    const uint64_t offset = slot.wanted.size() * uint64_t{vocab};
    check(cudaMemcpyAsync(slot.logits.as<float>() + offset, logits + r * vocab, uint64_t{vocab} * 4,
                          cudaMemcpyDeviceToHost, queue.stream),
          "bringing logits to the host");
    slot.wanted.push_back({from.logits, offset});
  }
}

void Sampler::sample(uint64_t ticket, std::span<const quire_sampling_row> rows, const float* logits, uint32_t vocab,
                     const Queue& queue, StepTimes::Parts& times) {
  assert(rows.size() <= max_rows_ && vocab <= vocab_);
  Lap lap;
  Slot& slot = slots_[ticket % kSlots];
  const auto count = static_cast<uint32_t>(rows.size());
  auto* const packed = slot.rows_upload.as<SampleRow>();
  const Extras extras = pack(rows, vocab, row_base(ticket), packed);
  slot.wanted.clear();
  slot.has_candidates = extras.candidates;
  slot.vocab = vocab;
  SampleArgs a = arguments(slot.rows_device.as<SampleRow>(), logits, vocab);
  a.pending = tokens() + row_base(ticket + 1);
  if (extras.adjusts) grow(adjusted_, uint64_t{max_rows_} * vocab_ * 4, "adjusted logits");
  a.adjusted = adjusted_.as<float>();
  if (extras.candidates) grow(slot.candidates, candidates_.bytes(), "candidates");
  const PinnedBuffer* from = &slot.rows_upload;
  const DeviceBuffer* to = &slot.rows_device;
  uint64_t bytes = count * sizeof(SampleRow);
  if (extras.brings()) {
    Places places;
    places.counts = align_up(bytes);
    places.bias = align_up(places.counts + extras.counts * sizeof(quire_token_count));
    places.masks = align_up(places.bias + extras.biases * sizeof(quire_logit_bias));
    bytes = align_up(places.masks + extras.masks * ((uint64_t{vocab} + 31) / 32) * 4);
    grow(slot.upload, bytes, "sampling parameters");
    grow(slot.device, bytes, "sampling parameters");
    if (extras.wanted != 0) grow(slot.logits, extras.wanted * vocab * 4, "logits for the host");
    std::memcpy(slot.upload.data(), packed, count * sizeof(SampleRow));
    pack_extras(rows, logits, vocab, places, slot, queue);
    from = &slot.upload, to = &slot.device;
    a.rows = to->as<SampleRow>();
    a.counts = to->as<quire_token_count>(places.counts), a.bias = to->as<quire_logit_bias>(places.bias);
    a.masks = to->as<uint32_t>(places.masks);
  }
  lap.add(times.pack);

  check(cudaMemcpyAsync(to->data(), from->data(), bytes, cudaMemcpyHostToDevice, queue.stream),
        "sending sampling parameters");
  cuda::sample(queue, count, extras.plain(), a);
  if (slot.has_candidates)
    check(cudaMemcpyAsync(slot.candidates.data(), candidates_.data(),
                          uint64_t{count} * QUIRE_MAX_CANDIDATES * sizeof(quire_candidate), cudaMemcpyDeviceToHost,
                          queue.stream),
          "bringing candidates to the host");
  slot.rows = count;
  lap.add(times.sample);
}

void Sampler::take(uint64_t ticket, std::span<quire_sampled_row> rows) {
  Slot& slot = slots_[ticket % kSlots];
  assert(rows.size() == slot.rows);
  const SampleResult* results = results_.as<SampleResult>() + row_base(ticket);
  for (uint32_t r = 0; r < rows.size(); ++r) {
    rows[r].token = results[r].token;
    rows[r].logprob = results[r].logprob;
    rows[r].num_candidates = std::min(rows[r].num_candidates, results[r].num_candidates);
  }
  if (slot.has_candidates)
    for (uint32_t r = 0; r < rows.size(); ++r)
      std::copy_n(slot.candidates.as<quire_candidate>() + uint64_t{r} * QUIRE_MAX_CANDIDATES, rows[r].num_candidates,
                  rows[r].candidates);
  for (const Wanted& wanted : slot.wanted)
    std::memcpy(wanted.to, slot.logits.as<float>() + wanted.offset, uint64_t{slot.vocab} * 4);
  slot.wanted.clear();
  slot.rows = 0;
}

uint64_t Sampler::bytes() const {
  uint64_t bytes = tokens_.bytes() + partials_.bytes() + candidates_.bytes() + adjusted_.bytes();
  for (const Slot& slot : slots_) bytes += slot.device.bytes() + slot.rows_device.bytes();
  return bytes;
}

} // namespace quire::cuda
