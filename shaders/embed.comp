// embed: y [T, dim] = scale * table[token], or y += table[position] for learned positions. An invocation unpacks a block of 32.
//
// Grid: x = blocks / invocations, y = tokens.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "weights.glsl"

layout(set = 0, binding = 0, std140) uniform Launch {
  EmbedParams p;
  WeightPart pieces[max_pieces];
};

void main() {
  const uint block = gl_GlobalInvocationID.x, token = gl_WorkGroupID.y;
  if (token >= step.num_tokens || block >= p.blocks) return;
  const TokenInfo info = Infos(step.infos).at[token];
  const uint row = min(p.by_position != 0 ? info.position : info.id, p.rows - 1);
  const uint piece = row / p.piece_rows, own = row % p.piece_rows;
  const uint panel = own / panel_rows, lane = own % panel_rows;
  WeightPart part = pieces[0];
  for (uint n = 1; n < p.num_pieces; ++n)
    if (n == piece) part = pieces[n];
  const uint supers = (p.blocks + super_blocks - 1) / super_blocks;
  const Scale scale = scale_of(load_aux(part, panel * supers + block / super_blocks, lane), block % super_blocks);
#ifndef FORMAT_WIDE
  const Quants quants = load_quants(part, panel * p.blocks + block, lane);
#endif
  WriteFloat y = write_at(p.y, token, p.y_stride);
  for (uint u = 0; u < 4; ++u) {
#ifdef FORMAT_WIDE
    const Octet octet = load_octet(part, panel * p.blocks + block, lane, u);
#else
    const Octet octet = octet_of(quants, scale, u);
#endif
    [[unroll]] for (uint j = 0; j < 8; ++j) {
      const uint k = block * block_columns + 8 * u + j;
      const float value = unpack(octet, scale, j) * p.scale;
      if (k < p.dim) y.at[k] = p.by_position != 0 ? y.at[k] + value : value;
    }
  }
}
