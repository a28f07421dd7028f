// The attention operators over the tile kernels of an instruction set: plan, gather, threads,
// merge.
#ifndef MLA_KERNELS_CPU_ATTENTION_DRIVER_H_
#define MLA_KERNELS_CPU_ATTENTION_DRIVER_H_

#include <cstdint>

#include "kernels/cpu/attention_tile.h"
#include "mla/attention.h"

namespace mla::cpu {

inline constexpr int32_t kRowTile = 64;        // query rows of a tile
inline constexpr int32_t kTargetItems = 64;    // see PlanShape::target_items; at most so many parts
inline constexpr int32_t kExpandedItems = 32;  // the same for the expanded form
inline constexpr int32_t kChunkKeys = 256;     // keys projected at a time in the expanded form

// One cached component: where its rows lie. Strides in bytes.
struct CacheRows {
  const char* data = nullptr;
  int64_t page_stride = 0;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
  DType dtype = DType::kBF16;
  Int8LatentLayout latent = {};  // of i8

  int64_t latent_dim() const {  // numbers of an int8 latent; 0: other rows
    return dtype == DType::kI8 ? latent.kv_lora_rank + latent.qk_rope_head_dim : 0;
  }
};

// The rows of a cache of latents, of any type.
CacheRows MakeLatentRows(const ConstTensor& cache, int64_t kv_lora_rank, int64_t qk_rope_head_dim);

struct AttentionProblem {
  ConstTensor q;  // [tokens, heads, d_k] f32
  Tensor out;     // [tokens, heads, d_v] f32
  Tensor lse;     // [tokens, heads] f32, or absent
  PagedBatch batch;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t d_k = 0;
  int32_t d_v = 0;
  float scale = 0;
  bool causal = true;
};

// Attention over keys and values that are cached as they are used: MLA absorbed (values are the
// first d_v elements of the keys), MHA, GQA, MQA. Scratch memory: per thread
// kRowTile * (d_k + d_v) + kKeyTile * (d_k + d_v) elements and a little, with int8 latents kKeyTile
// * d_k elements more; for sequences with few
// rows also up to 2 * kTargetItems * kRowTile * (d_v + 1) floats each for the merge.
void AttendPaged(const TileKernels& kernels, const AttentionProblem& problem, const CacheRows& k,
                 const CacheRows& v, const Context& context);

// Attention over keys and values that are projected from a cached latent, kChunkKeys tokens of one
// head at a time. A chunk is projected once for all the query tokens of its sequence.
struct LatentProjection {
  CacheRows latent;  // [c_kv ; k_pe]
  ConstTensor w_uk;  // [heads, d_k - d_r, kv_lora_rank]
  ConstTensor w_uv;  // [heads, d_v, kv_lora_rank]
  int32_t kv_lora_rank = 0;
  int32_t qk_rope_head_dim = 0;
};
// Scratch memory: per thread (kRowTile + kChunkKeys) * (d_k + d_v) elements, kKeyTile *
// kv_lora_rank elements (with int8 latents as much again for them as numbers), two floats per query
// token, and, for weights that are not packed elements with innermost stride 1, one head's weights;
// nothing that grows with kv_len. For sequences whose keys are split also up to 2 * kExpandedItems
// * q_len * (d_v + 1) floats.
void AttendExpanded(const TileKernels& kernels, const AttentionProblem& problem,
                    const LatentProjection& projection, const Context& context);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ATTENTION_DRIVER_H_
