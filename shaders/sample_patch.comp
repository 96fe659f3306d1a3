// sample_patch: penalties and bias of the few tokens that have any, in the edited copies. A subgroup a row. Grid: y = rows.
//
// The token that the row's previous step sampled counts too (pending_row), though the host has not seen it yet: its count is one more
// than the list says, and it may not be in the list.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "sample.glsl"

void patch_token(SampleRow row, uint index, uint token, uint in_prompt, uint in_output, float bias) {
  if (token >= p.vocab) return;
  WriteFloat edited = write_at(p.edited, row.edited, p.vocab);
  float logit = edited.at[token];
  if (logit == minus_infinity) return; // masked
  if (in_prompt + in_output != 0)
    logit = logit > 0.0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
  if (in_output != 0) logit -= fma(row.frequency_penalty, float(in_output), row.presence_penalty);
  edited.at[token] = logit + bias;
}

void main() {
  const uint index = gl_WorkGroupID.y;
  const SampleRow row = SampleRows(p.rows).at[index];
  if ((row.flags & sample_edited) == 0) return;
  uint pending = no_token;
  if (row.pending_row != 0) pending = uint(ReadInt(p.previous).at[row.pending_row - 1]);
  float listed = 0.0;
  for (uint i = gl_SubgroupInvocationID; i < row.num_edits; i += lanes) {
    const SampleEdit edit = SampleEdits(p.edits).at[row.first_edit + i];
    const bool is_pending = edit.token == pending;
    listed = is_pending ? 1.0 : listed;
    patch_token(row, index, edit.token, edit.in_prompt, edit.in_output + (is_pending ? 1 : 0), edit.bias);
  }
  listed = lanes_max(listed);
  if (gl_SubgroupInvocationID == 0 && listed == 0.0) patch_token(row, index, pending, 0, 1, 0.0);
}
