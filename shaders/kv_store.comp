// kv_store: k and v of the step's tokens go to the cache. (Behind a rope of k, rope.comp does both.)
//
// Grid: x = pairs of elements of all heads / invocations, y = tokens.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "rotate.glsl"

void main() {
  const uint token = gl_WorkGroupID.y;
  if (token < step.num_tokens) store_kv(gl_GlobalInvocationID.x, token, Infos(step.infos).at[token]);
}
