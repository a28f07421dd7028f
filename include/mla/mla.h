/* The operators as a C interface: what libmla.so exports, for other languages and for programs that
 * load the library at run time. mla/attention.h and mla/cuda.h say what the operators compute; here
 * stands how they are called.
 *
 * Rules common to all functions:
 *  - A fallible function returns an mla_status. When it is not MLA_OK, mla_error_message()
 *    holds one line for the calling thread, with the offending value and what would be right.
 *  - The first field of every struct is its size in bytes, as the caller compiled it. A
 *    library that knows more fields takes those that are missing as zero; one that knows fewer
 *    refuses the struct if a field that it does not know is not zero. So zero is every later
 *    field's default.
 *  - A null mla_tensor pointer, and a null data pointer of a tensor with elements, is "absent".
 *  - Nothing is kept of what is passed in. No function throws, and none ends the program.
 *  - Functions may be called from several threads at once, if their outputs are distinct.
 */
#ifndef MLA_MLA_H_
#define MLA_MLA_H_

#include <stddef.h>
#include <stdint.h>

#define MLA_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(modernize-redundant-void-arg): C wants the void. */

typedef enum mla_status {
  MLA_OK = 0,
  MLA_INVALID_ARGUMENT = 1, /* a shape, stride, type or value that is out of range */
  MLA_UNSUPPORTED = 2,      /* well-formed, but nothing here implements it; or no such device */
  MLA_OUT_OF_MEMORY = 3,
  MLA_INTERNAL = 4 /* a fault of the library's own */
} mla_status;

/* The error of this thread's last fallible call, or "". Valid until its next one. */
MLA_API const char* mla_error_message(void);

/* --- the library and the machine ---------------------------------------------------------- */

typedef struct mla_build_info {
  size_t size;
  const char* version;            /* "0.1.0" */
  int32_t cuda;                   /* 1: the CUDA kernels are in this library */
  const char* cuda_architectures; /* what they are compiled for: "90a-real 80-virtual", or "" */
  const char* isas;               /* this machine's instruction sets that the CPU kernels use, best
                                     first: "avx512 avx2 sse4 baseline" */
} mla_build_info;

/* The strings live as long as the library. */
MLA_API mla_status mla_get_build_info(mla_build_info* info);

typedef struct mla_device_info {
  size_t size;
  char name[256];             /* "NVIDIA H200" */
  int32_t compute_capability; /* 10 * major + minor */
  int32_t num_sms;
  int64_t memory_bytes;
} mla_device_info;

/* CUDA devices, in the driver's order. MLA_UNSUPPORTED, and a count of 0, where there is none. */
MLA_API mla_status mla_device_count(int32_t* count);
MLA_API mla_status mla_get_device_info(int32_t index, mla_device_info* info);

/* Waits until the stream has done its work: for callers without a CUDA library of their own. */
MLA_API mla_status mla_stream_synchronize(int32_t device_index, void* stream);

/* --- tensors ----------------------------------------------------------------------------- */

enum { MLA_MAX_RANK = 4 };

enum mla_dtype { MLA_F32 = 0, MLA_F16 = 1, MLA_BF16 = 2, MLA_I32 = 3, MLA_F8E4M3 = 4 };
enum mla_device_type { MLA_CPU = 0, MLA_CUDA = 1 };

/* A strided view of memory that the caller owns. */
typedef struct mla_tensor {
  size_t size;
  void* data;
  int32_t dtype;       /* enum mla_dtype */
  int32_t device_type; /* enum mla_device_type */
  int32_t device_index;
  int32_t rank;
  int64_t dims[MLA_MAX_RANK];
  int64_t strides[MLA_MAX_RANK]; /* in elements */
} mla_tensor;

/* How a CPU kernel computes matrix products: f32, or activations rounded to bf16 where they enter
 * one, which is faster. By default bf16 where the queries and the cache are bf16, else f32. */
enum mla_compute { MLA_COMPUTE_AUTO = 0, MLA_COMPUTE_BF16 = 1, MLA_COMPUTE_F32 = 2 };

/* --- decode: a batch of sequences with the same number of query tokens each -------------- */

/* One absorbed MLA step over a paged latent cache (MlaDecodeArgs in mla/cuda.h). All tensors lie on
 * one device. On the CPU there is no schedule and no workspace, the lengths and page ids are
 * checked, and each of q, cache and out may be f32, bf16 or f16: the kernels compute in f32 from
 * the cache as it is; a q or out in 16 bits is converted on the way, in memory of the call's own of
 * at most 64 MiB (tokens are taken in turns where that is not enough). Nothing is written before
 * everything is checked. */
typedef struct mla_decode_args {
  size_t size;
  const mla_tensor* q;          /* [num_seqs, s_q, heads, d_k]: [q_lat ; q_pe] */
  const mla_tensor* cache;      /* [num_pages, page_size, d_k]: [c_kv ; k_pe]; on CUDA also the FP8
                                   latent, [num_pages, page_size, 656] f8_e4m3 */
  const mla_tensor* page_table; /* [num_seqs, pages] i32, inner stride 1 */
  const mla_tensor* kv_lens; /* [num_seqs] i32, contiguous: tokens in the cache, this step's too */
  const mla_tensor* out;     /* [num_seqs, s_q, heads, kv_lora_rank]; may be absent where nothing
                                is computed */
  const mla_tensor* lse;     /* [num_seqs, s_q, heads] f32, any strides; may be absent */
  int32_t kv_lora_rank;      /* d_v, at most d_k */
  float scale;
  int32_t causal;          /* 0 or 1 */
  int32_t batch_invariant; /* 1: a sequence's result does not depend on the others of the call */
  const char* kernel;      /* runs this kernel and no other; null: the first that accepts */
  /* On a CUDA device. */
  void* stream;    /* cudaStream_t; null: the default stream */
  void* schedule;  /* device memory, 256-byte aligned, as mla_decode_memory asks for */
  void* workspace; /* likewise */
  size_t schedule_bytes, workspace_bytes; /* what they hold: checked against what the call needs */
  /* On the CPU. */
  int32_t num_threads; /* 0: as many as this process may use */
  int32_t compute;     /* enum mla_compute */
} mla_decode_args;

typedef struct mla_decode_sizes {
  size_t size;
  size_t schedule_bytes;
  size_t workspace_bytes;
} mla_decode_sizes;

/* What a call of these shapes needs, whatever its lengths. */
MLA_API mla_status mla_decode_memory(const mla_decode_args* args, mla_decode_sizes* sizes);

/* Enqueues the planning from the lengths on the device: before mla_decode, whenever they changed.
 * One schedule serves every layer of a step, whose calls must follow each other on one stream or
 * ordered by events: their thread blocks count themselves in it. Nothing to do on the CPU. */
MLA_API mla_status mla_decode_schedule(const mla_decode_args* args);

/* Attends. On a CUDA device it only enqueues: it neither waits nor allocates, so it can be captured
 * in a graph, together with mla_decode_schedule or without. */
MLA_API mla_status mla_decode(const mla_decode_args* args);

typedef struct mla_verdict {
  const char* kernel;
  const char* refusal; /* why it does not run this call; "": it accepts */
} mla_verdict;

typedef struct mla_verdicts {
  size_t size;
  int32_t count;
  const mla_verdict* items; /* best first: the first that accepts runs. Valid until this thread asks
                               for verdicts again */
} mla_verdicts;

MLA_API mla_status mla_decode_explain(const mla_decode_args* args, mla_verdicts* verdicts);

/* --- around a decode step ---------------------------------------------------------------- */

/* Which elements of a head rotate together: (x0, x1), (x2, x3), ... or (x_i, x_{i + d/2}). */
enum mla_rope_pairing { MLA_ROPE_INTERLEAVED = 0, MLA_ROPE_HALVES = 1 };

/* Rotates a step's queries and keys and appends its latents to the paged cache (MlaAppendArgs in
 * mla/cuda.h). All tensors and arrays lie on one device. On the CPU the tensors of the step are
 * f32, the cache is f32, bf16 or f16 with pages that follow each other, and the slots are checked.
 * A call that is refused has written nothing, neither q_pe nor the cache, and can be made again.
 */
typedef struct mla_append_args {
  size_t size;
  const mla_tensor* c_kv;   /* [tokens, kv_lora_rank]: normalised */
  const mla_tensor* k_pe;   /* [tokens, qk_rope_head_dim], not rotated */
  const mla_tensor* q_pe;   /* [tokens, heads, qk_rope_head_dim], rotated in place; may be absent */
  const mla_tensor* cache;  /* [num_pages, page_size, kv_lora_rank + qk_rope_head_dim]; on CUDA also
                               the FP8 latent */
  const int32_t* positions; /* [tokens] */
  const int64_t* slots;     /* [tokens]: page * page_size + offset; < 0: not cached */
  const float* inv_freq;    /* [qk_rope_head_dim / 2] */
  float magnitude;          /* of cos and sin; 0: 1 */
  int32_t pairing;          /* enum mla_rope_pairing */
  void* stream;             /* on a CUDA device, where the call only enqueues */
  int32_t num_threads;      /* on the CPU; 0: as many as this process may use */
} mla_append_args;

MLA_API mla_status mla_append(const mla_append_args* args);

/* Per-head products y[t, h, :] = W[h] x[t, h, :]: W_UK into the query, W_UV out of the latent
 * (HeadLinearArgs in mla/cuda.h; on the CPU in mla/linear.h, where x and y are f32). */
typedef struct mla_head_linear_args {
  size_t size;
  const mla_tensor* x; /* [tokens, heads, in] */
  const mla_tensor* w; /* [heads, out, in]; one of the two inner strides is 1 */
  const mla_tensor* y; /* [tokens, heads, out] */
  const char* kernel;  /* runs this kernel and no other; null: the first that accepts */
  void* stream;        /* on a CUDA device, where the call only enqueues */
  int32_t num_threads; /* on the CPU; 0: as many as this process may use */
  int32_t compute;     /* on the CPU: enum mla_compute */
} mla_head_linear_args;

MLA_API mla_status mla_head_linear(const mla_head_linear_args* args);
MLA_API mla_status mla_head_linear_explain(const mla_head_linear_args* args,
                                           mla_verdicts* verdicts);

/* --- on the CPU -------------------------------------------------------------------------- */

/* MlaAbsorbedArgs in mla/attention.h: a ragged batch, for prefill and decode. Types as in
 * mla_decode. */
typedef struct mla_absorbed_args {
  size_t size;
  const mla_tensor* q;          /* [tokens, heads, d_k] */
  const mla_tensor* cache;      /* [num_pages, page_size, d_k] */
  const mla_tensor* cu_q;       /* [num_seqs + 1] i32, contiguous: sequence s owns the query tokens
                                   cu_q[s] to cu_q[s + 1] */
  const mla_tensor* page_table; /* [num_seqs, pages] i32, inner stride 1 */
  const mla_tensor* kv_lens;    /* [num_seqs] i32, contiguous */
  const mla_tensor* out;        /* [tokens, heads, kv_lora_rank] */
  const mla_tensor* lse;        /* [tokens, heads] f32; may be absent */
  int32_t kv_lora_rank;
  float scale;
  int32_t causal;
  int32_t num_threads; /* 0: as many as this process may use */
  int32_t compute;     /* enum mla_compute */
  const char* kernel;
} mla_absorbed_args;

MLA_API mla_status mla_absorbed(const mla_absorbed_args* args);
MLA_API mla_status mla_absorbed_explain(const mla_absorbed_args* args, mla_verdicts* verdicts);

/* MergeArgs in mla/attention.h: combines attention over disjoint parts of the keys. */
typedef struct mla_merge_args {
  size_t size;
  const mla_tensor* part_out; /* [parts, tokens, heads, d_v] f32 */
  const mla_tensor* part_lse; /* [parts, tokens, heads] f32 */
  const mla_tensor* out;      /* [tokens, heads, d_v] */
  const mla_tensor* lse;      /* [tokens, heads] f32; may be absent */
} mla_merge_args;

MLA_API mla_status mla_merge(const mla_merge_args* args);

/* NOLINTEND(modernize-redundant-void-arg) */

#ifdef __cplusplus
}
#endif

#endif /* MLA_MLA_H_ */
