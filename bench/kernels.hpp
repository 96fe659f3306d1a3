// `quire bench kernels`: each launch of a model's decode and prefill steps timed by its backend, beside the bytes and
// operations that it must move and do, and the shares of the device's own ceilings measured in the same run. Weights of
// a model of more than a few layers pass any L2 several times, so each launch reads cold ones.
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace quire::bench {

struct KernelOptions {
  std::string model, load_format = "auto", backend = "vulkan", kv_format = "f16";
  std::vector<std::string> plugins;
  std::string cache_dir;
  int32_t device = -1;
  uint32_t batch = 1, context = 1024; // of the decode step
  uint32_t prefill = 512;             // tokens of the prefill step; 0 = none
  uint32_t block_size = 16, repetitions = 10;
  bool invariant = false, tune = false; // tune: the backend times its kernels first
  // Of bench_attention, which takes no model.
  uint32_t heads = 32, kv_heads = 8, head_dim = 128;
};

// {device, ceilings, steps: [{step, seconds, kernels: [{op, kernel, shape, launches, seconds, bytes, flops, …}]}]}.
// Throws Error.
boost::json::object bench_kernels(const KernelOptions& options);

// Attention alone, at the shapes that docs/cuda.md reports: decode of 64 sequences of 4,096, of one of 32,768, of 64
// MiB of KV, of one of 1,024 and of 64 of 128; prefill of one sequence of `prefill` tokens. KV of several layers, more
// than 200 MB, passes between two readings of a layer. The same result. Throws Error.
boost::json::object bench_attention(const KernelOptions& options);

// Builds the program of a configuration over made-up weights and writes them as a model that opens like a real one.
// Throws Error.
void write_dummy(const std::string& configuration, const std::string& load_format, const std::string& folder,
                 const std::function<void(uint64_t, uint64_t)>& progress);

// The same as a table.
std::string kernel_table(const boost::json::object& result);

} // namespace quire::bench
