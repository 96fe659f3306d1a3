#include "sampling.hpp"

#include "lower.hpp"
#include "program.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <string>

namespace quire::vulkan {

SampleBatch::SampleBatch(std::span<const quire_sampling_row> given, const SampleSource& source) {
  const uint32_t mask_words = (source.vocab + 31) / 32;
  for (std::size_t r = 0; r < given.size(); ++r) {
    const quire_sampling_row& from = given[r];
    const auto need = [&](bool good, const std::string& sentence) {
      if (!good) throw Failure(QUIRE_INVALID, "sampling row " + std::to_string(r) + ": " + sentence);
    };
    need(from.num_candidates <= QUIRE_MAX_CANDIDATES, "num_candidates is " + std::to_string(from.num_candidates) +
                                                          ", at most " + std::to_string(QUIRE_MAX_CANDIDATES) +
                                                          " can be had");
    need(from.pending_row <= source.previous_rows, "pending_row is " + std::to_string(from.pending_row) +
                                                       ", but the step before sampled " +
                                                       std::to_string(source.previous_rows) + " rows");
    SampleRow row{};
    row.temperature = from.temperature > 0 ? from.temperature : 1.0f;
    row.top_p = from.top_p;
    row.min_p = from.min_p;
    row.typical_p = from.typical_p;
    row.top_k = from.top_k;
    row.repetition_penalty = from.repetition_penalty == 0 ? 1.0f : from.repetition_penalty;
    row.presence_penalty = from.presence_penalty;
    row.frequency_penalty = from.frequency_penalty;
    row.seed_low = static_cast<uint32_t>(from.seed);
    row.seed_high = static_cast<uint32_t>(from.seed >> 32);
    row.choice = from.choice;
    row.position = from.position;
    row.num_candidates = from.num_candidates;
    const bool penalties = row.repetition_penalty != 1.0f || row.presence_penalty != 0 || row.frequency_penalty != 0;
    row.pending_row = penalties ? from.pending_row : 0;
    if (from.temperature > 0) {
      row.flags |= sample_random;
      const bool cut = from.min_p > 0 || (from.top_k > 0 && from.top_k < source.vocab) ||
                       (from.typical_p > 0 && from.typical_p < 1) || (from.top_p > 0 && from.top_p < 1);
      if (cut) row.flags |= sample_cut;
      any_cut |= cut;
    }
    // One entry a token: counts, with the bias of the same token in it.
    row.first_edit = static_cast<uint32_t>(edits.size());
    if (penalties)
      for (uint32_t i = 0; i < from.num_counts; ++i) {
        const quire_token_count& count = from.counts[i];
        need(count.token >= 0 && static_cast<uint32_t>(count.token) < source.vocab,
             "a count names token " + std::to_string(count.token) + " of " + std::to_string(source.vocab));
        edits.push_back({static_cast<uint32_t>(count.token), count.in_prompt, count.in_output, 0.0f});
      }
    const auto first = edits.begin() + row.first_edit;
    const auto by_token = [](const SampleEdit& a, const SampleEdit& b) { return a.token < b.token; };
    std::sort(first, edits.end(), by_token);
    const std::size_t counted = edits.size();
    for (uint32_t i = 0; i < from.num_bias; ++i) {
      const quire_logit_bias& bias = from.bias[i];
      need(bias.token >= 0 && static_cast<uint32_t>(bias.token) < source.vocab,
           "a bias names token " + std::to_string(bias.token) + " of " + std::to_string(source.vocab));
      const SampleEdit edit{static_cast<uint32_t>(bias.token), 0, 0, bias.bias};
      const auto own = edits.begin() + row.first_edit, end = edits.begin() + static_cast<std::ptrdiff_t>(counted);
      const auto found = std::lower_bound(own, end, edit, by_token);
      if (found != end && found->token == edit.token)
        found->bias = edit.bias;
      else
        edits.push_back(edit);
    }
    row.num_edits = static_cast<uint32_t>(edits.size()) - row.first_edit;
    if (from.mask != nullptr) {
      row.mask = static_cast<uint32_t>(masks.size()) + 1;
      masks.insert(masks.end(), from.mask, from.mask + mask_words);
    }
    if (row.num_edits != 0 || row.mask != 0 || row.pending_row != 0) {
      row.flags |= sample_edited;
      row.edited = num_edited++;
    }
    if (from.num_candidates != 0) {
      row.flags |= sample_candidates;
      row.candidate = num_candidates;
      num_candidates += from.num_candidates;
    }
    rows.push_back(row);
    logits.push_back(from.logits);
  }
}

SampleScratch::SampleScratch(Memory& memory, Pipelines& pipelines) : memory_(memory), pipelines_(pipelines) {
  const KernelShape shape(memory.device().traits(), false);
  subgroup_ = shape.subgroup;
  element_group_ = shape.element_group;
  reduce_group_ = shape.reduce_group;
  chunk_ = shape.cpu ? 4096 : 1024;
  cpu_ = shape.cpu;
}

void SampleScratch::reserve(const SampleBatch& batch, const SampleSource& source) {
  const uint64_t rows = batch.rows.size(), num_chunks = (source.vocab + chunk_ - 1) / chunk_;
  const auto grow = [&](Buffer& buffer, uint64_t bytes) {
    if (buffer.bytes() >= bytes) return;
    Buffer larger = memory_.allocate(bytes, MemoryKind::device, MemoryUse::scratch, "sampling");
    memory_.device().wait_all(); // who still uses the old one
    buffer = std::move(larger);
  };
  grow(edited_, uint64_t{batch.num_edited} * source.vocab * 4);
  grow(chunks_, rows * num_chunks * sizeof(SampleChunk));
  grow(cuts_, rows * sizeof(SampleCut));
}

SampleSlot::SampleSlot(Memory& memory, Pipelines& pipelines) : memory_(memory) {
  parameters_ =
      memory.allocate(parameter_bytes + sizeof(StepBlock), MemoryKind::upload, MemoryUse::scratch, "sampling");
  std::memset(parameters_.mapped(), 0, parameters_.bytes());
  // The shaders' step block is not read here; any uniform memory of its size will do.
  set_ = pipelines.describe(parameters_.handle(), parameters_.handle(), sizeof(StepBlock));
}

void SampleSlot::record(VkCommandBuffer commands, SampleScratch& scratch, const SampleBatch& batch,
                        const SampleSource& source) {
  const VolkDeviceTable& vk = memory_.device().vk();
  const uint64_t rows = batch.rows.size();
  const uint64_t edits_at = align_up(rows * sizeof(SampleRow), 16),
                 masks_at = align_up(edits_at + batch.edits.size() * sizeof(SampleEdit), 16);
  const uint64_t input_bytes = masks_at + batch.masks.size() * 4;
  const uint64_t candidates_at = align_up(rows * sizeof(SampleResult), 16);
  const uint64_t result_bytes = candidates_at + batch.num_candidates * sizeof(SampleCandidate);
  const auto wanted = static_cast<uint64_t>(
      std::count_if(batch.logits.begin(), batch.logits.end(), [](float* at) { return at != nullptr; }));
  const auto grow = [&](Buffer& buffer, uint64_t bytes, MemoryKind kind, const char* what) {
    if (buffer.bytes() < bytes) buffer = memory_.allocate(bytes, kind, MemoryUse::scratch, what);
  };
  grow(input_, input_bytes, MemoryKind::upload, "sampling");
  grow(results_, result_bytes, MemoryKind::readback, "sampled rows");
  grow(logits_, wanted * source.vocab * 4, MemoryKind::readback, "logits for the host");
  scratch.reserve(batch, source);

  std::memcpy(input_.mapped(), batch.rows.data(), rows * sizeof(SampleRow));
  if (!batch.edits.empty())
    std::memcpy(input_.mapped() + edits_at, batch.edits.data(), batch.edits.size() * sizeof(SampleEdit));
  if (!batch.masks.empty()) std::memcpy(input_.mapped() + masks_at, batch.masks.data(), batch.masks.size() * 4);
  SampleParams params{};
  params.logits = source.logits;
  params.edited = scratch.edited_.address();
  params.rows = input_.address();
  params.edits = input_.address() + edits_at;
  params.masks = input_.address() + masks_at;
  params.chunks = scratch.chunks_.address();
  params.cuts = scratch.cuts_.address();
  params.sampled = source.sampled;
  params.previous = source.previous;
  params.results = results_.address();
  params.candidates = results_.address() + candidates_at;
  params.logit_stride = source.stride;
  params.vocab = source.vocab;
  params.chunk = scratch.chunk_;
  params.num_chunks = (source.vocab + scratch.chunk_ - 1) / scratch.chunk_;
  params.num_rows = static_cast<uint32_t>(rows);
  std::memcpy(parameters_.mapped(), &params, sizeof params);
  candidates_offset_ = candidates_at;
  first_candidate_.clear();
  for (const SampleRow& row : batch.rows) first_candidate_.push_back(row.candidate);
  wanted_logits_ = batch.logits;
  vocab_ = source.vocab;

  const auto dispatch = [&](const char* shader, uint32_t workgroup, std::vector<uint32_t> constants, uint32_t x) {
    vk.vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE,
                         scratch.pipelines_.get(shader, workgroup, constants));
    const uint32_t offset = 0;
    vk.vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, scratch.pipelines_.layout(), 0, 1, &set_, 1,
                               &offset);
    vk.vkCmdDispatch(commands, x, params.num_rows, 1);
  };
  // A CPU device is quickest with one subgroup; but an invocation's loops are bounded there (KernelShape), and the
  // digits of three thresholds are some 30 passes over the vocabulary.
  const uint32_t reduce_group = scratch.cpu_
                                    ? std::clamp(std::bit_ceil(source.vocab / 1900 + 1), scratch.subgroup_, 1024u)
                                    : scratch.reduce_group_;
  full_barrier(vk, commands);
  if (batch.num_edited != 0) {
    dispatch("sample_edit", scratch.element_group_, {}, params.num_chunks);
    full_barrier(vk, commands);
    dispatch("sample_patch", scratch.subgroup_, {}, 1);
    full_barrier(vk, commands);
  }
  dispatch("sample_scan", scratch.subgroup_, {0}, params.num_chunks);
  if (batch.num_candidates != 0) dispatch("sample_candidates", reduce_group, {}, 1);
  full_barrier(vk, commands);
  if (batch.any_cut) {
    dispatch("sample_cut", reduce_group, {}, 1);
    full_barrier(vk, commands);
    dispatch("sample_scan", scratch.subgroup_, {1}, params.num_chunks);
    full_barrier(vk, commands);
  }
  dispatch("sample_pick", scratch.subgroup_, {}, 1);
  uint64_t at = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    if (batch.logits[r] == nullptr) continue;
    const VkBufferCopy copy{source.buffer_offset + uint64_t{r} * source.stride * 4, at, uint64_t{source.vocab} * 4};
    vk.vkCmdCopyBuffer(commands, source.buffer, logits_.handle(), 1, &copy);
    at += copy.size;
  }
  full_barrier(vk, commands);
}

void SampleSlot::take(std::span<quire_sampled_row> rows) const {
  uint64_t at = 0;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    SampleResult result;
    std::memcpy(&result, results_.mapped() + r * sizeof result, sizeof result);
    rows[r].token = result.token;
    rows[r].logprob = result.logprob;
    rows[r].num_candidates = std::min(rows[r].num_candidates, result.num_candidates);
    if (rows[r].candidates == nullptr) rows[r].num_candidates = 0;
    static_assert(sizeof(quire_candidate) == sizeof(SampleCandidate));
    if (rows[r].num_candidates != 0)
      std::memcpy(rows[r].candidates,
                  results_.mapped() + candidates_offset_ + uint64_t{first_candidate_[r]} * sizeof(SampleCandidate),
                  rows[r].num_candidates * sizeof(SampleCandidate));
    if (wanted_logits_[r] == nullptr) continue;
    std::memcpy(wanted_logits_[r], logits_.mapped() + at, uint64_t{vocab_} * 4);
    at += uint64_t{vocab_} * 4;
  }
}

} // namespace quire::vulkan
