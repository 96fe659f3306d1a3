// out[0] [T, heads, v_dim] = softmax(softcap(scale * q k^T)) v over the positions that a token sees: its own and those
// before, within the layer's window; a sink joins the denominator.
//
// The softmax is kept online (Milakov and Gimelshein 2018) over tiles of 64 positions that begin at multiples of 64,
// whatever the chunk, the block size or the batch: a row's sums are formed in one order only.
#include "reference/dot.hpp"
#include "reference/ops.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quire::reference {
namespace {

constexpr uint32_t kTile = 64;

// A worker's scratch for one work item: kQueryTile tokens of one KV head's group of query heads.
struct Scratch {
  float *q, *k, *v;         // [queries, k_dim], [kTile, k_dim], [kTile, v_dim]
  float *scores, *sum;      // [queries, kTile], [queries, v_dim]
  float *largest, *divisor; // [queries]

  Scratch(float* base, size_t queries, size_t k_dim, size_t v_dim) {
    const auto take = [&](size_t floats) {
      float* taken = base;
      base += floats;
      return taken;
    };
    q = take(queries * k_dim), k = take(kTile * k_dim), v = take(kTile * v_dim);
    scores = take(queries * kTile), sum = take(queries * v_dim);
    largest = take(queries), divisor = take(queries);
  }
  static size_t floats(size_t queries, size_t k_dim, size_t v_dim) {
    return queries * (k_dim + kTile + v_dim + 2) + kTile * (k_dim + v_dim);
  }
};

} // namespace

void attend(const OpRun& run) {
  const quire_attend& p = run.op.u.attend;
  const quire_kv_layer& layer = run.program.kv_layers()[p.kv_layer];
  const uint32_t window = run.program.kv_groups()[layer.group].window;
  const uint32_t block_size = run.program.limits().block_size;
  const uint32_t* table = run.step.tables[layer.group].data();
  const Tensor in = run.in(0), out = run.out(0); // [T, heads, k_dim], [T, heads, v_dim]
  const float* sinks = p.sinks ? run.weight(p.sinks)->vector() : nullptr;
  const uint32_t group_heads = in.heads / layer.kv_heads, k_dim = layer.k_dim, v_dim = layer.v_dim;

  const auto& tiles = run.step.query_tiles;
  run.pool.run(tiles.size() * layer.kv_heads, [&](size_t item, unsigned worker) {
    const QueryTile& queries = tiles[item / layer.kv_heads];
    const auto kv_head = static_cast<uint32_t>(item % layer.kv_heads);
    const uint32_t num_queries =
        queries.num_tokens * group_heads; // query i: token i / group_heads, head i % group_heads
    const Scratch s(run.program.worker_scratch(worker), num_queries, k_dim, v_dim);
    const uint32_t* blocks = table + run.step.table_start[queries.sequence];
    const uint32_t first_position = run.step.position[queries.first_token];
    const uint32_t end = first_position + queries.num_tokens;
    const auto first_seen = [&](uint32_t position) {
      return window != 0 && position + 1 > window ? position + 1 - window : 0u;
    };

    for (uint32_t i = 0; i < num_queries; ++i) {
      const uint32_t head = kv_head * group_heads + i % group_heads;
      const float* from = in.row(queries.first_token + i / group_heads) + size_t{head} * k_dim;
      std::copy_n(from, k_dim, s.q + size_t{i} * k_dim);
      std::fill_n(s.sum + size_t{i} * v_dim, v_dim, 0.0f);
      s.largest[i] = sinks ? sinks[head] : -std::numeric_limits<float>::infinity();
      s.divisor[i] = sinks ? 1.0f : 0.0f;
    }
    const uint32_t begin = first_seen(first_position);
    for (uint32_t tile = begin / kTile * kTile; tile < end; tile += kTile) {
      const uint32_t tile_begin = std::max(tile, begin), tile_end = std::min(tile + kTile, end);
      for (uint32_t at = tile_begin; at < tile_end;) {
        const uint32_t slot = at % block_size, count = std::min(block_size - slot, tile_end - at);
        const uint32_t block = blocks[at / block_size];
        run.kv->load(p.kv_layer, 0, block, kv_head, slot, count, s.k + size_t{at - tile} * k_dim);
        run.kv->load(p.kv_layer, 1, block, kv_head, slot, count, s.v + size_t{at - tile} * v_dim);
        at += count;
      }
      const uint32_t offset = tile_begin - tile, loaded = tile_end - tile_begin;
      dot_rows(s.q, k_dim, num_queries, s.k + size_t{offset} * k_dim, k_dim, loaded, k_dim, s.scores + offset, kTile);
      for (uint32_t i = 0; i < num_queries; ++i) {
        const uint32_t position = first_position + i / group_heads;
        const uint32_t from = std::max(tile, first_seen(position)), to = std::min(tile + kTile, position + 1);
        if (from >= to) continue;
        float* scores = s.scores + size_t{i} * kTile + (from - tile);
        const uint32_t count = to - from;
        float largest = s.largest[i];
        for (uint32_t j = 0; j < count; ++j) {
          scores[j] *= p.scale;
          if (p.softcap != 0) scores[j] = p.softcap * std::tanh(scores[j] / p.softcap);
          largest = std::max(largest, scores[j]);
        }
        const float decay = std::exp(s.largest[i] - largest);
        float divisor = s.divisor[i] * decay;
        for (uint32_t j = 0; j < count; ++j) {
          scores[j] = std::exp(scores[j] - largest);
          divisor += scores[j];
        }
        s.divisor[i] = divisor;
        s.largest[i] = largest;
        accumulate_rows(scores, count, s.v + size_t{from - tile} * v_dim, v_dim, v_dim, decay,
                        s.sum + size_t{i} * v_dim);
      }
    }
    for (uint32_t i = 0; i < num_queries; ++i) {
      const uint32_t head = kv_head * group_heads + i % group_heads;
      float* y = out.row(queries.first_token + i / group_heads) + size_t{head} * v_dim;
      for (uint32_t d = 0; d < v_dim; ++d) y[d] = s.sum[size_t{i} * v_dim + d] / s.divisor[i];
    }
  });
}

size_t attend_scratch_floats(const CompiledProgram& program, const quire_op& op) {
  const quire_kv_layer& layer = program.kv_layers()[op.u.attend.kv_layer];
  const uint32_t group_heads = program.value(op.in[0]).heads / layer.kv_heads;
  return Scratch::floats(size_t{kQueryTile} * group_heads, layer.k_dim, layer.v_dim);
}

} // namespace quire::reference
