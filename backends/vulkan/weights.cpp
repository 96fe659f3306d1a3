#include "weights.hpp"

#include "repack.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <cassert>
#include <thread>

namespace quire::vulkan {
namespace {

std::string name_of(const quire_weight& weight) {
  return std::string("weight ") + (weight.name != nullptr ? weight.name : "?");
}

void check_weight(const quire_weight& weight) {
  const BlockFormat* format = block_format(weight.format);
  if (format == nullptr)
    throw Failure(QUIRE_UNSUPPORTED, name_of(weight) + " has format " + std::to_string(weight.format) +
                                         ", which the Vulkan backend does not know");
  if (weight.rows == 0 || weight.cols == 0 || weight.cols % format->block_elements != 0 ||
      weight.cols >= uint64_t{1} << 31)
    throw Failure(QUIRE_INVALID, name_of(weight) + " is [" + std::to_string(weight.rows) + ", " +
                                     std::to_string(weight.cols) + "], which " + format->name + " can't be");
  if (weight.planes[0].data == nullptr || weight.planes[0].bytes < file_bytes(weight))
    throw Failure(QUIRE_INVALID, name_of(weight) + " has " + std::to_string(weight.planes[0].bytes) +
                                     " bytes of data, needs " + std::to_string(file_bytes(weight)));
}

// body(first, last) over [0, count) on all cores.
template <class Body> void parallel(uint64_t count, Body body) {
  const uint64_t threads = std::clamp<uint64_t>(std::thread::hardware_concurrency(), 1, 32);
  const uint64_t share = (count + threads - 1) / threads;
  std::vector<std::jthread> others; // joined at the end, whatever happens
  for (uint64_t first = share; first < count; first += share)
    others.emplace_back(body, first, std::min(first + share, count));
  body(0, std::min(share, count));
}

} // namespace

uint32_t WeightStore::find_or_add(const quire_weight& weight, bool is_matrix) {
  check_weight(weight);
  for (uint32_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].weight == &weight && entries_[i].is_matrix == is_matrix) return i;
  Entry entry;
  entry.weight = &weight;
  entry.is_matrix = is_matrix;
  entries_.push_back(std::move(entry));
  return static_cast<uint32_t>(entries_.size() - 1);
}

uint32_t WeightStore::add_matrix(const quire_weight& weight) {
  const uint32_t handle = find_or_add(weight, true);
  Matrix& matrix = entries_[handle].matrix;
  if (!matrix.pieces.empty()) return handle;
  const Extent extent(weight);
  matrix = {weight.format, weight.rows,          weight.cols, std::max<uint64_t>(weight.experts, 1),
            extent.blocks, extent.expert_panels, 0,           {}};
  // A piece has whole experts where there are several.
  const uint64_t unit = weight.experts > 1 ? extent.expert_panels : 1;
  const uint64_t most = largest_buffer_ / std::max<uint64_t>(extent.panel_bytes() * unit, 1) * unit;
  matrix.piece_panels = std::min(most, extent.panels);
  const uint64_t pieces = most == 0 ? max_pieces + 1 : (extent.panels + most - 1) / most;
  if (pieces > max_pieces)
    throw Failure(QUIRE_UNSUPPORTED, name_of(weight) + " has " + std::to_string(extent.panels * extent.panel_bytes()) +
                                         " bytes, more than " + std::to_string(max_pieces) +
                                         " buffers of this device hold");
  matrix.pieces.resize(pieces);
  return handle;
}

uint32_t WeightStore::add_vector(const quire_weight& weight) {
  if (weight.format > QUIRE_BF16)
    throw Failure(QUIRE_UNSUPPORTED, name_of(weight) + " is " +
                                         (block_format(weight.format) ? block_format(weight.format)->name : "?") +
                                         ", but a vector has to be F32, F16 or BF16");
  const uint32_t handle = find_or_add(weight, false);
  entries_[handle].bytes = std::max<uint64_t>(weight.experts, 1) * weight.rows * weight.cols * 4;
  return handle;
}

uint32_t WeightStore::add_words(std::vector<uint32_t> words) {
  Entry entry;
  entry.bytes = words.size() * 4;
  entry.words = std::move(words);
  entries_.push_back(std::move(entry));
  return static_cast<uint32_t>(entries_.size() - 1);
}

WeightStore::Place WeightStore::reserve(uint64_t bytes) {
  bytes = align_up(bytes, 256);
  if (sizes_.empty() || sizes_.back() + bytes > largest_buffer_) sizes_.push_back(0);
  const Place place{sizes_.size() - 1, sizes_.back()};
  sizes_.back() += bytes;
  bytes_ += bytes;
  return place;
}

uint32_t WeightStore::buffer_of(address where) const {
  const auto found = std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& buffer) {
    return where >= buffer.address() && where < buffer.address() + buffer.bytes();
  });
  assert(found != buffers_.end());
  return static_cast<uint32_t>(found - buffers_.begin());
}

void WeightStore::load(const std::function<void(uint64_t, uint64_t)>& progress) {
  std::vector<std::vector<Place>> places(entries_.size());
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (!entry.is_matrix) {
      places[i].push_back(reserve(entry.bytes));
      continue;
    }
    const Extent extent(*entry.weight);
    for (uint64_t first = 0; first < extent.panels; first += entry.matrix.piece_panels)
      places[i].push_back(reserve(std::min(entry.matrix.piece_panels, extent.panels - first) * extent.panel_bytes()));
  }
  for (const uint64_t size : sizes_)
    buffers_.push_back(memory_.allocate(size, MemoryKind::device, MemoryUse::weights, "weights"));
  uint64_t done = 0;
  if (progress) progress(0, bytes_);
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[i];
    if (entry.is_matrix) {
      const Extent extent(*entry.weight);
      Matrix& matrix = entry.matrix;
      for (std::size_t piece = 0; piece < places[i].size(); ++piece) {
        const uint64_t first = piece * matrix.piece_panels,
                       count = std::min(matrix.piece_panels, extent.panels - first);
        const address base = address_of(places[i][piece]);
        WeightPart& part = matrix.pieces[piece];
        part.quants = base;
        part.high = base + count * extent.quant_bytes;
        part.aux = part.high + count * extent.high_bytes;
        part.first_panel = static_cast<uint32_t>(first);
        part.rows = static_cast<uint32_t>(
            std::min(count * panel_rows, matrix.rows - std::min(matrix.rows, first * panel_rows)));
        part.out_column = static_cast<uint32_t>(first * panel_rows);
        done += align_up(count * extent.panel_bytes(), 256);
      }
      load_matrix(entry, places[i]);
    } else {
      entry.where = address_of(places[i][0]);
      if (entry.weight != nullptr) {
        entry.words.resize(entry.bytes / 4);
        repack_floats(*entry.weight, reinterpret_cast<float*>(entry.words.data()));
      }
      memory_.write(buffers_[places[i][0].buffer], places[i][0].offset, entry.words.data(), entry.bytes);
      entry.words = {};
      done += align_up(entry.bytes, 256);
    }
    entry.weight = nullptr; // not valid after compile
    if (progress) progress(done, bytes_);
  }
}

void WeightStore::load_matrix(const Entry& entry, const std::vector<Place>& places) {
  const quire_weight& weight = *entry.weight;
  const Extent extent(weight);
  Device& device = memory_.device();
  for (std::size_t piece = 0; piece < places.size(); ++piece) {
    const uint64_t first = piece * entry.matrix.piece_panels;
    const uint64_t count = std::min(entry.matrix.piece_panels, extent.panels - first);
    const Buffer& buffer = buffers_[places[piece].buffer];
    const uint64_t quants = places[piece].offset, high = quants + count * extent.quant_bytes,
                   aux = high + count * extent.high_bytes;
    if (buffer.mapped() != nullptr) {
      parallel(count, [&](uint64_t begin, uint64_t end) {
        repack(weight, first + begin, end - begin, buffer.mapped() + quants + begin * extent.quant_bytes,
               buffer.mapped() + high + begin * extent.high_bytes, buffer.mapped() + aux + begin * extent.aux_bytes);
      });
      continue;
    }
    const uint64_t batch = std::clamp<uint64_t>((uint64_t{64} << 20) / extent.panel_bytes(), 1, count);
    const Buffer staging =
        memory_.allocate(batch * extent.panel_bytes(), MemoryKind::upload, MemoryUse::scratch, "staging");
    for (uint64_t begin = 0; begin < count; begin += batch) {
      const uint64_t part = std::min(batch, count - begin);
      std::byte* const quant_out = staging.mapped();
      std::byte* const high_out = quant_out + part * extent.quant_bytes;
      std::byte* const aux_out = high_out + part * extent.high_bytes;
      parallel(part, [&](uint64_t from, uint64_t to) {
        repack(weight, first + begin + from, to - from, quant_out + from * extent.quant_bytes,
               high_out + from * extent.high_bytes, aux_out + from * extent.aux_bytes);
      });
      device.run_now([&](VkCommandBuffer commands) {
        VkBufferCopy copies[3] = {
            {0, quants + begin * extent.quant_bytes, part * extent.quant_bytes},
            {part * extent.quant_bytes, high + begin * extent.high_bytes, part * extent.high_bytes},
            {part * (extent.quant_bytes + extent.high_bytes), aux + begin * extent.aux_bytes, part * extent.aux_bytes}};
        for (const VkBufferCopy& copy : copies)
          if (copy.size != 0) device.vk().vkCmdCopyBuffer(commands, staging.handle(), buffer.handle(), 1, &copy);
      });
    }
  }
}

} // namespace quire::vulkan
