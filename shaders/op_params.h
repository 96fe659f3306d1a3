// Constants and parameter structs that shaders and C++ share: compiles as C++20 and as GLSL 460.
//
// Shapes stand at the members. Addresses are buffer device addresses, 0 = absent; strides count elements. A launch's parameters
// are one uniform block (std140), so every struct here keeps to scalars of 4 and 8 bytes on their natural boundaries and to sizes
// of a multiple of 16: then std140, std430 and C++ agree; the C++ side asserts the sizes.
#ifndef QUIRE_OP_PARAMS_H
#define QUIRE_OP_PARAMS_H

#ifdef __cplusplus
#include <cstdint>
namespace quire::vulkan {
using uint = uint32_t;
using address = uint64_t;
#define QUIRE_CONSTANT constexpr uint
#else
#define address uint64_t
#define QUIRE_CONSTANT const uint
#endif

QUIRE_CONSTANT panel_rows = 32;    // rows of a weight that lie interleaved, a row a lane
QUIRE_CONSTANT block_columns = 32; // elements of a row that are unpacked together
QUIRE_CONSTANT max_parts = 8;      // row ranges of one linear launch
QUIRE_CONSTANT max_pieces = 8;     // row ranges of one table of an embed launch
QUIRE_CONSTANT max_groups = 8;     // KV groups
QUIRE_CONSTANT max_kv_chunks = 16; // buffers of one KV group's pool
QUIRE_CONSTANT segment_tokens = 256; // attention is summed up a segment of absolute positions at a time, then over segments in order
QUIRE_CONSTANT max_sampled_rows = 65535;
QUIRE_CONSTANT max_candidates = 256;

// Where the leading dimension of a launch comes from.
QUIRE_CONSTANT count_tokens = 0;
QUIRE_CONSTANT count_sequences = 1;
QUIRE_CONSTANT count_rows = 2;

// One token of a step, worked out on the device.
struct TokenInfo {
  uint id;       // token id
  uint sequence; // of the step
  uint position; // absolute
  uint unused;
};

// One item of the attention's work list: query tokens [token, token + tokens) of a sequence, over the segments
// [segment_begin, segment_end).
struct AttendItem {
  uint token;
  uint tokens;
  uint segment_begin;
  uint segment_end;
  uint position;    // of the first token
  uint table_start; // first entry of the sequence's block table
  uint partial;     // 1 + index of its partial result (one token, one segment); 0 = the item is all of its tokens' context
  uint window;      // positions a token sees; 0 = all
};

// One token whose segments were done by several items: partials [first, first + count) in the order of the segments.
struct CombineItem {
  uint token;
  uint first;
  uint count;
  uint unused;
};

// The step's uniform block.
struct StepHeader {
  uint num_tokens;
  uint num_sequences;
  uint num_rows;
  uint parity;        // of the ticket: its sampled tokens go to sampled[parity]
  address tokens;     // int [T]
  address token_rows; // uint [T], 0 = none given
  address query_start; // uint [S + 1]
  address seq_len;     // uint [S]
  address rows;        // uint [R]
  address infos;       // TokenInfo [T]
  address previous;    // int [max_sampled_rows]: what the ticket before sampled
  address table_start; // uint [S + 1]
  uint num_groups;
  uint num_entries; // table_start[S]
  uint unused0;
  uint unused1;
};
struct StepGroup {
  address table;        // uint [num_entries] block ids
  address addresses;    // address [num_entries] of the blocks, worked out on the device
  address chunks;       // address [..] of the pool's buffers
  uint chunk_shift;     // block b lies in chunk b >> shift ...
  uint block_bytes_256; // ... at (b & mask) * 256 * this
  address items;        // AttendItem []: one token each
  address tile_items;   // AttendItem []: several tokens each
  address combines;     // CombineItem []
  uint num_items;
  uint num_tile_items;
  uint num_combines;
  uint num_blocks;
  uint unused0;
  uint unused1;
};

// A row range of a weight in the device's layout (weights.hpp has the planes).
struct WeightPart {
  address quants;
  address high;
  address aux;
  address bias;     // float [rows]; 0 = none
  uint first_panel; // of the launch
  uint rows;
  uint out_column;
  uint unused;
};

QUIRE_CONSTANT act_none = 0;
QUIRE_CONSTANT act_silu = 1;
QUIRE_CONSTANT act_gelu_tanh = 2;
QUIRE_CONSTANT act_gelu_erf = 3;
QUIRE_CONSTANT act_relu = 4;

struct LinearParams {
  address x;        // float [rows, K]
  address y;        // float [rows, N]
  address residual; // float [rows, N] added last; 0 = none
  uint x_stride;
  uint y_stride;
  uint residual_stride;
  uint columns; // K
  uint blocks;  // ceil(K / block_columns)
  uint segment_blocks; // the K-partition: blocks of a segment, a multiple of the format's super-block
  uint count;   // count_*
  uint num_parts;
  uint num_panels;
  uint activation;
  float scale;
  float softcap; // 0 = none
  uint glu;      // act_* + 1 where rows of part 1 gate with those of part 0; 0 = not
  uint unused;
};
struct ExpertParams {
  address x;       // float [T, K] or [T, k, K]
  address y;       // float [T, k, N], or [T, N] with weights
  address experts; // int [T, k]
  address weights; // float [T, k]; 0 = none
  address bias;    // float [experts, N]; 0 = none
  uint x_stride;   // of a token
  uint x_expert_stride; // of a choice within a token; 0 = shared
  uint y_stride;
  uint choices; // k
  uint expert_stride, weight_stride; // of a token, in experts and weights
  uint columns;
  uint blocks;
  uint rows;          // N
  uint expert_panels; // panels of one expert
  uint num_experts;
  uint piece_experts; // experts of a piece
  uint unused0, unused1;
};

struct EmbedParams {
  address y; // float [T, dim]
  uint y_stride;
  uint dim;
  uint blocks;
  uint rows;       // of the table
  uint piece_rows; // of each piece but the last
  float scale;
  uint by_position; // 1: the row is the token's position, and is added to y
  uint num_pieces;
  uint unused0, unused1;
};

QUIRE_CONSTANT norm_rms = 0;
QUIRE_CONSTANT norm_layer = 1;
struct NormParams {
  address x;
  address residual; // added to x; 0 = none
  address y;
  address sum;    // x + residual; 0 = not wanted
  address weight; // float [dim]; 0 = ones
  address bias;   // float [dim]; 0 = none
  uint x_stride, residual_stride, y_stride, sum_stride;
  uint dim;
  uint kind;
  uint count;
  float epsilon;
  float weight_offset;
  uint heads;
  uint unused0, unused1;
};

QUIRE_CONSTANT rope_half = 0;
QUIRE_CONSTANT rope_interleaved = 1;
// Rotation of q and k and storing of k and v, each part optional.
struct RopeParams {
  address q;     // float [T, q_heads, dim]; q_heads = 0: none
  address q_out;
  address k;     // float [T, kv_heads, dim]; kv_heads = 0: none
  address k_out; // float; 0 = not kept
  address v;     // float [T, kv_heads, v_dim]
  address frequencies; // uvec2 [rotary_dim / 2]: turns a position, a 64-bit fraction, low word first
  uint q_stride, q_out_stride, k_stride, k_out_stride, v_stride;
  uint q_heads;
  uint kv_heads;
  uint dim;
  uint v_dim;
  uint rotary_dim; // 0 = no rotation
  uint kind;
  float magnitude;
  uint group;
  uint k_offset; // bytes of the layer's K in a block
  uint v_offset;
  uint block_shift; // log2 of tokens a block
  uint k_row;   // elements of a token's row of one head, padded
  uint v_row;
  uint store;   // 1: k and v go to the cache
  uint unused;
};

struct AttendParams {
  address q; // float [T, heads, dim]
  address y; // float [T, heads, v_dim]
  address partials; // float [items, heads, v_pad + 2]
  address sinks;    // float [heads]; 0 = none
  uint q_stride, y_stride;
  uint heads;
  uint kv_heads;
  uint dim;
  uint v_dim;
  uint group;
  uint k_offset;
  uint v_offset;
  uint block_shift;
  uint k_row; // elements, padded
  uint v_row;
  float scale;
  float softcap;
  uint head_tiles; // tiles of heads a KV head
  uint partial_stride; // floats of one head's partial
};

struct ElementParams {
  address a;
  address b;
  address y;
  uint a_stride, b_stride, y_stride;
  uint columns;
  uint count;
  uint activation;
  uint b_scalar; // 1: b is one number
  uint b_shared; // 1: b is one row for all
  uint unused0, unused1;
};

struct RouteParams {
  address scores; // float [T, experts]
  address weights; // float [T, k]
  address ids;     // int [T, k]
  address bias;    // float [experts]; 0 = none
  uint score_stride, weight_stride, id_stride;
  uint experts;
  uint scoring;
  uint top_k;
  uint groups;
  uint top_groups;
  uint normalise;
  float scale;
  uint unused0, unused1;
};

// ---- Sampling ----

QUIRE_CONSTANT sample_edited = 1;   // penalties, bias or mask: the row has a copy of its own
QUIRE_CONSTANT sample_random = 2;   // temperature is not 0
QUIRE_CONSTANT sample_cut = 4;      // top-k, top-p, min-p or typical-p
QUIRE_CONSTANT sample_candidates = 8;

struct SampleRow {
  float temperature;
  float top_p;
  float min_p;
  float typical_p;
  uint top_k;
  float repetition_penalty; // 1 = off
  float presence_penalty;
  float frequency_penalty;
  uint seed_low, seed_high;
  uint choice;
  uint position;
  uint num_candidates;
  uint pending_row; // 1-based; 0 = none
  uint flags;       // sample_*
  uint first_edit;
  uint num_edits;
  uint mask;      // 1 + first word of the row's mask; 0 = none
  uint edited;    // row of the edited copies
  uint candidate; // first of its candidates in the results
};
struct SampleEdit {
  uint token;
  uint in_prompt;
  uint in_output;
  float bias;
};
// What a chunk of a row's vocabulary amounts to.
struct SampleChunk {
  float raw_max; // of the raw logits
  float raw_sum; // of exp(l - raw_max)
  float best;    // of what the token is chosen by
  uint best_token;
  float max_logit; // of the edited logits over temperature
  uint nan;
  uint unused0, unused1;
};
// What a row keeps: l >= threshold, and for typical-p score <= typical.
struct SampleCut {
  float threshold;
  float typical;
  float log_sum; // of the distribution that the scores were taken from
  float entropy;
};
struct SampleResult {
  int token;
  float logprob;
  uint num_candidates;
  uint unused;
};
struct SampleCandidate {
  int token;
  float logprob;
};
struct SampleParams {
  address logits; // float [R, vocab]
  address edited; // float [.., vocab]
  address rows;   // SampleRow [R]
  address edits;  // SampleEdit []
  address masks;  // uint []
  address chunks; // SampleChunk [R, num_chunks]
  address cuts;   // SampleCut [R]
  address sampled;  // int [max_sampled_rows]
  address previous; // int [max_sampled_rows]
  address results;  // SampleResult [R]
  address candidates; // SampleCandidate []
  uint logit_stride;
  uint vocab;
  uint num_chunks;
  uint chunk; // elements
  uint num_rows;
  uint unused;
};

#ifdef __cplusplus
static_assert(sizeof(TokenInfo) == 16 && sizeof(AttendItem) == 32 && sizeof(CombineItem) == 16 && sizeof(StepHeader) == 96);
static_assert(sizeof(StepGroup) == 80 && sizeof(WeightPart) == 48 && sizeof(LinearParams) == 80 && sizeof(ExpertParams) == 96);
static_assert(sizeof(EmbedParams) == 48 && sizeof(NormParams) == 96 && sizeof(RopeParams) == 128 && sizeof(AttendParams) == 96);
static_assert(sizeof(ElementParams) == 64 && sizeof(RouteParams) == 80 && sizeof(SampleRow) == 80 && sizeof(SampleParams) == 112);
static_assert(sizeof(SampleChunk) == 32 && sizeof(SampleCut) == 16 && sizeof(SampleResult) == 16 && sizeof(SampleEdit) == 16);
} // namespace quire::vulkan
#endif
#undef QUIRE_CONSTANT

#endif
