// The operators on an NVIDIA GPU. Tensors, lengths and page tables are device memory; calls only
// enqueue work on the caller's stream: they do not synchronise and do not allocate, so they can be
// captured in a CUDA graph and replayed with new contents at the same addresses.
#ifndef MLA_CUDA_H_
#define MLA_CUDA_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mla/context.h"
#include "mla/elementwise.h"
#include "mla/result.h"
#include "mla/tensor.h"

struct CUstream_st;

namespace mla::cuda {

using Stream = CUstream_st*;  // cudaStream_t; null is the default stream

// Whether this library holds the CUDA kernels. Without them every function here is an error.
bool BuiltWithCuda();

struct DeviceInfo {
  std::string name;            // "NVIDIA H200"
  int compute_capability = 0;  // 10 * major + minor
  int32_t num_sms = 0;
  int64_t memory_bytes = 0;
};

// The devices of this machine, in the driver's order. An error where there is none, or no driver.
Result<std::vector<DeviceInfo>> Devices();

struct CudaContext {
  Stream stream = nullptr;
  // The result of a sequence does not depend on the other sequences of the call: its keys are cut
  // by its own length alone. Costs some balance and a larger workspace. Results are deterministic
  // in either mode.
  bool batch_invariant = false;
  // Runs this kernel and no other; an error if it refuses. Empty: the first that accepts.
  std::string_view kernel;
};

// The FP8 latent of a token, the cache layout of DeepSeek-V3.2: 512 codes in e4m3, the scales of
// each 128 of them in f32, then k_pe, 64 numbers in bf16.
inline constexpr int kFp8LatentBytes = 512 + 4 * 4 + 64 * 2;
inline constexpr int kFp8LatentRank = 512;
inline constexpr int kFp8LatentRope = 64;
inline constexpr int kFp8LatentGroup = 128;

// One absorbed MLA decode step of a batch: multi-query attention over the paged latent cache,
// DeepSeek-V2 (arXiv 2405.04434), section 2.1.2 with W_UK absorbed into the query and W_UV left to
// the caller.
//   score_ij = scale * q_i . [c_kv_j ; k_pe_j],   out_i = sum_j softmax(score)_ij c_kv_j
// With causal, query token i of s_q sees keys j <= kv_len - s_q + i; without, all of them. A row
// with nothing to attend to gives out = 0 and lse = -inf. A NaN in q, or in a key that it sees,
// makes both NaN; codes of FP8 latents are always numbers. Memory that holds no token of a sequence
// (pages not used, the end of the last page, the rest of a page table row) is never used in
// arithmetic. Lengths are on the device and so cannot be checked by the host: a length past what a
// page table row holds is cut to it, and a page id outside the cache is the caller's error.
struct MlaDecodeArgs {
  ConstTensor q;  // [num_seqs, s_q, heads, d_k] bf16 or f16: [q_lat ; q_pe]
  // [num_pages, page_size, d_k], the type of q: [c_kv ; k_pe]. Or, for d_k 576 and kv_lora_rank
  // 512, [num_pages, page_size, kFp8LatentBytes] f8_e4m3: the FP8 latent.
  ConstTensor cache;
  const int32_t* kv_lens = nullptr;     // [num_seqs], device: tokens in the cache, this call's too
  const int32_t* page_table = nullptr;  // [num_seqs, page_table_stride], device
  int64_t page_table_stride = 0;        // pages that a row holds: the longest length allowed for
  int32_t kv_lora_rank = 0;             // d_v, at most d_k
  float scale = 0;  // (qk_nope_head_dim + qk_rope_head_dim)^-1/2, times YaRN's mscale^2
  bool causal = true;
  Tensor out;  // [num_seqs, s_q, heads, kv_lora_rank], the type of q
  Tensor lse;  // [num_seqs, s_q, heads] f32, natural logarithm, any strides; may be absent

  // Device memory of at least the sizes that MlaDecodeMemory gives, 256-byte aligned. The schedule
  // is written by MlaDecodeSchedule and used by MlaDecode: one serves every layer of a step, as
  // long as the lengths and the shapes stay. Calls with the same schedule must follow each other,
  // on one stream or ordered by events: it also holds the counts by which the thread blocks of a
  // call find each other. The workspace holds nothing between calls.
  void* schedule = nullptr;
  void* workspace = nullptr;
};

struct MlaDecodeSizes {
  size_t schedule_bytes = 0;
  size_t workspace_bytes = 0;
};

// Bytes of args.schedule and args.workspace for these shapes, whatever the lengths.
Result<MlaDecodeSizes> MlaDecodeMemory(const MlaDecodeArgs& args, const CudaContext& context);

// Shares the keys out between the thread blocks of the device, from args.kv_lens. To be called
// before MlaDecode whenever the lengths have changed. Enqueues one small kernel.
Status MlaDecodeSchedule(const MlaDecodeArgs& args, const CudaContext& context);

// Attends. Uses args.schedule, made for the same lengths and context and for tensors of the same
// types, shapes, strides and alignment: these choose the kernel, and a schedule is of one kernel.
Status MlaDecode(const MlaDecodeArgs& args, const CudaContext& context);

// Which kernel a call would run on the current device, and why those before it refuse.
Result<KernelVerdicts> ExplainMlaDecode(const MlaDecodeArgs& args, const CudaContext& context);

// What comes before a decode step: the rotary embedding (RoFormer, arXiv 2104.09864) of the step's
// queries and keys, and the append of the new latents to the paged cache. The angle of pair i is
// positions[t] * inv_freq[i], formed in fp32; cos and sin are multiplied by `magnitude` (YaRN's
// attention factor). Into an FP8 latent c_kv is quantised with scales that are powers of two, the
// least that keep each group of 128 within e4m3's 448, as DeepSeek-V3.2's own quantiser has them.
struct MlaAppendArgs {
  ConstTensor c_kv;  // [tokens, kv_lora_rank] f32, bf16 or f16: normalised, as it is to be cached
  ConstTensor k_pe;  // [tokens, qk_rope_head_dim], the type of c_kv, not rotated
  Tensor q_pe;  // [tokens, heads, qk_rope_head_dim], the type of c_kv, rotated in place: the end
                // of each query row of mla_decode; may be absent
  const int32_t* positions = nullptr;  // [tokens], device
  const int64_t* slots = nullptr;   // [tokens], device: page * page_size + offset; < 0: not cached
  const float* inv_freq = nullptr;  // [qk_rope_head_dim / 2], device
  float magnitude = 1;
  RopePairing pairing = RopePairing::kInterleaved;
  // [num_pages, page_size, kv_lora_rank + qk_rope_head_dim] bf16 or f16, or the FP8 latent. Slots
  // past its end are not written.
  Tensor cache;
};

// Enqueues one kernel.
Status MlaAppend(const MlaAppendArgs& args, const CudaContext& context);

// Per-head products around a decode step: y[t, h, :] = W[h] x[t, h, :]. The absorption of W_UK into
// q_nope, and the up-projection of the attention's result by W_UV; the weight is a view of
// kv_b_proj or of k_b and v_b. Sums are in fp32.
struct HeadLinearArgs {
  ConstTensor x;  // [tokens, heads, in] bf16 or f16
  ConstTensor w;  // [heads, out, in], the type of x; one of the two inner strides must be 1
  Tensor y;       // [tokens, heads, out], the type of x
};

// Enqueues one kernel.
Status HeadLinear(const HeadLinearArgs& args, const CudaContext& context);

// As ExplainMlaDecode.
Result<KernelVerdicts> ExplainHeadLinear(const HeadLinearArgs& args, const CudaContext& context);

}  // namespace mla::cuda

#endif  // MLA_CUDA_H_
