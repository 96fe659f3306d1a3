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
