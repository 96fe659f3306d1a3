// How a sequence is given blocks of one KV group: `paged`, and the contiguous policies it is compared with.
//
// The baselines are those of Kwon et al., «Efficient Memory Management for Large Language Model Serving with
// PagedAttention» (SOSP 2023), section 6.1, after Yu et al., «Orca» (OSDI 2022): a request reserves one chunk of slots
// at admission, a power of two above its prompt plus what it reserves for its output, from a buddy pool over all slots.
// They hand out consecutive block ids, so that the same kernels and the same scheduler run them. Contiguous sequences
// share nothing: no prefix cache, and a fork copies. Not thread safe: the engine thread owns it.
#pragma once

#include <memory>
#include <string_view>

#include "kv/block_pool.hpp"

namespace quire {

enum class PolicyKind {
  paged,  // any block, when a token needs it
  max,    // reserves the longest sequence there may be
  pow2,   // reserves the prompt and its output rounded up to a power of two
  oracle, // reserves the prompt and its true output
};
const char* to_string(PolicyKind kind);
// Throws Error for any other word, naming the legal ones.
PolicyKind parse_policy(std::string_view word);

enum class Admission {
  now,
  later, // when others have given blocks back
  never, // it would not fit into the empty pool
};

// What a sequence asks for at admission.
struct Need {
  std::uint32_t tokens = 0;        // known now: prompt, and outputs so far
  std::uint32_t output_tokens = 0; // still to come; `paged` doesn't look
  std::uint32_t blocks = 0;        // to be allocated for `tokens`, beyond shared ones
  std::uint32_t revived = 0;       // free blocks that are shared on top of that
};

// What a sequence holds of a policy, beside the blocks in its table.
struct Grant {
  std::uint32_t promised = 0;     // paged: blocks for known tokens that it has yet to allocate
  BlockId first = kNoBlock;       // contiguous: its chunk
  std::uint32_t num_blocks = 0;   // contiguous: length of the chunk, a power of two
  std::uint32_t num_reserved = 0; // contiguous: slots asked for, before rounding up
};

class AllocationPolicy {
 public:
  virtual ~AllocationPolicy() = default;
  virtual bool contiguous() const = 0;
  // Says whether a sequence can be admitted; admit() then does it. Nothing but admit() changes anything.
  virtual Admission can_admit(const Need& need) const = 0;
  virtual void admit(const Need& need, Grant& grant) = 0;
  // Whether the sequence can allocate `count` blocks now, if its table has `index` entries.
  virtual bool can_allocate(const Grant& grant, std::uint32_t index, std::uint32_t count) const = 0;
  // The block for entry `index` of its table: can_allocate() said there is one.
  virtual BlockId allocate(Grant& grant, std::uint32_t index) = 0;
  // The sequence holds no block any more; `last` is the last ticket that may touch them.
  virtual void close(Grant& grant, Ticket last) = 0;
  virtual void tickets_done(Ticket ticket) = 0;
  virtual void queue_empty() = 0; // as BlockPool's
};

struct PolicyOptions {
  PolicyKind kind = PolicyKind::paged;
  std::uint32_t block_size = 16;
  std::uint32_t watermark_blocks = 0; // paged: admissions leave so many free
  std::uint32_t max_length = 2048;    // max: slots a sequence reserves; pow2: at most so many
};
// The pool must outlive it.
std::unique_ptr<AllocationPolicy> make_policy(const PolicyOptions& options, BlockPool& pool);

} // namespace quire
