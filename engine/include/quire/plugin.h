/* The plugin ABI of Quire, version 1: plain C, for backends, models and samplers loaded at run time.
 *
 * Purpose: a shared library exports one datum, `quire_plugin_v1`. Everything else is reached through its table.
 * plugin.hpp gives C++ authors a class to derive from and one macro; nobody has to write these tables by hand.
 *
 * Rules that hold everywhere here:
 *  - Zero always means absent or identity: a zeroed struct asks for nothing.
 *  - Arrays of structs travel as (pointer, count, element size). A receiver reads the fields it knows and refuses, by name,
 *    any non-zero byte beyond them and any op kind it does not know. Tables are append only; a NULL entry means absent.
 *  - Ids of values, weights and rows that may be absent are 1-based; 0 is «none».
 *  - No exception, no C++ standard type and no allocation crosses. Strings are UTF-8, NUL-terminated, owned by the giver and
 *    valid for the call unless a longer life is stated.
 *  - Functions that can fail take `quire_status*` (owned by the caller, never NULL) and leave code 0 on success. A message is
 *    one sentence for the user.
 *  - Thread contracts: [load] one thread, while loading; [engine] the engine thread only; [any] any thread, concurrently.
 */
#ifndef QUIRE_PLUGIN_H
#define QUIRE_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QUIRE_ABI_MAJOR 1
#define QUIRE_ABI_MINOR 1 /* 1: quire_backend has idle and counters */

/* ---- Status -------------------------------------------------------------------------------------------------------- */

enum quire_code {
  QUIRE_OK = 0,
  QUIRE_INVALID = 1,       /* the caller's data is wrong: a program, a step, a parameter */
  QUIRE_UNSUPPORTED = 2,   /* right, but this plugin or device can't do it */
  QUIRE_OUT_OF_MEMORY = 3, /* device or host memory; nothing changed */
  QUIRE_DEVICE_LOST = 4,   /* the instance is unusable: destroy it and create another */
  QUIRE_FAILED = 5         /* anything else */
};

typedef struct quire_status {
  int32_t code;
  char message[252];
} quire_status;

/* ---- Weight formats ------------------------------------------------------------------------------------------------ */

/* Element formats. The GGUF block formats are as in ggml (source: the GGUF specification and ggml's block layouts): 32 elements a
 * block for Q4_0 to Q8_0, 256 a super-block for Q2_K to Q6_K; blocks run along K, rows are contiguous. */
enum quire_format {
  QUIRE_F32 = 0,
  QUIRE_F16 = 1,
  QUIRE_BF16 = 2,
  QUIRE_Q4_0 = 3,
  QUIRE_Q4_1 = 4,
  QUIRE_Q5_0 = 5,
  QUIRE_Q5_1 = 6,
  QUIRE_Q8_0 = 7,
  QUIRE_Q2_K = 8,
  QUIRE_Q3_K = 9,
  QUIRE_Q4_K = 10,
  QUIRE_Q5_K = 11,
  QUIRE_Q6_K = 12,
  QUIRE_FORMAT_COUNT = 13
};

/* What a KV cache is kept in: QUIRE_F32, QUIRE_F16, QUIRE_BF16, or one of these, which are no weight's and numbered apart from quire_format.
 * E4M3 (source: Micikevicius et al. 2022, «FP8 formats for deep learning»): sign, 4 bits of exponent, 3 of mantissa; 448 is the largest, there
 * is no infinity. Stored by rounding to nearest, ties to even; what is larger becomes +-448, NaN stays NaN. Scale 1. */
enum quire_kv_format { QUIRE_KV_E4M3 = 256 };

/* How a weight is divided over ranks (tensor parallelism); the host derives per-rank programs. */
enum quire_shard {
  QUIRE_REPLICATE = 0,
  QUIRE_SHARD_ROWS = 1,      /* N: the outputs */
  QUIRE_SHARD_COLUMNS = 2,   /* K: the inputs; a collective follows */
  QUIRE_SHARD_EXPERTS = 3,
  QUIRE_SHARD_VOCABULARY = 4
};

/* One contiguous piece of a weight. Formats of one plane (all of the above) use planes[0]; formats with separate scales and
 * zeros (GPTQ, AWQ, scaled fp8) use planes[1] and planes[2]. */
typedef struct quire_plane {
  const void* data;
  uint64_t bytes;
} quire_plane;

/* A weight [experts, rows, cols], row major; a vector is [1, cols]; experts 0 is a plain matrix. Planes point into the mapped
 * file or host memory and stay valid until the program is destroyed (destroy of the instance). */
typedef struct quire_weight {
  const char* name; /* as in a Hugging Face checkpoint, for errors and for finding it */
  uint32_t format;  /* quire_format; set by the host from the file */
  uint32_t shard;   /* quire_shard */
  uint64_t experts;
  uint64_t rows; /* N */
  uint64_t cols; /* K */
  quire_plane planes[3];
} quire_weight;

/* ---- The program: a static list of operations -------------------------------------------------------------------- */

/* The leading dimension of an activation: known only per step. */
enum quire_rows {
  QUIRE_TOKENS = 0,    /* T: tokens of the step */
  QUIRE_SEQUENCES = 1, /* S: sequences of the step */
  QUIRE_OUTPUTS = 2    /* R: rows whose output is wanted */
};

enum quire_dtype { QUIRE_REAL = 0, /* float32 semantics; a backend may store fewer bits within the error bound */ QUIRE_INT32 = 1 };

/* An activation [rows, heads, dim]. With a parent it is a view: columns [offset, offset + heads * dim) of the parent, whose row
 * stride it has. A view of a view is not allowed: parent has none. Views are read only. */
typedef struct quire_value {
  const char* name;
  uint32_t rows;  /* quire_rows */
  uint32_t heads; /* at least 1 */
  uint32_t dim;   /* elements a head */
  uint32_t dtype; /* quire_dtype */
  uint32_t parent;
  uint32_t offset;
} quire_value;

enum quire_op_kind {
  QUIRE_OP_NONE = 0,
  QUIRE_OP_EMBED = 1,       /* out[0] [T, dim] = scale * table[token] (+ positions[position]) */
  QUIRE_OP_NORM = 2,        /* out[0] = norm(in[0] + in[1]) over dim (per head), out[1] = in[0] + in[1] */
  QUIRE_OP_LINEAR = 3,      /* out[0] [rows, sum N] = softcap(scale * act(in[0] [rows, K] W^T + bias)) */
  QUIRE_OP_ROPE = 4,        /* out[0] = rotate(in[0] [T, heads, dim]) by each token's position */
  QUIRE_OP_KV_STORE = 5,    /* writes in[0] = k, in[1] = v [T, kv_heads, dim] into the cache */
  QUIRE_OP_ATTEND = 6,      /* out[0] [T, heads, v_dim] = causal attention of in[0] = q [T, heads, dim] over the cache */
  QUIRE_OP_GLU = 7,         /* out[0] = act(in[0]) * in[1] */
  QUIRE_OP_ADD = 8,         /* out[0] = in[0] + in[1] */
  QUIRE_OP_MUL = 9,         /* out[0] = in[0] * in[1], or in[0] * weight [1, cols] with in[1] = 0 */
  QUIRE_OP_GATHER_ROWS = 10,/* out[0] [R, ...] = rows of in[0] [T, ...] that the step asks for */
  QUIRE_OP_ROUTE = 11,      /* out[0] [T, k] weights, out[1] [T, k] expert ids (INT32) from in[0] [T, experts] scores */
  QUIRE_OP_EXPERT_LINEAR = 12, /* out[0] [T, k, N] = in[0] [T, K] or [T, k, K] times the experts in[1] [T, k] chose;
                                  with in[2] = weights [T, k]: out[0] [T, N] = their weighted sum */
  QUIRE_OP_COLLECTIVE = 13, /* out[0] = reduction or gather of in[0] over ranks */
  QUIRE_OP_KIND_COUNT = 14
};

enum quire_activation { QUIRE_ACT_NONE = 0, QUIRE_ACT_SILU = 1, QUIRE_ACT_GELU_TANH = 2, QUIRE_ACT_GELU_ERF = 3, QUIRE_ACT_RELU = 4 };

typedef struct quire_embed {
  uint32_t table;     /* weight [vocab, dim] */
  uint32_t positions; /* weight [max positions, dim], learned; 0 = none */
  float scale;        /* 0 = 1 */
} quire_embed;

/* y = (x - mean) / sqrt(var + eps) * (weight + weight_offset) + bias; rms: no mean, var = mean(x^2). */
enum quire_norm_kind { QUIRE_NORM_RMS = 0, QUIRE_NORM_LAYER = 1 };
typedef struct quire_norm {
  uint32_t kind;
  uint32_t weight; /* [1, dim]; 0 = ones */
  uint32_t bias;   /* [1, dim]; 0 = none */
  float epsilon;
  float weight_offset; /* 1 for checkpoints that store weight - 1 (Gemma in safetensors) */
} quire_norm;

#define QUIRE_MAX_PARTS 4
/* Row-concatenated parts: out columns are those of weight[0], then weight[1], ... each with its own format. */
typedef struct quire_linear {
  uint32_t weights[QUIRE_MAX_PARTS]; /* [N_i, K] */
  uint32_t biases[QUIRE_MAX_PARTS];  /* [1, N_i]; 0 = none */
  uint32_t activation;               /* quire_activation */
  float scale;                       /* of the output, after activation; 0 = 1 */
  float softcap;                     /* c * tanh(x / c), last; 0 = none */
  uint32_t adapter_slot;             /* reserved for low-rank adapters: 0 = none */
} quire_linear;

/* Angle of pair i at position p: p * frequencies[i]. The host has already worked every scaling kind (linear, llama3, yarn, longrope)
 * into the frequencies and the magnitude, so that all backends rotate alike. */
enum quire_rope_kind {
  QUIRE_ROPE_HALF = 0,       /* pairs (i, i + rotary_dim / 2): GPT-NeoX, Hugging Face Llama */
  QUIRE_ROPE_INTERLEAVED = 1 /* pairs (2 i, 2 i + 1): GPT-J, GGUF Llama */
};
typedef struct quire_rope {
  uint32_t kind;
  uint32_t rotary_dim;  /* first elements of a head that rotate; the rest pass through */
  uint32_t frequencies; /* weight F32 [1, rotary_dim / 2], radians a position */
  float magnitude;      /* cos and sin are multiplied by it; 0 = 1 */
} quire_rope;

typedef struct quire_kv_store {
  uint32_t kv_layer; /* index into the program's kv_layers */
} quire_kv_store;

/* softmax(scale * q k^T, capped) v over positions <= own, within the layer's window. A sink is a logit a head that takes part in
 * the softmax's denominator and has no value. */
typedef struct quire_attend {
  uint32_t kv_layer;
  float scale;
  float softcap;  /* 0 = none */
  uint32_t sinks; /* weight [1, heads]; 0 = none */
} quire_attend;

typedef struct quire_glu {
  uint32_t activation;
} quire_glu;

typedef struct quire_mul {
  uint32_t weight; /* [1, cols] or [1, 1]; 0 = in[1] */
} quire_mul;

enum quire_route_scoring { QUIRE_ROUTE_SOFTMAX = 0, QUIRE_ROUTE_SIGMOID = 1, QUIRE_ROUTE_SOFTMAX_SELECTED = 2 };
/* Chooses top_k of the experts (ties: lowest id). With groups, only experts of the top_groups best groups (by the sum of their
 * two best scores) can be chosen. bias is added for choosing only. normalise: chosen weights sum to one. */
typedef struct quire_route {
  uint32_t scoring;
  uint32_t top_k;
  uint32_t groups;
  uint32_t top_groups;
  uint32_t bias; /* weight [1, experts]; 0 = none */
  uint32_t normalise;
  float scale; /* of the chosen weights; 0 = 1 */
} quire_route;

typedef struct quire_expert_linear {
  uint32_t weight; /* [experts, N, K] */
  uint32_t bias;   /* [experts rows, cols N]; 0 = none */
} quire_expert_linear;

enum quire_collective_kind { QUIRE_ALL_REDUCE = 0, QUIRE_ALL_GATHER = 1 };
typedef struct quire_collective {
  uint32_t kind;
} quire_collective;

typedef struct quire_op {
  uint32_t kind;  /* quire_op_kind */
  uint32_t layer; /* of the model, for printing and errors */
  uint32_t in[4]; /* value ids */
  uint32_t out[2];
  union {
    quire_embed embed;
    quire_norm norm;
    quire_linear linear;
    quire_rope rope;
    quire_kv_store kv_store;
    quire_attend attend;
    quire_glu glu;
    quire_mul mul;
    quire_route route;
    quire_expert_linear expert_linear;
    quire_collective collective;
  } u;
} quire_op;

/* The shape of one layer's cache. */
typedef struct quire_kv_layer {
  uint32_t kv_heads;
  uint32_t k_dim; /* elements a head */
  uint32_t v_dim;
  uint32_t group; /* index into kv_groups */
} quire_kv_layer;

/* Layers with the same reach share block tables. */
typedef struct quire_kv_group {
  uint32_t window; /* positions a token sees, itself included; 0 = all */
} quire_kv_group;

typedef struct quire_output {
  const char* name;
  uint32_t value;
} quire_output;

/* The network, valid until the call that takes it returns (names and planes longer, see quire_weight). outputs[0] is «logits»
 * [R, vocab]; further outputs stay on the device for read_output. */
typedef struct quire_program {
  size_t struct_size;
  const char* name;
  const quire_value* values; /* id i is values[i - 1] */
  const quire_weight* weights;
  const quire_op* ops;
  const quire_kv_layer* kv_layers;
  const quire_kv_group* kv_groups;
  const quire_output* outputs;
  uint32_t num_values, value_size; /* count, bytes an element */
  uint32_t num_weights, weight_size;
  uint32_t num_ops, op_size;
  uint32_t num_kv_layers, kv_layer_size;
  uint32_t num_kv_groups, kv_group_size;
  uint32_t num_outputs, output_size;
  uint32_t vocab_size;
  uint32_t max_context; /* longest sequence the model was made for */
} quire_program;

/* ---- Backend ------------------------------------------------------------------------------------------------------- */

enum quire_device_kind { QUIRE_DEVICE_CPU = 0, QUIRE_DEVICE_INTEGRATED = 1, QUIRE_DEVICE_DISCRETE = 2 };

typedef struct quire_device_info {
  char name[128];
  char driver[128]; /* name and version */
  char note[252];   /* a sentence about what limits it, or empty */
  uint32_t kind;    /* quire_device_kind */
  uint32_t usable;  /* 0: note says why not */
  uint64_t memory_bytes;
  uint64_t free_bytes;
} quire_device_info;

enum quire_log_level { QUIRE_LOG_DEBUG = 0, QUIRE_LOG_INFO = 1, QUIRE_LOG_WARNING = 2, QUIRE_LOG_ERROR = 3 };

/* Callbacks are the host's: callable from the thread that is inside a verb. */
typedef struct quire_create_options {
  size_t struct_size;
  uint32_t device;       /* index among device_count */
  uint32_t invariant;    /* 1: a row's reduction order depends on the weight's shape and its own position alone */
  uint32_t num_threads;  /* CPU backends; 0 = all cores */
  uint32_t validate;     /* 1: API validation layers, where there are any */
  const char* cache_dir; /* for pipelines and tuning; NULL = keep nothing */
  void* host;            /* passed to the callbacks */
  void (*log)(void* host, int32_t level, const char* message);
  void (*progress)(void* host, uint64_t done_bytes, uint64_t total_bytes); /* of the weights, while compiling */
} quire_create_options;

typedef struct quire_memory_info {
  uint64_t total_bytes; /* of the device */
  uint64_t free_bytes;
  uint64_t weights_bytes; /* held by this instance */
  uint64_t kv_bytes;
  uint64_t scratch_bytes;
} quire_memory_info;

/* The largest step that will be submitted. */
typedef struct quire_limits {
  size_t struct_size;
  uint32_t max_tokens;    /* T */
  uint32_t max_sequences; /* S */
  uint32_t max_rows;      /* R */
  uint32_t max_context;   /* tokens a sequence */
  uint32_t block_size;    /* tokens a KV block, 8 to 256, a power of two */
  uint32_t kv_format;     /* QUIRE_F16 (default of the host), QUIRE_BF16, QUIRE_F32 or a quire_kv_format; refused where it is not known */
} quire_limits;

#define QUIRE_MAX_GROUPS 8
typedef struct quire_kv_config {
  size_t struct_size;
  uint32_t program;                       /* id from compile */
  uint32_t num_blocks[QUIRE_MAX_GROUPS];  /* a KV group; block ids are 0 .. num_blocks - 1 */
  uint32_t host_blocks[QUIRE_MAX_GROUPS]; /* slots for swapped blocks; 0 = no swapping */
} quire_kv_config;

/* One step of one program. Sequence s owns tokens [query_start[s], query_start[s + 1]); its last token has position
 * seq_len[s] - 1, so its first has seq_len[s] - (query_start[s + 1] - query_start[s]). Token t's KV goes to slot position % block_size of
 * block tables[group][table_start[s] + position / block_size]. A table entry behind a window may be UINT32_MAX: freed. */
typedef struct quire_step {
  size_t struct_size;
  uint32_t program;
  uint32_t num_tokens;              /* T >= 1 */
  uint32_t num_sequences;           /* S >= 1 */
  uint32_t num_rows;                /* R >= 0 */
  const int32_t* tokens;            /* [T] ids; ignored where token_rows is not 0 */
  const uint32_t* token_rows;       /* [T] 1-based row of ticket token_ticket whose sampled token this is; 0 = take tokens. NULL = all 0 */
  uint64_t token_ticket;            /* the ticket submitted just before this one, if token_rows names any */
  const uint32_t* query_start;      /* [S + 1] */
  const uint32_t* seq_len;          /* [S] */
  const uint32_t* table_start;      /* [S + 1] into each group's table; entries of sequence s: table_start[s + 1] - table_start[s]; those behind its tokens may be any block's */
  const uint32_t* const* tables;    /* [num_kv_groups] pointers to [table_start[S]] block ids */
  const uint32_t* rows;             /* [R] token indices whose output is wanted, ascending; one may come again (samples of one prompt) */
  const uint32_t* adapters;         /* [S] adapter slots; NULL = none */
} quire_step;

typedef struct quire_token_count {
  int32_t token;
  uint32_t in_prompt; /* occurrences in the prompt, counted for repetition_penalty */
  uint32_t in_output; /* occurrences in the output, counted for all three penalties */
} quire_token_count;

typedef struct quire_logit_bias {
  int32_t token;
  float bias; /* -INFINITY bans */
} quire_logit_bias;

#define QUIRE_MAX_CANDIDATES 256

/* How row r of a step is sampled. In this order, as vLLM does:
 *   1. repetition_penalty (l > 0 ? l / p : l * p, Keskar et al. 2019), l -= frequency * count + presence * (count > 0), l += bias, mask;
 *   2. temperature 0: the largest logit, lowest id on ties. Otherwise l /= temperature;
 *   3. min_p: keep p_i >= min_p * max p; top_k: keep the k largest; typical_p (Meister et al. 2022); top_p: keep the fewest whose sum reaches
 *      top_p. Each works on the probabilities of those kept before, renormalised. Tokens that tie at a threshold are all kept;
 *   4. token = argmax over those kept of l_i + g_i, g_i = -log(-log(u_i)), u_i from Philox4x32-10 (Salmon et al. 2011) with key
 *      (seed low, seed high) and counter (i / 4, position, choice, 0), word i % 4, u = (word + 0.5) * 2^-32 (the Gumbel-max method: exact, and
 *      independent of any order of summation).
 * logprob and candidates are of the raw logits: log softmax before step 1, over the whole vocabulary. */
typedef struct quire_sampling_row {
  float temperature; /* 0 = greedy */
  float top_p;       /* 0 or 1 = off */
  float min_p;       /* 0 = off */
  float typical_p;   /* 0 or 1 = off */
  uint32_t top_k;    /* 0 = off */
  float repetition_penalty; /* 0 or 1 = off */
  float presence_penalty;
  float frequency_penalty;
  uint64_t seed;
  uint32_t choice;         /* index of the choice within its request */
  uint32_t position;       /* of the token being sampled */
  uint32_t num_candidates; /* most probable tokens wanted, at most QUIRE_MAX_CANDIDATES */
  uint32_t pending_row;    /* 1-based row of the step just before, whose sampled token counts into in_output too; 0 = none */
  const quire_token_count* counts;
  const quire_logit_bias* bias; /* each token at most once */
  const uint32_t* mask;    /* bitset [(vocab + 31) / 32] of allowed tokens; NULL = all */
  float* logits;           /* [vocab] raw logits, filled by wait; NULL = not wanted */
  uint32_t num_counts;
  uint32_t num_bias;
} quire_sampling_row;

typedef struct quire_sampling {
  size_t struct_size;
  const quire_sampling_row* rows; /* [R]; spans they point to are read before sample returns, logits must live until wait */
  uint32_t num_rows;
  uint32_t row_size; /* bytes an element */
} quire_sampling;

typedef struct quire_candidate {
  int32_t token;
  float logprob;
} quire_candidate;

typedef struct quire_sampled_row {
  int32_t token;   /* -1: the row's logits held a NaN, or nothing was allowed */
  float logprob;
  uint32_t num_candidates;     /* in: capacity of candidates; out: how many, most probable first, lowest id on ties */
  quire_candidate* candidates; /* the caller's */
} quire_sampled_row;

typedef struct quire_block_copy {
  uint32_t group;
  uint32_t from;
  uint32_t to;
} quire_block_copy;

/* What one op of a program took. */
typedef struct quire_op_time {
  uint32_t op;         /* index into the program; UINT32_MAX: sampling and everything else */
  uint32_t num_fused;  /* ops that ran within this launch, this one included; 0 = it ran within an earlier one */
  char kernel[64];     /* what ran */
  double seconds;      /* median of the repetitions */
  uint64_t bytes;      /* it must move, each input and output once */
  uint64_t flops;      /* it must do */
} quire_op_time;

/* A total since the instance was created. */
typedef struct quire_counter {
  char name[48]; /* what is counted, its unit last where it has one: «decode_plan_seconds» */
  double value;
} quire_counter;

/* An instance is one device, one queue: all its verbs behave as if carried out in the order of the calls, and may return before the
 * device has done them. A failed verb changes nothing unless its code is QUIRE_DEVICE_LOST. All verbs of an instance are [engine], and
 * [load] before the first submit. */
typedef struct quire_backend {
  size_t struct_size;
  void* self;
  uint32_t (*device_count)(void* self, quire_status*);                                    /* [any] */
  void (*device_info)(void* self, uint32_t device, quire_device_info* out, quire_status*); /* [any] */
  void* (*create)(void* self, const quire_create_options*, quire_status*);                 /* [load] an instance */
  void (*destroy)(void* instance); /* waits for the device */

  void (*memory)(void* instance, quire_memory_info* out, quire_status*);
  /* Loads the weights and prepares every launch for steps within the limits: a program id, 1-based. */
  uint32_t (*compile)(void* instance, const quire_program*, const quire_limits*, quire_status*);
  /* Bytes of one block of a KV group (all its layers, K and V) on the device. */
  uint64_t (*kv_block_bytes)(void* instance, uint32_t program, uint32_t group, quire_status*);
  void (*kv_create)(void* instance, const quire_kv_config*, quire_status*);

  /* Queues a forward pass: a ticket, from 1, rising by one. At most two tickets may be unwaited. The spans are read before it returns. */
  uint64_t (*submit)(void* instance, const quire_step*, quire_status*);
  /* Queues the sampling of the ticket just submitted; its rows are those of the step. */
  void (*sample)(void* instance, uint64_t ticket, const quire_sampling*, quire_status*);
  /* Blocks until the ticket is done; num_rows 0 where nothing was sampled. Waits in the order of the tickets, each once. */
  void (*wait)(void* instance, uint64_t ticket, quire_sampled_row* rows, uint32_t num_rows, quire_status*);

  /* Device to device, all at once: no block is both read and written by one call. */
  void (*copy_blocks)(void* instance, const quire_block_copy*, uint32_t count, quire_status*);
  /* from: device block, to: host slot. */
  void (*swap_out)(void* instance, const quire_block_copy*, uint32_t count, quire_status*);
  /* from: host slot, to: device block. */
  void (*swap_in)(void* instance, const quire_block_copy*, uint32_t count, quire_status*);

  /* Output `index` of the last step waited for, as float32 (or int32) [rows, heads * dim], to the host; bytes must match. Outputs are kept
   * only until the next submit. */
  void (*read_output)(void* instance, uint32_t program, uint32_t index, void* out, uint64_t bytes, quire_status*);
  /* Runs the step `repetitions` times and times each launch: writes at most `capacity` entries in the order of the ops, returns how many
   * there are. May be NULL. */
  uint32_t (*profile)(void* instance, const quire_step*, uint32_t repetitions, quire_op_time* out, uint32_t capacity, quire_status*);
  /* This device's own ceilings, measured now: bytes/s of read-only streaming, flop/s of a large matrix product in its fastest format. May
   * be NULL. */
  void (*ceilings)(void* instance, double* bytes_per_second, double* flops_per_second, quire_status*);
  /* For while there is nothing to do: works for about so many microseconds at what makes later steps faster, such as timing kernels, and
   * returns 1 while something is left to do. No ticket may be unwaited; outputs are lost; sums of later steps may be added in another order
   * (never with `invariant`). May be NULL. */
  uint32_t (*idle)(void* instance, uint32_t microseconds, quire_status*);
  /* What the instance has counted, for those who measure it: writes at most `capacity` entries, returns how many there are. May be NULL. */
  uint32_t (*counters)(void* instance, quire_counter* out, uint32_t capacity, quire_status*);
} quire_backend;

/* ---- Model --------------------------------------------------------------------------------------------------------- */

/* The model's configuration in the words of Hugging Face's config.json, whatever file it came from; nested keys are joined by dots
 * (`rope_scaling.factor`), elements of arrays too (`layer_types.0`). Each getter returns 1 if the key is there and of that type. [load] */
typedef struct quire_config {
  size_t struct_size;
  void* self;
  uint32_t from_gguf; /* 1: weights follow GGUF's conventions (Llama's q and k permuted for interleaved rope, Gemma's norm + 1) */
  int32_t (*integer)(void* self, const char* key, int64_t* out);
  int32_t (*real)(void* self, const char* key, double* out);
  int32_t (*boolean)(void* self, const char* key, int32_t* out);
  int32_t (*string)(void* self, const char* key, const char** out); /* lives as long as the config */
  int32_t (*length)(void* self, const char* key, uint64_t* out);    /* of an array */
} quire_config;

/* The host's recorder of a program. Each call copies what it is given; a wrong call sets the status and returns 0, and so does every
 * later one. [load] */
typedef struct quire_builder {
  size_t struct_size;
  void* self;
  /* A weight by its Hugging Face name and the shape that the configuration implies; format and planes are the host's. The same name twice
   * is the same id. optional: returns 0 without an error where the file has none. */
  uint32_t (*weight)(void* self, const quire_weight*, int32_t optional, quire_status*);
  /* A constant F32 vector [1, count] of the plugin's own, copied. */
  uint32_t (*constant)(void* self, const char* name, const float* data, uint64_t count, quire_status*);
  /* Rope frequencies worked out from the configuration's rope_theta and rope_scaling: a weight [1, rotary_dim / 2]; *magnitude set. */
  uint32_t (*rope_frequencies)(void* self, double theta, uint32_t rotary_dim, float* magnitude, quire_status*);
  uint32_t (*value)(void* self, const quire_value*, quire_status*);
  uint32_t (*kv_group)(void* self, const quire_kv_group*, quire_status*); /* an index + 1; equal groups are one */
  uint32_t (*kv_layer)(void* self, const quire_kv_layer*, quire_status*); /* an index + 1 */
  void (*op)(void* self, const quire_op*, uint32_t op_size, quire_status*);
  void (*output)(void* self, const char* name, uint32_t value, quire_status*);
} quire_builder;

typedef struct quire_model {
  size_t struct_size;
  void* self;
  const char* const* architectures; /* NULL-terminated: names in config.json (`LlamaForCausalLM`) and GGUF (`llama`) */
  void (*build)(void* self, const quire_config*, const quire_builder*, quire_status*); /* [load] */
} quire_model;

/* ---- Sampler ------------------------------------------------------------------------------------------------------- */

/* A choosing sampler picks the token on the host from a row's logits. Its rows take part in every second step. */
typedef struct quire_sampler_request {
  size_t struct_size;
  uint64_t seed;
  uint32_t choice;
  uint32_t vocab_size;
  void* host;
  /* A number among the request's sampler parameters: 1 if present. */
  int32_t (*number)(void* host, const char* key, double* out);
} quire_sampler_request;

typedef struct quire_sampler {
  size_t struct_size;
  void* self;
  void* (*open)(void* self, const quire_sampler_request*, quire_status*); /* [any] state of one sequence */
  void* (*clone)(void* state, quire_status*);                             /* [any] for a fork; NULL: can't be forked */
  /* logits [vocab], penalties, bias and mask already applied; may be overwritten. Returns the token. [any], one call a state at a time. */
  int32_t (*choose)(void* state, float* logits, uint32_t vocab_size, uint32_t position, quire_status*);
  void (*close)(void* state); /* [any] */
} quire_sampler;

/* ---- The one exported symbol ----------------------------------------------------------------------------------------- */

enum quire_plugin_kind { QUIRE_PLUGIN_BACKEND = 1, QUIRE_PLUGIN_MODEL = 2, QUIRE_PLUGIN_SAMPLER = 3 };

typedef struct quire_plugin {
  uint32_t struct_size;
  uint16_t abi_major;
  uint16_t abi_minor; /* the newest the plugin makes use of */
  uint32_t kind;      /* quire_plugin_kind */
  uint32_t reserved;  /* 0 */
  const char* id;     /* one word: «vulkan», «llama», «mirostat» */
  const char* version;
  const void* table;  /* quire_backend, quire_model or quire_sampler */
} quire_plugin;

#define QUIRE_PLUGIN_SYMBOL "quire_plugin_v1"

#ifdef __cplusplus
}
#endif

#endif
