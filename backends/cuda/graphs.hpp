// Decode steps as captured graphs: one for each bucket of sequences, more where a class of attend may have clusters
// (step_buffer.hpp), replayed with whatever the host has written. A graph fetches its step, runs the program and
// samples the plain rows.
//
// Errors: Failure. Threads: the backend's queue.
#pragma once

#include "compile.hpp"
#include "ops/fetch_step.hpp"
#include "sampler.hpp"

#include <compare>
#include <cstdint>
#include <map>

namespace quire::cuda {

class Graph {
 public:
  Graph() = default;
  Graph(Graph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(executable_, other.executable_);
    return *this;
  }
  ~Graph();

  // What `body` queues on the stream, not run.
  template <class Body> static Graph capture(cudaStream_t stream, const Body& body) {
    begin(stream);
    try {
      body();
    } catch (...) {
      abandon(stream);
      throw;
    }
    return end(stream);
  }
  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(executable_, stream), "launching a graph"); }

 private:
  static void begin(cudaStream_t stream);
  static void abandon(cudaStream_t stream) noexcept;
  static Graph end(cudaStream_t stream);
  cudaGraphExec_t executable_ = nullptr;
};

// The graphs of one program.
class DecodeGraphs {
 public:
  struct Entry {
    StepShape shape;
    StepLayout layout;
    Clusters clusters = Clusters::none; // that it has: steps are planned so
    Graph graph;
  };

  // Captures the graphs of every bucket up to the limits. fetch, sampler: whose memory the graphs name.
  void capture_all(const CompiledProgram& program, const FetchArgs& fetch, const Sampler& sampler, const Queue& queue);
  // Captures the graphs of the bucket of so many sequences anew, if there is one.
  void capture_again(uint32_t bucket, const CompiledProgram& program, const FetchArgs& fetch, const Sampler& sampler,
                     const Queue& queue);
  // The graph that runs a decode step of so many sequences whose rows are in order; null where there is none. clusters:
  // clusters_for(), which the bucket may have less of.
  const Entry* find(uint32_t sequences, Clusters clusters) const;
  bool empty() const { return entries_.empty(); }

 private:
  struct Key {
    uint32_t bucket;
    Clusters clusters; // there is an entry with none for every bucket
    auto operator<=>(const Key&) const = default;
  };
  static void capture(const Key& key, Entry& entry, const CompiledProgram& program, const FetchArgs& fetch,
                      const Sampler& sampler, const Queue& queue);
  std::map<Key, Entry> entries_;
};

// The arrays of a step that lies at `buffer`.
StepArrays arrays_at(const std::byte* buffer, const StepLayout& layout, const int32_t* sampled);

} // namespace quire::cuda
