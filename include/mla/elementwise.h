// Row-wise operators between the matrix products: embedding, norms, rotary embedding, gated
// activation, routing, and the conversion of rows into a cache. Activations are f32 with innermost
// stride 1. Rows are independent of each other.
#ifndef MLA_ELEMENTWISE_H_
#define MLA_ELEMENTWISE_H_

#include <cstdint>
#include <span>

#include "mla/context.h"
#include "mla/result.h"
#include "mla/tensor.h"

namespace mla {

// y[i, :] = table[ids[i], :] as f32. Ids are checked against the table.
struct EmbeddingArgs {
  ConstTensor table;             // [vocab, hidden], any weight type
  std::span<const int32_t> ids;  // [rows]
  Tensor y;                      // [rows, hidden]
};

// y = x / sqrt(mean(x^2) + eps) * w. y may be x.
struct RmsNormArgs {
  ConstTensor x;  // [rows, dim]
  ConstTensor w;  // [dim] f32, f16 or bf16
  float eps = 0;
  Tensor y;  // [rows, dim]
};

// y = (x - mean(x)) / sqrt(var(x) + eps) * w + bias, the variance over all of the row. y may be x.
struct LayerNormArgs {
  ConstTensor x;     // [rows, dim]
  ConstTensor w;     // [dim] f32, f16 or bf16
  ConstTensor bias;  // [dim] f32, f16 or bf16
  float eps = 0;
  Tensor y;  // [rows, dim]
};

// y = scale * x, or y += scale * x. y may be x.
struct ScaleArgs {
  ConstTensor x;  // [rows, dim]
  float scale = 1;
  bool accumulate = false;
  Tensor y;  // [rows, dim]
};

// Which elements of a head rotate together (RoFormer, arXiv 2104.09864).
enum class RopePairing {
  kInterleaved,  // (x0, x1), (x2, x3), ...: DeepSeek, GLM
  kHalves,       // (x_i, x_{i + d/2}): Llama, Qwen, MiniCPM3
};

// The turns of a step, shared by all layers that rotate alike: cos and sin of positions[row] *
// inv_freq[pair], times `magnitude` (YaRN's attention factor). The angle is formed in fp32, as the
// released implementations do: at large positions its rounding is part of the model.
struct RopeTableArgs {
  std::span<const int32_t> positions;  // [rows]
  std::span<const float> inv_freq;     // [d_r / 2]
  float magnitude = 1;
  Tensor turns;  // [rows, 2, d_r / 2] out: cos, then sin
};

// Rotates the pairs of the last axis. The element order is kept. y may be x.
struct RopeArgs {
  ConstTensor x;      // [rows, heads, d_r]
  ConstTensor turns;  // [rows, 2, d_r / 2]
  RopePairing pairing = RopePairing::kInterleaved;
  Tensor y;  // [rows, heads, d_r]
};

// y = silu(gate) * up. y may be gate or up.
struct SiluMulArgs {
  ConstTensor gate;  // [rows, dim]
  ConstTensor up;    // [rows, dim]
  Tensor y;          // [rows, dim]
};

// The choice of experts from router logits. V2: softmax scores, a group counts by its best score.
// V3 (arXiv 2412.19437, section 2.1.2): sigmoid scores, a correction bias for the choice only, a
// group counts by the sum of its two best. Ties go to the lowest index.
enum class RouterScoring { kSoftmax, kSigmoid };
enum class GroupScore { kMax, kTop2Sum };
struct RouteArgs {
  ConstTensor logits;  // [rows, experts]
  ConstTensor bias;    // [experts]; may be absent; added for the choice, not to the weight
  RouterScoring scoring = RouterScoring::kSoftmax;
  GroupScore group_score = GroupScore::kMax;
  int32_t num_groups = 1;   // divides experts
  int32_t topk_groups = 1;  // groups an expert may be chosen from
  int32_t top_k = 1;
  bool normalize = false;  // weights sum to 1 before `scaling`
  float scaling = 1;
  std::span<int32_t> experts;  // [rows, top_k] out, best first
  std::span<float> weights;    // [rows, top_k] out
};

// y[i, :] = x[rows[i], :].
struct GatherRowsArgs {
  ConstTensor x;                  // [n, dim]
  std::span<const int32_t> rows;  // [m], each in [0, n)
  Tensor y;                       // [m, dim]
};

// The outputs of a token's experts, weighted and added: y[t, :] += sum_k weights[t, k] *
// x[rows[t, k], :], in the order of k.
struct CombineExpertsArgs {
  ConstTensor x;                   // [n, dim]: expert outputs
  std::span<const int32_t> rows;   // [tokens, top_k], each in [0, n)
  std::span<const float> weights;  // [tokens, top_k]
  Tensor y;                        // [tokens, dim]
};

// Writes each row of x, converted to the cache's dtype (round to nearest even), at slot[i] =
// page * page_size + offset. `column` is where in the cache row it begins. An i8 cache takes whole
// latents, x = [c_kv ; k_pe], and quantises them as mla/int8_latent.h says.
struct CacheWriteArgs {
  ConstTensor x;                   // [rows, width]
  std::span<const int64_t> slots;  // [rows]
  // [num_slots, row] f32, f16 or bf16, row >= column + width; or i8 [num_slots, bytes of a latent]
  Tensor cache;
  int64_t column = 0;        // 0 for i8
  int32_t kv_lora_rank = 0;  // for i8: how many of `width` numbers are c_kv
};

Status Embedding(const EmbeddingArgs& args, const Context& context);
Status RmsNorm(const RmsNormArgs& args, const Context& context);
Status LayerNorm(const LayerNormArgs& args, const Context& context);
Status Scale(const ScaleArgs& args, const Context& context);
Status RopeTable(const RopeTableArgs& args, const Context& context);
Status Rope(const RopeArgs& args, const Context& context);
Status SiluMul(const SiluMulArgs& args, const Context& context);
Status Route(const RouteArgs& args, const Context& context);
Status GatherRows(const GatherRowsArgs& args, const Context& context);
Status CombineExperts(const CombineExpertsArgs& args, const Context& context);
Status CacheWrite(const CacheWriteArgs& args, const Context& context);

}  // namespace mla

#endif  // MLA_ELEMENTWISE_H_
