// ceiling: what the device can do at most, as shaders see it: reading (multiply = 0) or multiplying and adding (multiply = 1).
//
// Reading: a workgroup reads a stretch of its own, `columns` 16-byte words an invocation, neighbours side by side; multiplying: 16 chains of `columns` fused multiply-adds.
// Grid: x.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = 2) const uint multiply = 0;
layout(set = 0, binding = 0, std140) uniform Launch { ElementParams p; };

void main() {
  const uint i = gl_GlobalInvocationID.x;
  if (multiply == 0) {
    uvec4 sum = uvec4(0);
    for (uint n = 0; n < p.columns; ++n) sum ^= ReadUint4(p.a).at[(gl_WorkGroupID.x * p.columns + n) * gl_WorkGroupSize.x + gl_LocalInvocationID.x];
    WriteUint(p.y).at[i] = sum.x ^ sum.y ^ sum.z ^ sum.w;
  } else {
    float chains[16];
    [[unroll]] for (uint j = 0; j < 16; ++j) chains[j] = float(i + j);
    for (uint n = 0; n < p.columns; ++n)
      [[unroll]] for (uint j = 0; j < 16; ++j) chains[j] = fma(chains[j], 0.999, 0.5);
    float sum = 0.0;
    [[unroll]] for (uint j = 0; j < 16; ++j) sum += chains[j];
    WriteFloat(p.y).at[i] = sum;
  }
}
