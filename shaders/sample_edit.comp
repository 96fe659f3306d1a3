// sample_edit: copies the rows that are edited, tokens outside the mask at -infinity. Grid: x = chunks, y = rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "sample.glsl"

void main() {
  const SampleRow row = SampleRows(p.rows).at[gl_WorkGroupID.y];
  if ((row.flags & sample_edited) == 0) return;
  ReadFloat raw = raw_logits(gl_WorkGroupID.y);
  WriteFloat edited = write_at(p.edited, row.edited, p.vocab);
  ReadUint mask = ReadUint(p.masks);
  const uint end = min((gl_WorkGroupID.x + 1) * p.chunk, p.vocab);
  for (uint i = gl_WorkGroupID.x * p.chunk + gl_LocalInvocationID.x; i < end; i += gl_WorkGroupSize.x) {
    bool allowed = true;
    if (row.mask != 0) allowed = (mask.at[row.mask - 1 + i / 32] >> (i & 31u) & 1u) != 0;
    edited.at[i] = allowed ? raw.at[i] : minus_infinity;
  }
}
