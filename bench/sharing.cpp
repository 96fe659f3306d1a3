#include "bench/sharing.hpp"

#include "beam_traces.inc"
#include "kv/kv_manager.hpp"
#include "quire/error.hpp"

#include <fstream>
#include <sstream>

namespace quire::bench {

std::vector<BeamTrace> read_beam_traces(const std::filesystem::path& file) {
  std::ifstream opened(file);
  std::istringstream built_in(file.empty() ? std::string(kBeamTraces) : std::string());
  std::istream& in = file.empty() ? static_cast<std::istream&>(built_in) : opened;
  if (!in) throw Error("can't read the beam traces `" + file.string() + "`: make them with bench/make_beam_trace.py");
  std::vector<BeamTrace> traces;
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    BeamTrace trace;
    std::size_t steps = 0;
    std::string word;
    words >> trace.name >> trace.width >> trace.prompt_tokens >> steps;
    bool sound = static_cast<bool>(words) && trace.width > 0 && trace.width < 10;
    while (words >> word) {
      std::vector<std::uint8_t> step;
      for (const char digit : word) step.push_back(static_cast<std::uint8_t>(digit - '0'));
      sound &= step.size() == trace.width;
      for (const std::uint8_t parent : step) sound &= parent < trace.width;
      trace.parents.push_back(std::move(step));
    }
    if (!sound || trace.parents.size() != steps || steps < 2)
      throw Error(file.string() + ", line " + std::to_string(number) +
                  ": not a beam trace (name, width, prompt tokens, steps, then each step's parents)");
    traces.push_back(std::move(trace));
  }
  return traces;
}

namespace {

// The sequences of one request on a KV manager of their own, in step.
class Sharing {
 public:
  explicit Sharing(std::uint32_t block_size) : block_size_(block_size), kv_(config(block_size)) {}

  void start(const Request& request, std::uint32_t sequences) {
    std::vector<std::int32_t> prompt(request.prompt, 0);
    sequences_.assign(1, kv_.create());
    if (kv_.admit(sequences_[0], prompt, 0).verdict != Admission::now || !kv_.append(sequences_[0], request.prompt))
      throw Error("a request of " + std::to_string(request.prompt) +
                  " prompt tokens does not fit into the study's pool");
    step();
    while (sequences_.size() < sequences) sequences_.push_back(kv_.fork(sequences_[0], request.prompt));
  }
  // Sequence i goes on from what sequence parents[i] has.
  void descend(const std::vector<std::uint8_t>& parents) {
    std::vector<KvSeq> next(sequences_.size(), kNoSeq);
    std::vector<bool> taken(sequences_.size(), false);
    for (std::size_t i = 0; i < next.size(); ++i) {
      const KvSeq parent = sequences_[parents[i]];
      next[i] = taken[parents[i]] ? kv_.fork(parent, kv_.num_slots(parent)) : parent;
      taken[parents[i]] = true;
    }
    for (std::size_t i = 0; i < sequences_.size(); ++i)
      if (!taken[i]) kv_.destroy(sequences_[i]);
    sequences_ = std::move(next);
  }
  // A token for each; counts blocks.
  void grow() {
    for (const KvSeq seq : sequences_)
      if (!kv_.append(seq, 1)) throw Error("the study's pool of blocks is too small");
    step();
    alone_ += static_cast<double>(sequences_.size()) * ((kv_.num_slots(sequences_[0]) + block_size_ - 1) / block_size_);
    shared_ += kv_.pool(0).num_referenced();
    grown_ += static_cast<double>(sequences_.size());
  }
  void end() {
    for (const KvSeq seq : sequences_) kv_.destroy(seq);
    sequences_.clear();
  }
  Saving saving() const { return {1 - shared_ / alone_, static_cast<double>(kv_.stats().copied_blocks) / grown_}; }

 private:
  static KvConfig config(std::uint32_t block_size) {
    KvConfig config;
    config.block_size = block_size;
    config.groups = {{.num_blocks = 40960 / block_size}};
    config.prefix_cache = false;
    return config;
  }
  void step() {
    kv_.take_transfers(transfers_);
    const Ticket ticket = kv_.building();
    kv_.submitted(ticket);
    kv_.done(ticket);
  }

  std::uint32_t block_size_;
  KvManager kv_;
  std::vector<KvSeq> sequences_;
  KvTransfers transfers_;
  double alone_ = 0, shared_ = 0, grown_ = 0;
};

} // namespace

Saving parallel_saving(const std::vector<Request>& requests, std::uint32_t samples, std::uint32_t block_size) {
  Sharing sharing(block_size);
  for (const Request& request : requests) {
    sharing.start(request, samples);
    for (std::uint32_t t = 0; t < request.output; ++t) sharing.grow();
    sharing.end();
  }
  return sharing.saving();
}

Saving beam_saving(const std::vector<Request>& requests, std::uint32_t width, const std::vector<BeamTrace>& traces,
                   std::uint32_t block_size) {
  std::vector<const BeamTrace*> fitting;
  for (const BeamTrace& trace : traces)
    if (trace.width == width) fitting.push_back(&trace);
  if (fitting.empty()) throw Error("the beam traces have none of width " + std::to_string(width));
  Sharing sharing(block_size);
  std::size_t turn = 0;
  for (const Request& request : requests) {
    const auto& parents = fitting[turn++ % fitting.size()]->parents;
    sharing.start(request, width);
    std::size_t at = 0;
    for (std::uint32_t t = 0; t < request.output; ++t) {
      sharing.descend(parents[at]);
      sharing.grow();
      if (++at == parents.size()) at = parents.size() / 2;
    }
    sharing.end();
  }
  return sharing.saving();
}

} // namespace quire::bench
