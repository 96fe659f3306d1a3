// What every shader begins with: extensions, buffer references and the step's uniform block.
//
// Set 0, binding 0 is the launch's parameters, binding 1 the step. Everything else is reached by address. Constants 0 and 1 of
// every pipeline are the invocations of a workgroup and of a subgroup; workgroups are whole subgroups.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference2 : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

#include "op_params.h"

layout(local_size_x_id = 0, local_size_y = 1, local_size_z = 1) in;
layout(constant_id = 1) const uint lanes = 32; // of a subgroup

layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer ReadFloat { float at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) readonly restrict buffer ReadUint { uint at[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) readonly restrict buffer ReadUint2 { uvec2 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) readonly restrict buffer ReadUint4 { uvec4 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) readonly restrict buffer ReadAddress { uint64_t at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer ReadInt { int at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer WriteFloat { float at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer WriteUint { uint at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer WriteInt { int at[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) buffer WriteAddress { uint64_t at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Infos { TokenInfo at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) readonly restrict buffer AttendItems { AttendItem at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) readonly restrict buffer CombineItems { CombineItem at[]; };

layout(set = 0, binding = 1, std140) uniform Step {
  StepHeader step;
  StepGroup step_groups[max_groups];
};

// Rows of a launch: T, S or R.
uint row_count(uint count) {
  return count == count_tokens ? step.num_tokens : count == count_sequences ? step.num_sequences : step.num_rows;
}

// The float `offset` elements behind an address; offsets may pass 2^32.
ReadFloat read_at(uint64_t base, uint row, uint stride) { return ReadFloat(base + uint64_t(row) * stride * 4); }
WriteFloat write_at(uint64_t base, uint row, uint stride) { return WriteFloat(base + uint64_t(row) * stride * 4); }

// Sums and maxima over a subgroup in a fixed order, the same in all lanes.
float lanes_sum(float value) {
  [[unroll]] for (uint step_lanes = 1; step_lanes < lanes; step_lanes *= 2)
    value += subgroupShuffle(value, gl_SubgroupInvocationID ^ step_lanes);
  return value;
}
float lanes_max(float value) {
  [[unroll]] for (uint step_lanes = 1; step_lanes < lanes; step_lanes *= 2)
    value = max(value, subgroupShuffle(value, gl_SubgroupInvocationID ^ step_lanes));
  return value;
}
