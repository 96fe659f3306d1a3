#include "graphs.hpp"

#include "buckets.hpp"

namespace quire::cuda {
namespace {

// Of a sequence's block table, a KV group: 1,024 tokens in blocks of 16.
constexpr uint64_t kExpectedTableBytes = 256;

} // namespace

Graph::~Graph() {
  if (executable_ != nullptr) ignore(cudaGraphExecDestroy(executable_));
}

void Graph::begin(cudaStream_t stream) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a graph");
}

void Graph::abandon(cudaStream_t stream) noexcept {
  cudaGraph_t graph = nullptr;
  ignore(cudaStreamEndCapture(stream, &graph));
  if (graph != nullptr) ignore(cudaGraphDestroy(graph));
}

Graph Graph::end(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream, &graph), "capturing a graph");
  Graph result;
  const cudaError_t error = cudaGraphInstantiate(&result.executable_, graph, 0);
  ignore(cudaGraphDestroy(graph));
  check(error, "making a graph");
  check(cudaGraphUpload(result.executable_, stream), "making a graph"); // or its first launch would: a millisecond
  return result;
}

StepArrays arrays_at(const std::byte* buffer, const StepLayout& layout, const int32_t* sampled) {
  const auto at = [&]<class T>(uint64_t offset, const T*) { return reinterpret_cast<const T*>(buffer + offset); };
  StepArrays arrays;
  arrays.tokens = at(layout.tokens, static_cast<const int32_t*>(nullptr));
  arrays.token_rows = at(layout.token_rows, static_cast<const uint32_t*>(nullptr));
  arrays.sampled = sampled;
  arrays.positions = at(layout.positions, static_cast<const uint32_t*>(nullptr));
  arrays.rows = at(layout.rows, static_cast<const uint32_t*>(nullptr));
  return arrays;
}

void DecodeGraphs::capture(Entry& entry, uint32_t bucket, const CompiledProgram& program, const FetchArgs& fetch,
                           const Sampler& sampler, const Queue& queue) {
  entry.shape = bucket_shape(bucket, program.step);
  entry.layout = lay_out_step(entry.shape, program.step.groups, program.step.classes);
  StepRun run;
  run.tokens = run.sequences = run.rows = bucket;
  run.buffer = fetch.to;
  run.captured = true;
  run.layout = &entry.layout;
  run.arrays = arrays_at(run.buffer, entry.layout, sampler.tokens());
  const uint64_t expected_bytes = entry.layout.tables + uint64_t{bucket} * kExpectedTableBytes;
  const auto* rows = reinterpret_cast<const SampleRow*>(run.buffer + entry.layout.sampling);
  const Tensor logits = program.tensor(program.data.outputs[0]);
  entry.graph = Graph::capture(queue.stream, [&] {
    fetch_step(queue, expected_bytes, fetch);
    run.queue = {queue.stream, false}; // the step is there before anything begins: see fetch_step.hpp
    for (const Launch* launch : launches_of(program, run)) {
      launch->run(run);
      run.queue = queue;
    }
    sampler.queue_plain(rows, bucket, static_cast<const float*>(logits.data), program.data.vocab, queue);
  });
}

void DecodeGraphs::capture_all(const CompiledProgram& program, const FetchArgs& fetch, const Sampler& sampler,
                               const Queue& queue) {
  entries_.clear();
  for (const uint32_t bucket : buckets_up_to(program.limits.max_sequences))
    capture(entries_[bucket], bucket, program, fetch, sampler, queue);
}

void DecodeGraphs::capture_again(uint32_t bucket, const CompiledProgram& program, const FetchArgs& fetch,
                                 const Sampler& sampler, const Queue& queue) {
  const auto found = entries_.find(bucket);
  if (found != entries_.end()) capture(found->second, bucket, program, fetch, sampler, queue);
}

const DecodeGraphs::Entry* DecodeGraphs::find(uint32_t sequences, uint32_t rows) const {
  const auto found = entries_.lower_bound(std::max(sequences, rows));
  return found == entries_.end() ? nullptr : &found->second;
}

} // namespace quire::cuda
