#include "kv/history.hpp"

#include <algorithm>

namespace quire::test {

namespace {
constexpr std::uint64_t kPoison = 0xdeadbeefdeadbeef;

std::uint64_t mix(std::uint64_t a, std::uint64_t b) { // splitmix64's finaliser (Steele et al. 2014)
  std::uint64_t x = a * 0x9e3779b97f4a7c15 + b + 0x632be59bd9b4e019;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
} // namespace

History::History(const HistoryOptions& options, std::uint64_t seed)
    : kv(options.config), options_(options), random_(seed) {
  for (const KvGroupConfig& group : options.config.groups) {
    device_.emplace_back(group.num_blocks, std::vector<Content>(options.config.block_size, kPoison));
    host_.emplace_back(group.host_blocks, std::vector<Content>(options.config.block_size, kPoison));
  }
}

KvSeq History::any(auto&& wanted) {
  std::vector<KvSeq> fitting;
  for (const auto& [id, seq] : sequences_)
    if (wanted(id, seq)) fitting.push_back(id);
  return fitting.empty() ? kNoSeq : fitting[below(static_cast<std::uint32_t>(fitting.size()))];
}

History::Content History::expected(const Sequence& seq, std::uint32_t position) const {
  Content content = mix(seq.adapter, seq.salt.size());
  for (const char c : seq.salt) content = mix(content, static_cast<unsigned char>(c));
  for (std::uint32_t p = 0; p <= position; ++p) content = mix(content, static_cast<std::uint32_t>(seq.truth[p]));
  return content;
}

// Positions [first, end) of a resident sequence hold, in every group that can see them from `end`, what the sequence
// wrote.
std::string History::expect_content(KvSeq id, std::uint32_t first, std::uint32_t end) {
  const Sequence& seq = sequences_.at(id);
  const std::uint32_t size = options_.config.block_size;
  Content content = first ? expected(seq, first - 1) : 0;
  for (std::uint32_t p = first; p < end; ++p) {
    content = p ? mix(content, static_cast<std::uint32_t>(seq.truth[p])) : expected(seq, 0);
    for (std::uint32_t g = 0; g < device_.size(); ++g) {
      const std::uint32_t window = options_.config.groups[g].window;
      if (window && p + window <= end) continue;
      const BlockId block = kv.table(id, g)[p / size];
      if (block == kNoBlock) return "a block within the window is gone";
      if (device_[g][block][p % size] != content)
        return "sequence " + std::to_string(id) + " reads at position " + std::to_string(p) + " of group " +
               std::to_string(g) + " what it did not write";
    }
  }
  return "";
}

// A block that was free goes to a new owner: no queued work may touch it.
std::string History::handed_out(std::uint32_t group, BlockId block) {
  for (const Flight& flight : flights_)
    if (flight.touched.contains({group, block}))
      return "block " + std::to_string(block) + " is reused before ticket " + std::to_string(flight.ticket) +
             " is done";
  if (building_sources_.contains({group, block})) return "a block that a transfer of this step reads is reused";
  std::fill(device_[group][block].begin(), device_[group][block].end(), kPoison);
  return "";
}

std::vector<std::vector<BlockId>> History::tables(KvSeq id) const {
  std::vector<std::vector<BlockId>> result;
  for (std::uint32_t g = 0; g < kv.num_groups(); ++g)
    result.emplace_back(kv.table(id, g).begin(), kv.table(id, g).end());
  return result;
}

std::string History::handed_out_since(KvSeq id, const std::vector<std::vector<BlockId>>& before) {
  for (const auto& copy : kv.transfers().copies) building_sources_.insert({copy.group, copy.from});
  for (std::uint32_t g = 0; g < before.size(); ++g)
    for (const BlockId block : kv.table(id, g))
      if (block != kNoBlock && std::find(before[g].begin(), before[g].end(), block) == before[g].end())
        if (std::string error = handed_out(g, block); !error.empty()) return error;
  return "";
}

// ---- Operations
// -----------------------------------------------------------------------------------------------------------------------

std::string History::admit() {
  if (sequences_.size() >= options_.max_sequences) return "";
  // Few stems and few continuations, so that prefixes are shared, part in the middle of a block, and end on its edge.
  Sequence seq;
  const std::uint32_t length = 1 + below(options_.max_length / 2);
  const std::int32_t stem = static_cast<std::int32_t>(below(3)) * 1000;
  const std::uint32_t parting = below(3) * options_.config.block_size + below(2);
  const std::int32_t branch = static_cast<std::int32_t>(below(3)) * 100000;
  for (std::uint32_t p = 0; p < length; ++p)
    seq.tokens.push_back(stem + static_cast<std::int32_t>(p) + (p >= parting ? branch : 0));
  seq.truth = seq.tokens;
  seq.salt = below(4) ? "" : "tenant";
  seq.adapter = below(6) == 0;
  seq.life = ++lives_;
  const KvSeq id = kv.create(seq.salt, seq.adapter);
  const bool use_cache = below(8) != 0;
  const AdmitResult result = kv.admit(id, seq.tokens, options_.max_length - length, use_cache);
  if (result.verdict != Admission::now) {
    kv.destroy(id);
    ++counts["refused"];
    return "";
  }
  if (!use_cache && result.cached_tokens) return "a sequence that wants no cache got some";
  if (result.cached_tokens >= length) return "nothing is left to compute";
  if (result.cached_tokens % options_.config.block_size) return "a hit is not of full blocks";
  seq.written = result.cached_tokens;
  sequences_.emplace(id, std::move(seq));
  ++counts["admit"];
  counts["hit"] += result.cached_tokens > 0;
  return expect_content(id, 0, result.cached_tokens);
}

std::string History::append() {
  const KvSeq id = any([&](KvSeq k, const Sequence& s) {
    return kv.resident(k) && s.building == 0 && s.inherits == 0 && s.truth.size() < options_.max_length;
  });
  if (id == kNoSeq) return "";
  Sequence& seq = sequences_.at(id);
  const auto known = static_cast<std::uint32_t>(seq.truth.size()) - seq.written; // the device knows its own samples
  if (known == 0) return "";
  const std::uint32_t count = below(3) ? known : 1 + below(known);
  const auto before = tables(id);
  if (!kv.append(id, count)) {
    ++counts["no room"];
    return tables(id) == before ? "" : "a refused append changed the table";
  }
  seq.building = count;
  ++counts["append"];
  return handed_out_since(id, before);
}

std::string History::move(const KvTransfers& transfers) {
  for (const auto& copy : transfers.swap_out) host_[copy.group][copy.to] = device_[copy.group][copy.from];
  for (const auto& copy : transfers.swap_in) device_[copy.group][copy.to] = host_[copy.group][copy.from];
  for (const auto& copy : transfers.copies) device_[copy.group][copy.to] = device_[copy.group][copy.from];
  counts["swapped out blocks"] += transfers.swap_out.size();
  counts["swapped in blocks"] += transfers.swap_in.size();
  counts["copied blocks"] += transfers.copies.size();
  return "";
}

std::string History::submit() {
  if (flights_.size() == 2) return "";
  KvTransfers transfers;
  kv.take_transfers(transfers);
  Flight flight{kv.building(), {}, std::move(building_sources_)};
  building_sources_.clear();
  for (const auto& copy : transfers.swap_out) flight.touched.insert({copy.group, copy.from});
  for (const auto& copy : transfers.swap_in) flight.touched.insert({copy.group, copy.to});
  for (const auto& copy : transfers.copies) flight.touched.insert({{copy.group, copy.from}, {copy.group, copy.to}});
  if (std::string error = move(transfers); !error.empty()) return error;
  const std::uint32_t size = options_.config.block_size;
  for (auto& [id, seq] : sequences_) {
    if (seq.building == 0) continue;
    for (std::uint32_t g = 0; g < device_.size(); ++g) {
      const auto table = kv.table(id, g);
      for (const BlockId block : table)
        if (block != kNoBlock) flight.touched.insert({g, block});
      for (std::uint32_t p = seq.written; p < seq.written + seq.building; ++p) {
        const BlockId block = table[p / size];
        std::uint32_t holders = 1; // forks of this step, which share what it writes, may hold it too
        for (const auto& [other_id, other] : sequences_)
          if (other.inherits && p < other.written && p / size < kv.table(other_id, g).size())
            holders += kv.table(other_id, g)[p / size] == block;
        if (kv.pool(g).references(block) != holders || kv.pool(g).content(block) != kNoContent)
          return "a shared block is written";
        device_[g][block][p % size] = expected(seq, p);
      }
    }
  }
  // Reading after all have written, as a layer's attention follows its store.
  for (auto& [id, seq] : sequences_) {
    if (seq.inherits) {
      if (std::string error = expect_content(id, 0, seq.written); !error.empty()) return error;
      flight.places.push_back({id, seq.life, seq.written - seq.inherits, seq.inherits, false});
      seq.inherits = 0;
      ++seq.in_flight;
      ++counts["inherit"];
    }
    if (seq.building == 0) continue;
    seq.lends = false;
    const std::uint32_t end = seq.written + seq.building;
    if (std::string error = expect_content(id, 0, end); !error.empty()) return error;
    const bool samples = end == seq.truth.size();
    flight.places.push_back({id, seq.life, seq.written, seq.building, samples});
    if (samples) { // most are forced along a few paths, so that outputs are shared too
      seq.truth.push_back(static_cast<std::int32_t>(below(4) ? expected(seq, end - 1) % 3 : 7 + below(3)));
      ++seq.unseen;
    }
    seq.written = end;
    seq.building = 0;
    ++seq.in_flight;
  }
  kv.submitted(flight.ticket);
  flights_.push_back(std::move(flight));
  ++counts["step"];
  return "";
}

std::string History::wait() {
  if (flights_.empty()) {
    if (kv.transfers().empty() && any([](KvSeq, const Sequence& s) { return s.building > 0; }) == kNoSeq &&
        below(4) == 0) {
      kv.idle();
      building_sources_.clear(); // of transfers that were dropped
      ++counts["idle"];
    }
    return "";
  }
  const Flight flight = std::move(flights_.front());
  flights_.pop_front();
  kv.done(flight.ticket);
  const bool failed = options_.failures && below(40) == 0;
  counts["failed step"] += failed;
  for (const Place& place : flight.places) {
    const auto found = sequences_.find(place.seq);
    if (found == sequences_.end() || found->second.life != place.life) continue;
    Sequence& seq = found->second;
    --seq.in_flight;
    if (failed) {
      kv.unpublish(place.seq, below(place.start + 1)); // from its own tokens on, or from further back
      const std::uint64_t life = seq.life;
      kv.destroy(place.seq);
      sequences_.erase(found);
      for (auto it = sequences_.begin(); it != sequences_.end();) { // what would have inherited from it
        const bool orphan = it->second.inherits && it->second.lender == life;
        if (orphan) kv.destroy(it->first);
        it = orphan ? sequences_.erase(it) : std::next(it);
      }
      continue;
    }
    if (place.sampled && seq.unseen > 0) {
      seq.tokens.push_back(seq.truth[seq.tokens.size()]);
      --seq.unseen;
    }
    std::uint32_t computed = place.start + place.count;
    // Surplus: only part of the step's tokens is kept.
    if (kv.resident(place.seq) && seq.in_flight == 0 && seq.building == 0 && seq.written == computed &&
        place.count > 0 && below(10) == 0) {
      const std::uint32_t kept = place.start + below(place.count + 1);
      kv.truncate(place.seq, kept);
      computed = seq.written = kept;
      const std::uint32_t known = std::max(kept, 1u); // what follows is drawn anew
      seq.tokens.resize(known);
      if (seq.tokens.size() == kept) seq.tokens.push_back(static_cast<std::int32_t>(below(5)));
      seq.truth = seq.tokens;
      seq.unseen = 0;
      ++counts["truncate"];
    }
    kv.commit(place.seq, seq.tokens, std::min(computed, static_cast<std::uint32_t>(seq.tokens.size())));
    ++counts["commit"];
  }
  return "";
}

std::string History::fork() {
  if (sequences_.size() >= options_.max_sequences) return "";
  const KvSeq id = any([&](KvSeq k, const Sequence& s) { return kv.resident(k) && s.inherits == 0 && s.written > 0; });
  if (id == kNoSeq) return "";
  Sequence& parent = sequences_.at(id);
  const auto known = static_cast<std::uint32_t>(parent.tokens.size());
  const std::uint32_t most = std::min(parent.written, known);
  std::uint32_t at = below(3) ? most : 1 + below(most);
  const bool inherit = parent.building && parent.written + parent.building <= known && below(2);
  if (inherit) at = parent.written + parent.building;
  const auto before = tables(id);
  const KvSeq child = kv.fork(id, at);
  if (child == kNoSeq) {
    ++counts["fork refused"];
    return "";
  }
  Sequence seq;
  parent.lends |= inherit;
  seq.inherits = inherit ? parent.building : 0;
  seq.lender = parent.life;
  seq.tokens.assign(parent.tokens.begin(), parent.tokens.begin() + at);
  for (std::uint32_t more = 1 + below(3); more > 0; --more) seq.tokens.push_back(static_cast<std::int32_t>(below(4)));
  seq.truth = seq.tokens;
  seq.salt = parent.salt;
  seq.adapter = parent.adapter;
  seq.written = at;
  seq.life = ++lives_;
  sequences_[child] = std::move(seq);
  ++counts["fork"];
  return handed_out_since(child, before);
}

std::string History::end() {
  const KvSeq id = any(
      [&](KvSeq, const Sequence& s) { return !s.lends && (s.truth.size() >= options_.max_length || below(4) == 0); });
  if (id == kNoSeq) return "";
  ++counts[sequences_.at(id).truth.size() >= options_.max_length ? "finish" : "cancel"];
  kv.destroy(id);
  sequences_.erase(id);
  return "";
}

void History::leave_step(KvSeq id) {
  Sequence& seq = sequences_.at(id);
  if (seq.building == 0) return;
  kv.truncate(id, seq.written);
  seq.building = 0;
}

std::string History::leave() {
  const KvSeq id = any([](KvSeq, const Sequence& s) { return s.building > 0 && !s.lends; });
  if (id == kNoSeq) return "";
  leave_step(id);
  ++counts["leave"];
  return "";
}

std::string History::preempt() {
  const KvSeq id = any([&](KvSeq k, const Sequence& s) { return kv.resident(k) && !s.lends && !s.inherits; });
  if (id == kNoSeq) return "";
  leave_step(id);
  if (below(3)) {
    const auto before = tables(id);
    if (!kv.swap_out(id)) {
      ++counts["swap refused"];
      return tables(id) == before ? "" : "a refused swap changed the table";
    }
    for (const auto& copy : kv.transfers().swap_out) building_sources_.insert({copy.group, copy.from});
    ++counts["swap out"];
  } else {
    Sequence& seq = sequences_.at(id);
    kv.release(id);
    seq.written = 0;
    ++counts["recompute"];
  }
  return "";
}

std::string History::resume() {
  const KvSeq id = any([&](KvSeq k, const Sequence&) { return !kv.resident(k); });
  if (id == kNoSeq) return "";
  Sequence& seq = sequences_.at(id);
  if (kv.swapped(id)) {
    std::set<Block> filled;
    for (const auto& copy : kv.transfers().swap_in) filled.insert({copy.group, copy.to});
    if (!kv.swap_in(id)) {
      ++counts["swap in refused"];
      return kv.swapped(id) ? "" : "a refused swap in changed the state";
    }
    ++counts["swap in"];
    for (const auto& copy : kv.transfers().swap_in)
      if (!filled.contains({copy.group, copy.to}))
        if (std::string error = handed_out(copy.group, copy.to); !error.empty()) return error;
    return "";
  }
  // Recompute: results of steps from before are still on their way, so it waits for them as the scheduler does.
  if (seq.in_flight) return "";
  if (seq.unseen) return "a token was lost";
  const AdmitResult result = kv.admit(id, seq.tokens, options_.max_length);
  if (result.verdict != Admission::now) return "";
  seq.written = result.cached_tokens;
  ++counts["readmit"];
  return expect_content(id, 0, result.cached_tokens);
}

std::string History::operate() {
  const auto total = [&] {
    std::uint64_t sum = 0;
    for (const auto& [what, count] : counts) sum += count;
    return sum;
  };
  const std::uint64_t before = total();
  std::string error;
  switch (below(20)) {
  case 0:
  case 1:
  case 2:
    error = admit();
    break;
  case 3:
  case 4:
  case 5:
  case 6:
  case 7:
  case 8:
    error = append();
    break;
  case 9:
  case 10:
  case 11:
    error = submit();
    break;
  case 12:
  case 13:
  case 14:
    error = wait();
    break;
  case 15:
    error = fork();
    break;
  case 16:
    error = end();
    break;
  case 17:
    error = below(2) ? preempt() : leave();
    break;
  default:
    error = resume();
    break;
  }
  performed += total() > before;
  if (error.empty() && options_.check_each) error = kv.check();
  return error;
}

std::string History::finish() {
  while (!flights_.empty())
    if (std::string error = wait(); !error.empty()) return error;
  while (!sequences_.empty()) {
    kv.destroy(sequences_.begin()->first);
    sequences_.erase(sequences_.begin());
  }
  KvTransfers transfers;
  kv.take_transfers(transfers);
  if (!transfers.swap_in.empty() || !transfers.copies.empty()) return "a transfer outlives all sequences";
  kv.idle();
  const KvStats stats = kv.stats();
  if (stats.sequences || stats.swapped) return "sequences leak";
  for (const KvGroupStats& group : stats.groups) {
    if (group.referenced || group.draining || group.empty + group.cached != group.num_blocks) return "blocks leak";
    if (group.host_used) return "host slots leak";
    if (group.tokens_held) return "tokens are held by nobody";
  }
  kv.forget_all();
  for (const KvGroupStats& group : kv.stats().groups)
    if (group.empty != group.num_blocks) return "a forgotten block is still cached";
  return kv.check();
}

} // namespace quire::test
