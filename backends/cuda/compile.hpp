// A program compiled: its weights on the device, a place for every activation, and the list of launches that carries it
// out.
//
// Nothing of the program's text is interpreted per step: each launch is a closure over device addresses and takes only
// what a step changes. Errors: Failure, naming the op. Threads: [load] for compile_program, then the backend's queue.
#pragma once

#include "chain_trace.hpp"
#include "device.hpp"
#include "fuse.hpp"
#include "kv_cache.hpp"
#include "linear_launch.hpp"
#include "matrix_library.hpp"
#include "memory.hpp"
#include "ops/attend.hpp"
#include "ops/ops.hpp"
#include "step_buffer.hpp"
#include "weights.hpp"

#include <quire/plan.hpp>
#include <quire/plugin.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace quire::cuda {

// What a launch is told of the step. Counts are those that run: a bucket's, or the step's own.
struct StepRun {
  Queue queue;
  uint32_t tokens = 0, sequences = 0, rows = 0;
  Clusters clusters = Clusters::none; // clusters_for()
  bool rows_in_order = false;         // rows_in_order()
  StepArrays arrays;
  const std::byte* buffer = nullptr; // the step on the device
  const StepLayout* layout = nullptr;
  // Of each class: items that run; in a graph, which runs any step of its bucket, decode and parts are always launched.
  bool captured = false;
  const StepPlans* plans = nullptr; // null in a graph
};

struct Launch {
  std::vector<uint32_t> ops; // rising; the first stands for all in the profile
  std::function<void(const StepRun&)> run;
  // What runs for a step of so many rows, for the profile.
  std::function<std::string(uint32_t rows)> kernel;
};

// The program's structs, owned, without names: what later verbs need.
struct ProgramData {
  std::vector<quire_value> values;
  std::vector<quire_op> ops;
  std::vector<quire_kv_layer> kv_layers;
  std::vector<quire_kv_group> kv_groups;
  std::vector<uint32_t> outputs; // value ids
  uint32_t vocab = 0;
};

// One launch that stands for `count` launches from `first` on where a step has at most max_rows rows (chain.hpp), or
// one token a sequence.
struct Chain {
  uint32_t first = 0, count = 0;
  uint32_t symbol = QUIRE_TOKENS; // what counts the rows
  uint32_t max_rows = 0;
  bool decode_only = false; // one token a sequence
  bool gathers = false;     // stands for a gather_rows too: rows_in_order()
  Launch launch;
};

struct CompiledProgram {
  ProgramData data;
  quire_limits limits{};
  StepTraits step;
  DeviceWeights weights;
  BufferPlan plan;
  std::vector<Type> types; // [num_values]
  DeviceBuffer activations;
  DeviceBuffer workspace;                // split sums, partial attention, experts, conversions: never needed at once
  uint64_t split_bytes = 0;              // of the workspace, for split sums
  uint64_t convert_offset = 0;           // of converted inputs in the workspace, behind what the launches share
  DeviceBuffer counters;                 // of attend_decode, zero between launches
  std::vector<KvGroupLayout> kv_layouts; // [groups]
  std::unique_ptr<KvCache> kv;           // once kv_create was called
  std::vector<Launch> launches;
  std::vector<TunableLinear> tunable; // linears of fp16 weights, which their launches own
  std::vector<Chain> chains;          // rising; of those that begin alike the first that takes a step
  DeviceBuffer chain_tables;          // the chains' phases
  DeviceBuffer chain_values;          // what one phase of a chain makes for the next
  DeviceBuffer chain_counters;        // [multiprocessors] launches of chains
  std::unique_ptr<ChainTrace> chain_trace;
  std::vector<uint32_t> class_of_attend; // [ops]

  Tensor tensor(uint32_t value) const;
  uint64_t scratch_bytes() const {
    return activations.bytes() + workspace.bytes() + counters.bytes() + chain_tables.bytes() + chain_values.bytes();
  }
};

struct CompileContext {
  const DeviceTraits& device;
  MatrixLibrary& library;
  const LinearChoices& choices; // read when a linear runs
  cudaStream_t stream;
  bool fixed_order;
  Progress progress;
};

std::unique_ptr<CompiledProgram> compile_program(const quire_program& program, const quire_limits& limits,
                                                 const CompileContext& context);

// How each value is stored.
std::vector<Type> plan_types(const quire_program& program);

// Rows of a value in the step that runs.
uint32_t rows_of(const StepRun& run, uint32_t symbol);

// What carries out a step of so many rows, in order: launches, or chains in the place of some.
std::vector<const Launch*> launches_of(const CompiledProgram& program, const StepRun& run);

// Queues every launch of the program.
void run_program(const CompiledProgram& program, const StepRun& run);

} // namespace quire::cuda
