// The softmax of the Ampere kernel. A few neighbouring threads of a warp share a row.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_SOFTMAX_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_SOFTMAX_CUH_

#include <cstdint>

#include "kernels/cuda/mla_decode/sm80_products.cuh"
#include "kernels/cuda/ptx_sm80.cuh"

namespace mla::cuda::sm80 {

// What the threads of a row know of it. Logarithms are to the base 2.
template <int kThreadsPerRow>
class RowTotals {
 public:
  // `visible`: tokens, from the first of the first tile, that the row sees; none if not positive.
  __device__ void Begin(int32_t visible) {
    max_ = -INFINITY;
    sum_ = 0;
    visible_ = visible;
  }

  // Adds up what the threads of the row hold; all of them call it.
  __device__ void Finish() {
#pragma unroll
    for (int d = kThreadsPerRow / 2; d > 0; d /= 2) sum_ += __shfl_xor_sync(0xffffffffu, sum_, d);
  }

  // After Finish: what the output is to be multiplied by, and the row's lse. A sum of NaN is no
  // empty row's.
  __device__ float normaliser() const { return sum_ == 0 ? 0.0f : 1.0f / sum_; }
  __device__ float lse() const {
    constexpr float kLn2 = 0.693147180559945309f;
    return sum_ == 0 ? -INFINITY : (max_ + log2f(sum_)) * kLn2;
  }

 protected:
  static __device__ __forceinline__ float RowMax(float v) {
#pragma unroll
    for (int d = kThreadsPerRow / 2; d > 0; d /= 2) {
      v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    }
    return v;
  }

  // The largest score that P is relative to stays until one is larger by this: numbers up to 2^8
  // are as exact as those up to 1, and the output need not be multiplied.
  static constexpr float kHeadroom = 8.0f;

  float max_ = -INFINITY;  // the same in all threads of the row
  float sum_ = 0;          // of the thread's own tokens
  int32_t visible_ = 0;    // from the next tile on
};

// The thread's row of the tile. T is the type of P.
template <typename S, typename T>
class RowSoftmax : public RowTotals<kThreads / S::kRows> {
 public:
  static constexpr int kThreadsPerRow = kThreads / S::kRows;

  static __device__ int row() { return static_cast<int>(threadIdx.x / kThreadsPerRow); }
  static __device__ int part() { return static_cast<int>(threadIdx.x % kThreadsPerRow); }

  // Adds the slices of a tile's scores up and writes the row of P = 2^(score - max) to `probs`, and
  // to `factors` what the output so far is to be multiplied by. Whether that is not 1.
  __device__ __forceinline__ bool Add(const float* scores, float scale_log2, char* probs,
                                      float* factors) {
    float p[kVectors][kWidth];
    float most = -INFINITY;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      SumSlices(scores + row() * S::kTokens + S::ScoreColumn(row(), Column(j)), p[j]);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        p[j][i] = Column(j) + i < visible_ ? p[j][i] * scale_log2 : -INFINITY;
        most = fmaxf(most, p[j][i]);
      }
    }
    most = RowMax(most);
    if (most <= max_ + kHeadroom) most = max_;
    // A row that has seen nothing yet: any finite number makes 2^(-inf - base) zero.
    const float base = most == -INFINITY ? 0.0f : most;
    const float factor = most == max_ ? 1.0f : Exp2(max_ - base);  // 1 for a row of nothing, too
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        p[j][i] = Exp2(p[j][i] - base);
        sum += p[j][i];
      }
      Store(p[j], probs + S::ProbOffset(row(), Column(j)));
    }
    visible_ -= S::kTokens;
    max_ = most;
    sum_ = sum_ * factor + sum;
    if (part() == 0) factors[row()] = factor;
    return factor != 1.0f;
  }

 private:
  using RowTotals<kThreadsPerRow>::RowMax, RowTotals<kThreadsPerRow>::kHeadroom;
  using RowTotals<kThreadsPerRow>::max_, RowTotals<kThreadsPerRow>::sum_;
  using RowTotals<kThreadsPerRow>::visible_;

  // A thread has vectors of neighbouring tokens. Those of a row and the next are exchanged, so that
  // a quarter of a warp, if it has two rows, reads from all banks.
  static constexpr int kTokensPerThread = S::kTokens / kThreadsPerRow;
  static constexpr int kWidth = kTokensPerThread < 4 ? kTokensPerThread : 4;
  static constexpr int kVectors = kTokensPerThread / kWidth;
  static_assert(kVectors <= 2);

  static __device__ int Column(int vector) {
    return ((vector ^ (row() % kVectors)) * kThreadsPerRow + part()) * kWidth;
  }

  static __device__ __forceinline__ void SumSlices(const float* from, float (&sum)[kWidth]) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] = 0;
#pragma unroll
    for (int g = 0; g < S::kDepthGroups; ++g, from += S::kRows * S::kTokens) {
      if constexpr (kWidth == 4) {
        const float4 v = *reinterpret_cast<const float4*>(from);
        sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
      } else if constexpr (kWidth == 2) {
        const float2 v = *reinterpret_cast<const float2*>(from);
        sum[0] += v.x, sum[1] += v.y;
      } else {
        sum[0] += *from;
      }
    }
  }

  static __device__ __forceinline__ void Store(const float (&p)[kWidth], char* to) {
    if constexpr (kWidth == 4) {
      *reinterpret_cast<uint2*>(to) = {PackPair<T>(p[0], p[1]), PackPair<T>(p[2], p[3])};
    } else if constexpr (kWidth == 2) {
      *reinterpret_cast<uint32_t*>(to) = PackPair<T>(p[0], p[1]);
    } else {
      *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(PackPair<T>(p[0], 0.0f));
    }
  }
};

}  // namespace mla::cuda::sm80

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM80_SOFTMAX_CUH_
