// The host's side of sampling: rows packed for one upload, results brought back.
//
// Slots are used in turn, one a ticket in flight: a ticket is sampled while at most the one before is unwaited. Decode
// graphs end with sampling plain rows (greedy, or temperature alone), which come along with the step; all others are a
// copy of the rows and two launches. Errors: Failure. Threads: the backend's queue.
#pragma once

#include "memory.hpp"
#include "ops/sample.hpp"
#include "step_times.hpp"

#include <quire/plugin.h>

#include <cstdint>
#include <span>
#include <vector>

namespace quire::cuda {

class Sampler {
 public:
  // Makes room for max_rows rows of vocab; keeps what it has where that is enough.
  void reserve(uint32_t max_rows, uint32_t vocab);

  // Where the tokens of ticket `ticket` are put, [max_rows]; two tickets behind each other have different places in one
  // array.
  int32_t* tokens() const { return tokens_.as<int32_t>(); }
  uint32_t row_base(uint64_t ticket) const { return static_cast<uint32_t>(ticket % 2) * max_rows_; }

  // What a decode graph ends with: the sampling of the plain rows among those that will lie at `packed` [rows]. To be
  // captured anew after reserve() has moved tokens().
  void queue_plain(const SampleRow* packed, uint32_t rows, const float* logits, uint32_t vocab,
                   const Queue& queue) const;
  // The ticket's rows for its graph, padded to all of `to`. False, and nothing there to sample, where some aren't
  // plain: then sample() is for them, behind the graph.
  bool pack_plain(uint64_t ticket, std::span<const quire_sampling_row> rows, uint32_t vocab, std::span<SampleRow> to);
  // The ticket's graph was launched with so many rows that pack_plain packed.
  void sampled_plain(uint64_t ticket, uint32_t rows);

  // Queues the sampling of logits [rows, vocab]. times: gets what packing the rows and the driver's calls took.
  void sample(uint64_t ticket, std::span<const quire_sampling_row> rows, const float* logits, uint32_t vocab,
              const Queue& queue, StepTimes::Parts& times);
  // After the device is done: the rows, and their logits where they were asked for.
  void take(uint64_t ticket, std::span<quire_sampled_row> rows);
  uint32_t num_rows(uint64_t ticket) const { return slots_[ticket % kSlots].rows; }
  // The ticket's rows are gone (it failed, or nothing is sampled).
  void forget(uint64_t ticket) { slots_[ticket % kSlots].rows = 0; }

  uint64_t bytes() const;

 private:
  static constexpr uint32_t kSlots = 2;
  struct Wanted {
    float* to;
    uint64_t offset; // floats in the pinned logits
  };
  // What rows bring along, counted.
  struct Extras {
    uint64_t counts = 0, biases = 0, masks = 0, wanted = 0;
    bool adjusts = false, candidates = false;
    bool brings() const { return counts + biases + masks + wanted != 0; }
    bool plain() const { return !adjusts && !candidates; }
  };
  struct Slot {
    PinnedBuffer rows_upload; // SampleRow [max_rows]
    DeviceBuffer rows_device;
    PinnedBuffer upload; // SampleRow [rows], then what they bring along, where they do
    DeviceBuffer device;
    PinnedBuffer candidates; // quire_candidate [max_rows, QUIRE_MAX_CANDIDATES]
    PinnedBuffer logits;     // of rows that want them
    std::vector<Wanted> wanted;
    uint32_t rows = 0;
    uint32_t vocab = 0;
    bool has_candidates = false;
  };

  // first_place: where the first row's token and result go.
  static Extras pack(std::span<const quire_sampling_row> rows, uint32_t vocab, uint32_t first_place, SampleRow* to);
  // Copies what the rows bring along behind them, and queues bringing the logits that they want to the host.
  struct Places {
    uint64_t counts = 0, bias = 0, masks = 0, end = 0; // bytes from the start of the upload
  };
  static void pack_extras(std::span<const quire_sampling_row> rows, const float* logits, uint32_t vocab,
                          const Places& places, Slot& slot, const Queue& queue);

  SampleArgs arguments(const SampleRow* packed, const float* logits, uint32_t vocab) const;

  uint32_t max_rows_ = 0, vocab_ = 0;
  DeviceBuffer tokens_, partials_, candidates_, adjusted_;
  PinnedBuffer results_; // SampleResult [2 * max_rows]: the device writes here
  Slot slots_[kSlots];
};

} // namespace quire::cuda
