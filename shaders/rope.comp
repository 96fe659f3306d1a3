// rope: q_out = rotate(q) by each token's position; with store, k is rotated likewise and k and v go to the cache (the fusion of
// rope and kv_store). kv_store.comp has the storing alone.
//
// Grid: x = pairs of elements of all heads / invocations, y = tokens.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "rotate.glsl"

void main() {
  const uint token = gl_WorkGroupID.y;
  if (token >= step.num_tokens) return;
  uint i = gl_GlobalInvocationID.x;
  const TokenInfo info = Infos(step.infos).at[token];
  const uint q_pairs = (p.dim + 1) / 2;
  if (i < p.q_heads * q_pairs) {
    const uint start = i / q_pairs * p.dim, e = i % q_pairs * 2;
    ReadFloat head = ReadFloat(p.q + (uint64_t(token) * p.q_stride + start) * 4);
    WriteFloat result = WriteFloat(p.q_out + (uint64_t(token) * p.q_out_stride + start) * 4);
    result.at[e] = rotated(head, e, info.position);
    if (e + 1 < p.dim) result.at[e + 1] = rotated(head, e + 1, info.position);
    return;
  }
  store_kv(i - p.q_heads * q_pairs, token, info);
}
