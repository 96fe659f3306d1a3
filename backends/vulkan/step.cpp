#include "step.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <string>

namespace quire::vulkan {

AttendWork plan_attention(const quire_step& step, uint32_t window, const AttendBounds& bounds) {
  AttendWork work;
  const uint32_t tile_tokens = bounds.tile_tokens;
  const auto first_segment = [&](uint32_t position) {
    return window != 0 && position + 1 > window ? (position + 1 - window) / segment_tokens : 0;
  };
  uint32_t alone = 0; // work units if nothing is split
  for (uint32_t s = 0; s < step.num_sequences; ++s)
    alone += (step.query_start[s + 1] - step.query_start[s] + tile_tokens - 1) / tile_tokens;
  const bool split = uint64_t{alone} * bounds.width < bounds.parallel;
  uint32_t partials = 0;
  const auto one_token = [&](uint32_t token, uint32_t position, uint32_t table) {
    const uint32_t begin = first_segment(position), end = position / segment_tokens + 1;
    const bool must = end - begin > bounds.max_segments;
    const bool fits = end - begin <= bounds.max_partials - partials;
    if (must && !fits)
      throw Failure(QUIRE_UNSUPPORTED, "step: " + std::to_string(step.num_tokens) + " tokens over contexts of up to " +
                                           std::to_string(position + 1) +
                                           " are more than this device takes at once: lower the tokens of a step");
    if (!must && !(split && end - begin > 1 && fits)) {
      work.items.push_back({token, 1, begin, end, position, table, 0, window});
      return;
    }
    work.combines.push_back({token, partials, end - begin, 0});
    for (uint32_t segment = begin; segment < end; ++segment)
      work.items.push_back({token, 1, segment, segment + 1, position, table, ++partials, window});
  };
  for (uint32_t s = 0; s < step.num_sequences; ++s) {
    const uint32_t token = step.query_start[s], count = step.query_start[s + 1] - token;
    const uint32_t position = step.seq_len[s] - count, table = step.table_start[s];
    for (uint32_t first = 0; first < count; first += tile_tokens) {
      const uint32_t tokens = std::min(tile_tokens, count - first);
      const uint32_t begin = first_segment(position + first),
                     end = (position + first + tokens - 1) / segment_tokens + 1;
      if (tokens > 1 && end - begin <= bounds.max_segments)
        work.tile_items.push_back({token + first, tokens, begin, end, position + first, table, 0, window});
      else
        for (uint32_t t = first; t < first + tokens; ++t) one_token(token + t, position + t, table);
    }
  }
  // Longest first, so that the last to finish are short.
  const auto longer = [](const AttendItem& a, const AttendItem& b) {
    return a.segment_end - a.segment_begin > b.segment_end - b.segment_begin;
  };
  std::stable_sort(work.items.begin(), work.items.end(), longer);
  std::stable_sort(work.tile_items.begin(), work.tile_items.end(), longer);
  return work;
}

void check_step(const quire_step& step, const Program& program, const KvPool* pool) {
  const auto need = [](bool good, const char* what, uint64_t index, uint64_t value, uint64_t bound) {
    if (!good)
      throw Failure(QUIRE_INVALID, std::string("step: ") + what + "[" + std::to_string(index) + "] is " +
                                       std::to_string(value) + ", which does not fit " + std::to_string(bound));
  };
  const quire_limits& limits = program.limits();
  const auto within = [](const char* what, uint32_t value, uint32_t least, uint32_t most) {
    if (value < least || value > most)
      throw Failure(QUIRE_INVALID, std::string("step: ") + what + " is " + std::to_string(value) + ", has to be " +
                                       std::to_string(least) + " to " + std::to_string(most));
  };
  within("num_tokens", step.num_tokens, 1, limits.max_tokens);
  within("num_sequences", step.num_sequences, 1, std::min(limits.max_sequences, step.num_tokens));
  within("num_rows", step.num_rows, 0, limits.max_rows);
  if (step.tokens == nullptr || step.query_start == nullptr || step.seq_len == nullptr ||
      (step.num_rows != 0 && step.rows == nullptr) ||
      (program.num_groups() != 0 && (step.table_start == nullptr || step.tables == nullptr)))
    throw Failure(QUIRE_INVALID, "step: an array is missing");
  if (program.num_groups() != 0 && pool == nullptr)
    throw Failure(QUIRE_INVALID, "step: the program has no KV cache yet: call kv_create");
  need(step.query_start[0] == 0, "query_start", 0, step.query_start[0], 0);
  need(step.query_start[step.num_sequences] == step.num_tokens, "query_start", step.num_sequences,
       step.query_start[step.num_sequences], step.num_tokens);
  for (uint32_t s = 0; s < step.num_sequences; ++s) {
    const uint32_t length = step.seq_len[s];
    need(step.query_start[s] < step.query_start[s + 1], "query_start", s + 1, step.query_start[s + 1],
         step.query_start[s]);
    need(length >= step.query_start[s + 1] - step.query_start[s] && length <= limits.max_context, "seq_len", s, length,
         limits.max_context);
    if (program.num_groups() == 0) continue;
    const uint64_t blocks = (uint64_t{length} + limits.block_size - 1) / limits.block_size;
    need(step.table_start[s + 1] >= step.table_start[s] && step.table_start[s + 1] - step.table_start[s] >= blocks,
         "table_start", s + 1, step.table_start[s + 1], step.table_start[s] + blocks);
    const uint32_t first = length - (step.query_start[s + 1] - step.query_start[s]);
    for (uint32_t g = 0; g < program.num_groups(); ++g) {
      const uint32_t window = program.kv().windows[g];
      const uint32_t seen = window != 0 && first + 1 > window ? first + 1 - window : 0;
      for (uint64_t b = seen / limits.block_size; b < blocks; ++b) {
        const uint32_t block = step.tables[g][step.table_start[s] + b];
        need(block < pool->num_blocks(g), "tables", step.table_start[s] + b, block, pool->num_blocks(g));
      }
    }
  }
  for (uint32_t r = 0; r < step.num_rows; ++r) {
    need(step.rows[r] < step.num_tokens, "rows", r, step.rows[r], step.num_tokens);
    if (r != 0) need(step.rows[r - 1] <= step.rows[r], "rows", r, step.rows[r], step.rows[r - 1]);
  }
  if (step.adapters != nullptr)
    for (uint32_t s = 0; s < step.num_sequences; ++s) need(step.adapters[s] == 0, "adapters", s, step.adapters[s], 0);
}

void StepArrays::reserve(uint64_t host_bytes, uint64_t derived_bytes) {
  const auto grow = [&](Buffer& buffer, uint64_t bytes, MemoryKind kind) {
    if (buffer.bytes() < bytes)
      buffer = memory_.allocate(std::max(bytes, buffer.bytes() * 2), kind, MemoryUse::scratch, "a step's arrays");
  };
  grow(host_, host_bytes, MemoryKind::upload);
  if (!memory_.host_reaches_device()) grow(device_, host_bytes, MemoryKind::device);
  grow(derived_, derived_bytes, MemoryKind::device);
}

void StepArrays::fill(const quire_step& step, const Program& program, const KvPool* pool, uint32_t parallel,
                      StepBlock& block, StepSizes& sizes) {
  const uint32_t groups = program.num_groups();
  const uint32_t entries = groups != 0 ? step.table_start[step.num_sequences] : 0;
  sizes = {};
  sizes.counts[count_tokens] = step.num_tokens;
  sizes.counts[count_sequences] = step.num_sequences;
  sizes.counts[count_rows] = step.num_rows;
  sizes.entries = entries;
  std::vector<AttendWork> works;
  for (uint32_t g = 0; g < groups; ++g) {
    works.push_back(plan_attention(step, program.kv().windows[g],
                                   {std::max(program.tile_tokens(), 1u), program.attend_width(), parallel,
                                    program.max_partials(), program.max_segments()}));
    sizes.items[g] = static_cast<uint32_t>(works[g].items.size());
    sizes.tile_items[g] = static_cast<uint32_t>(works[g].tile_items.size());
    sizes.combines[g] = static_cast<uint32_t>(works[g].combines.size());
  }

  uint64_t at = 0;
  struct Part {
    uint64_t offset;
    const void* data;
    uint64_t bytes;
  };
  std::vector<Part> parts;
  const auto place = [&](const void* data, uint64_t bytes) {
    parts.push_back({at, data, bytes});
    at = align_up(at + bytes, 16);
    return parts.back().offset;
  };
  const uint64_t tokens = place(step.tokens, uint64_t{step.num_tokens} * 4);
  const uint64_t token_rows = step.token_rows != nullptr ? place(step.token_rows, uint64_t{step.num_tokens} * 4) : 0;
  const uint64_t query_start = place(step.query_start, (uint64_t{step.num_sequences} + 1) * 4);
  const uint64_t seq_len = place(step.seq_len, uint64_t{step.num_sequences} * 4);
  const uint64_t table_start = groups != 0 ? place(step.table_start, (uint64_t{step.num_sequences} + 1) * 4) : 0;
  const uint64_t rows = place(step.rows, uint64_t{step.num_rows} * 4);
  struct GroupParts {
    uint64_t table, items, tile_items, combines;
  };
  std::vector<GroupParts> group_parts;
  for (uint32_t g = 0; g < groups; ++g)
    group_parts.push_back({place(step.tables[g], uint64_t{entries} * 4),
                           place(works[g].items.data(), works[g].items.size() * sizeof(AttendItem)),
                           place(works[g].tile_items.data(), works[g].tile_items.size() * sizeof(AttendItem)),
                           place(works[g].combines.data(), works[g].combines.size() * sizeof(CombineItem))});
  const uint64_t infos_bytes = align_up(uint64_t{step.num_tokens} * sizeof(TokenInfo), 256);
  const uint64_t table_bytes = align_up(uint64_t{entries} * sizeof(address), 256);
  reserve(at, infos_bytes + groups * table_bytes);
  used_ = at;
  for (const Part& part : parts)
    if (part.bytes != 0) std::memcpy(host_.mapped() + part.offset, part.data, part.bytes);

  const address base = device_ ? device_.address() : host_.address();
  block = {};
  block.header.num_tokens = step.num_tokens;
  block.header.num_sequences = step.num_sequences;
  block.header.num_rows = step.num_rows;
  block.header.tokens = base + tokens;
  block.header.token_rows = step.token_rows != nullptr ? base + token_rows : 0;
  block.header.query_start = base + query_start;
  block.header.seq_len = base + seq_len;
  block.header.table_start = base + table_start;
  block.header.rows = base + rows;
  block.header.infos = derived_.address();
  block.header.num_groups = groups;
  block.header.num_entries = entries;
  for (uint32_t g = 0; g < groups; ++g) {
    StepGroup& group = block.groups[g];
    pool->describe(g, group);
    group.table = base + group_parts[g].table;
    group.addresses = derived_.address() + infos_bytes + g * table_bytes;
    group.items = base + group_parts[g].items;
    group.tile_items = base + group_parts[g].tile_items;
    group.combines = base + group_parts[g].combines;
    group.num_items = sizes.items[g];
    group.num_tile_items = sizes.tile_items[g];
    group.num_combines = sizes.combines[g];
  }
}

void StepArrays::record_upload(VkCommandBuffer commands) const {
  if (!device_) return;
  const VkBufferCopy copy{0, 0, used_};
  memory_.device().vk().vkCmdCopyBuffer(commands, host_.handle(), device_.handle(), 1, &copy);
}

} // namespace quire::vulkan
