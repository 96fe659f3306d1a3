// derive: what every step works out first, an invocation a token and an entry of a block table: each token's sequence, position and
// id (given, or sampled by the ticket before), and each block's address.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

void main() {
  const uint i = gl_GlobalInvocationID.x;
  if (i < step.num_tokens) {
    ReadUint starts = ReadUint(step.query_start);
    uint low = 0, high = step.num_sequences; // starts[low] <= i < starts[high]
    while (high - low > 1) {
      const uint middle = (low + high) / 2;
      if (starts.at[middle] <= i) low = middle;
      else high = middle;
    }
    const uint sampled = step.token_rows != 0 ? ReadUint(step.token_rows).at[i] : 0;
    int id = 0;
    if (sampled != 0) id = ReadInt(step.previous).at[sampled - 1];
    else id = ReadInt(step.tokens).at[i];
    TokenInfo info;
    info.id = uint(max(id, 0));
    info.sequence = low;
    info.position = ReadUint(step.seq_len).at[low] - (starts.at[low + 1] - i);
    info.unused = 0;
    Infos(step.infos).at[i] = info;
  }
  if (i < step.num_entries)
    for (uint g = 0; g < step.num_groups; ++g) {
      const uint block = ReadUint(step_groups[g].table).at[i], shift = step_groups[g].chunk_shift;
      uint64_t base = 0;
      if (block < step_groups[g].num_blocks)
        base = ReadAddress(step_groups[g].chunks).at[block >> shift] +
               uint64_t(block & ((1u << shift) - 1u)) * step_groups[g].block_bytes_256 * 256;
      WriteAddress(step_groups[g].addresses).at[i] = base;
    }
}
