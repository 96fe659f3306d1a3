// Sums and maxima over a workgroup, in a fixed order and the same in all invocations. Barriers: call from uniform control flow.
shared float reduce_values[64]; // a subgroup each

uint subgroups() { return gl_WorkGroupSize.x / lanes; }

float group_sum(float value) {
  value = lanes_sum(value);
  if (gl_WorkGroupSize.x == lanes) return value;
  barrier();
  if (gl_SubgroupInvocationID == 0) reduce_values[gl_SubgroupID] = value;
  barrier();
  value = 0.0;
  for (uint i = 0; i < subgroups(); ++i) value += reduce_values[i];
  return value;
}

float group_max(float value) {
  value = lanes_max(value);
  if (gl_WorkGroupSize.x == lanes) return value;
  barrier();
  if (gl_SubgroupInvocationID == 0) reduce_values[gl_SubgroupID] = value;
  barrier();
  value = reduce_values[0];
  for (uint i = 1; i < subgroups(); ++i) value = max(value, reduce_values[i]);
  return value;
}

// Fifteen sums at once, for the price of one sum's barriers.
shared float reduce_fifteen[64 * 15];

void group_sums(inout float values[15]) {
  [[unroll]] for (uint j = 0; j < 15; ++j) values[j] = lanes_sum(values[j]);
  if (gl_WorkGroupSize.x == lanes) return;
  barrier();
  if (gl_SubgroupInvocationID == 0) {
    [[unroll]] for (uint j = 0; j < 15; ++j) reduce_fifteen[gl_SubgroupID * 15 + j] = values[j];
  }
  barrier();
  [[unroll]] for (uint j = 0; j < 15; ++j) values[j] = 0.0;
  for (uint i = 0; i < subgroups(); ++i) {
    [[unroll]] for (uint j = 0; j < 15; ++j) values[j] += reduce_fifteen[i * 15 + j];
  }
}
