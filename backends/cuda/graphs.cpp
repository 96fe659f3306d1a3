#include "graphs.hpp"

#include "buckets.hpp"

#include <iterator>

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

void DecodeGraphs::capture(const Key& key, Entry& entry, const CompiledProgram& program, const FetchArgs& fetch,
                           const Sampler& sampler, const Queue& queue) {
  const uint32_t bucket = key.bucket;
  entry.shape = bucket_shape(bucket, key.clusters, program.step);
  entry.clusters = key.clusters;
  entry.layout = lay_out_step(entry.shape, program.step.groups, program.step.classes);
  StepRun run;
  run.tokens = run.sequences = run.rows = bucket;
  run.clusters = key.clusters;
  run.buffer = fetch.to;
  run.captured = run.rows_in_order = true;
  run.layout = &entry.layout;
  run.arrays = arrays_at(run.buffer, entry.layout, sampler.tokens());
  const uint64_t expected_bytes = entry.layout.tables + uint64_t{bucket} * kExpectedTableBytes;
  const auto* rows = reinterpret_cast<const SampleRow*>(run.buffer + entry.layout.sampling);
  const Tensor logits = program.tensor(program.data.outputs[0]);
  entry.graph = Graph::capture(queue.stream, [&] {
    fetch_step(queue, expected_bytes, fetch);
    const std::vector<const Launch*> launches = launches_of(program, run);
    // Whatever reads the step before it waits begins behind the first: see fetch_step.hpp.
    const bool embeds = program.data.ops[launches.front()->ops.front()].kind == QUIRE_OP_EMBED;
    run.queue = {queue.stream, queue.overlap && embeds};
    for (const Launch* launch : launches) {
      launch->run(run);
      run.queue = queue;
    }
    sampler.queue_plain(rows, bucket, static_cast<const float*>(logits.data), program.data.vocab, queue);
  });
}

void DecodeGraphs::capture_all(const CompiledProgram& program, const FetchArgs& fetch, const Sampler& sampler,
                               const Queue& queue) {
  entries_.clear();
  const auto add = [&](const Key& key) { capture(key, entries_[key], program, fetch, sampler, queue); };
  for (const uint32_t bucket : buckets_up_to(program.limits.max_sequences)) {
    add({bucket, Clusters::none});
    for (const Clusters clusters : clusters_of_bucket(bucket, program.step)) add({bucket, clusters});
  }
}

void DecodeGraphs::capture_again(uint32_t bucket, const CompiledProgram& program, const FetchArgs& fetch,
                                 const Sampler& sampler, const Queue& queue) {
  for (auto& [key, entry] : entries_)
    if (key.bucket == bucket) capture(key, entry, program, fetch, sampler, queue);
}

const DecodeGraphs::Entry* DecodeGraphs::find(uint32_t sequences, Clusters clusters) const {
  const auto without = entries_.lower_bound({sequences, Clusters::none});
  if (without == entries_.end()) return nullptr;
  // The last of the bucket that has no more than that.
  return &std::prev(entries_.upper_bound({without->first.bucket, clusters}))->second;
}

} // namespace quire::cuda
