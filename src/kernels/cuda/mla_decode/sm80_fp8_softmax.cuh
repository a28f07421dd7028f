// The softmax of the Ampere kernel over FP8 latents: by the last half of the warps, so that the
// first one can ask for copies meanwhile.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_SOFTMAX_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_SOFTMAX_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/mla_decode/sm80_products.cuh"
#include "kernels/cuda/mla_decode/sm80_softmax.cuh"
#include "kernels/cuda/ptx_sm80.cuh"

namespace mla::cuda::sm80 {

// The thread's row of the tile, of which it has four neighbouring tokens.
template <typename S>
class Fp8RowSoftmax : public RowTotals<kThreads / 2 / S::kRows> {
 public:
  // Whether the thread takes part; the others have no row.
  static __device__ bool active() { return threadIdx.x >= kFirstThread; }
  static __device__ int row() { return thread() / kThreadsPerRow; }
  static __device__ int part() { return thread() % kThreadsPerRow; }

  // Adds the groups of a tile's scores up. Writes the row of P times scale, P = 2^(score - max),
  // for each group to `probs` ([groups, rows, tokens], padded), and to `factors` what the output so
  // far is to be multiplied by. `scales` is [groups, tokens].
  __device__ __forceinline__ void Add(const float* scores, const float* scales, float scale_log2,
                                      char* probs, float* factors) {
    float4 p = SumGroups(scores);
    p = {p.x * scale_log2, p.y * scale_log2, p.z * scale_log2, p.w * scale_log2};
    if (visible_ < S::kTokens) Hide(p);
    float most = fmaxf(fmaxf(p.x, p.y), fmaxf(p.z, p.w));
    float base = max_, factor = 1.0f;
    // Seldom: so what the row's threads agree on is not waited for else.
    if (__any_sync(0xffffffffu, most > max_ + kHeadroom || max_ == -INFINITY)) {
      most = RowMax(most);
      if (most <= max_ + kHeadroom) most = max_;
      // A row that has seen nothing yet: any finite number makes 2^(-inf - base) zero.
      base = most == -INFINITY ? 0.0f : most;
      factor = Exp2(max_ - base);
      max_ = most;
    }
    p = {Exp2(p.x - base), Exp2(p.y - base), Exp2(p.z - base), Exp2(p.w - base)};
    sum_ = sum_ * factor + (p.x + p.y + p.z + p.w);
    Store(p, scales, probs);
    visible_ -= S::kTokens;
    if (part() == 0) factors[row()] = factor;
  }

 private:
  static constexpr int kThreadsPerRow = kThreads / 2 / S::kRows;
  static constexpr int kFirstThread = kThreads / 2;
  static constexpr int kWidth = 4;
  static_assert(kThreadsPerRow * kWidth == S::kTokens);
  using RowTotals<kThreadsPerRow>::RowMax, RowTotals<kThreadsPerRow>::kHeadroom;
  using RowTotals<kThreadsPerRow>::max_, RowTotals<kThreadsPerRow>::sum_;
  using RowTotals<kThreadsPerRow>::visible_;

  static __device__ int thread() { return static_cast<int>(threadIdx.x) - kFirstThread; }
  static __device__ int column() { return part() * kWidth; }

  static __device__ __forceinline__ float4 SumGroups(const float* scores) {
    const float* from = scores + row() * S::kTokens + S::ScoreColumn(row(), column());
    float4 sum = *reinterpret_cast<const float4*>(from);
#pragma unroll
    for (int g = 1; g < S::kDepthGroups; ++g) {
      const float4 v = *reinterpret_cast<const float4*>(from + g * S::kRows * S::kTokens);
      sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
    }
    return sum;
  }

  __device__ __forceinline__ void Hide(float4& p) const {
    const int32_t left = visible_ - column();
    if (left < 1) p.x = -INFINITY;
    if (left < 2) p.y = -INFINITY;
    if (left < 3) p.z = -INFINITY;
    if (left < 4) p.w = -INFINITY;
  }

  // Rounded to bf16 only when multiplied.
  static __device__ __forceinline__ void Store(float4 p, const float* scales, char* probs) {
    using B = __nv_bfloat16;
    p = {p.x * S::kProbFactor, p.y * S::kProbFactor, p.z * S::kProbFactor, p.w * S::kProbFactor};
    char* to = probs + S::ProbOffset(row(), column());
#pragma unroll
    for (int g = 0; g < S::kDepthGroups; ++g) {
      const float4 by = *reinterpret_cast<const float4*>(scales + g * S::kTokens + column());
      *reinterpret_cast<uint2*>(to + g * S::kProbBytes) = {PackPair<B>(p.x * by.x, p.y * by.y),
                                                           PackPair<B>(p.z * by.z, p.w * by.w)};
    }
  }
};

}  // namespace mla::cuda::sm80

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_SOFTMAX_CUH_
