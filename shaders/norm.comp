// norm: y = norm(x + residual) over dim, a head of a row a workgroup; sum = x + residual.
//
// Grid: x = heads, y = rows. Bytes: x (and residual) in, y (and sum) out; x is read again from the cache.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "reduce.glsl"

layout(set = 0, binding = 0, std140) uniform Launch { NormParams p; };

void main() {
  const uint row = gl_WorkGroupID.y, head = gl_WorkGroupID.x * p.dim;
  if (row >= row_count(p.count)) return;
  ReadFloat x = read_at(p.x, row, p.x_stride);
  ReadFloat residual = read_at(p.residual, row, p.residual_stride);
  WriteFloat y = write_at(p.y, row, p.y_stride);
  WriteFloat sum = write_at(p.sum, row, p.sum_stride);
  const float count = float(p.dim);

  float mean = 0.0;
  if (p.kind == norm_layer) {
    float total = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < p.dim; i += gl_WorkGroupSize.x) {
      float value = x.at[head + i];
      if (p.residual != 0) value += residual.at[head + i];
      total += value;
    }
    mean = group_sum(total) / count;
  }
  float squares = 0.0;
  for (uint i = gl_LocalInvocationID.x; i < p.dim; i += gl_WorkGroupSize.x) {
    float value = x.at[head + i];
    if (p.residual != 0) value += residual.at[head + i];
    if (p.sum != 0) sum.at[head + i] = value;
    value -= mean;
    squares = fma(value, value, squares);
  }
  const float factor = 1.0 / sqrt(group_sum(squares) / count + p.epsilon);
  for (uint i = gl_LocalInvocationID.x; i < p.dim; i += gl_WorkGroupSize.x) {
    float value = p.sum != 0 ? sum.at[head + i] : x.at[head + i];
    if (p.sum == 0 && p.residual != 0) value += residual.at[head + i];
    value = (value - mean) * factor;
    if (p.weight != 0) value *= ReadFloat(p.weight).at[i] + p.weight_offset;
    if (p.bias != 0) value += ReadFloat(p.bias).at[i];
    y.at[head + i] = value;
  }
}
