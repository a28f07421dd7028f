// The Ampere kernel of mla_decode over FP8 latents.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_CUH_

#include <cstdint>

#include "kernels/cuda/mla_decode/params.h"
#include "kernels/cuda/mla_decode/sm80_feeder.cuh"
#include "kernels/cuda/mla_decode/sm80_fp8.h"
#include "kernels/cuda/mla_decode/sm80_fp8_products.cuh"
#include "kernels/cuda/mla_decode/sm80_fp8_ring.cuh"
#include "kernels/cuda/mla_decode/sm80_fp8_softmax.cuh"
#include "kernels/cuda/mla_decode/sm80_kernel.cuh"
#include "kernels/cuda/ptx_sm80.cuh"
#include "kernels/cuda/ptx_sm90.cuh"

namespace mla::cuda::sm80 {

// The shared memory of a thread block.
template <typename S>
struct Fp8SharedMemory {
  static constexpr int kProbs = 2 * S::kFactorBytes;
  static constexpr int kScores = kProbs + 2 * S::kDepthGroups * S::kProbBytes;
  static constexpr int kScales = kScores + S::kScoreBytes;
  static constexpr int kStages = kScales + S::kScaleBytes;
  static_assert(kStages % 16 == 0 && S::kStageBytes % 16 == 0);

  static __device__ char* base() {
    extern __shared__ __align__(16) char shared[];
    return shared;
  }
  // The two of each are those of odd and even tiles.
  static __device__ float* factors(int tile) {  // [rows]
    return reinterpret_cast<float*>(base() + (tile & 1) * S::kFactorBytes);
  }
  static __device__ char* probs(int tile) {  // [groups, rows, tokens] of bf16, padded
    return base() + kProbs + (tile & 1) * S::kDepthGroups * S::kProbBytes;
  }
  // [groups, rows, tokens], the tokens of a row as ScoreColumn has them.
  static __device__ float* scores() { return reinterpret_cast<float*>(base() + kScores); }
  static __device__ float* scales() {  // [groups, tokens]
    return reinterpret_cast<float*>(base() + kScales);
  }
  static __device__ char* stage(int index) { return base() + kStages + index * S::kStageBytes; }
};

// One thread block's work on its items.
template <typename S, typename T, int kStages>
class Fp8BlockDecoder {
 public:
  __device__ Fp8BlockDecoder(const MlaDecodeParams& params, const Launched& launched)
      : params_(params), ring_(params, launched, SharedAddress(Shared::stage(0))) {}

  __device__ void Run() {
    const int32_t end = params_.part_begin[blockIdx.y + 1];
    for (int32_t i = params_.part_begin[blockIdx.y]; i < end; ++i) {
      OutputFragments<S> output;
      Attend(ReadItem(params_, i, S::kRows), output);
      Store(params_.items[i], output);
    }
  }

 private:
  using Shared = Fp8SharedMemory<S>;
  using Softmax = Fp8RowSoftmax<S>;

  static __device__ int32_t first_row() { return static_cast<int32_t>(blockIdx.x) * S::kRows; }

  // As BlockDecoder's.
  __device__ int32_t VisibleToRow(const ItemTokens& item) const {
    const int32_t query = (first_row() + Softmax::row()) / params_.heads;
    return query < params_.s_q ? VisibleTokens(params_, item.kv_len, query) - item.begin : 0;
  }

  __device__ __forceinline__ void Attend(const ItemTokens& item, OutputFragments<S>& output) {
    if (Softmax::active()) softmax_.Begin(VisibleToRow(item));
    const int tiles = (item.end - item.begin + S::kTokens - 1) / S::kTokens;
    if (tiles == 0) return output.Clear();
    Fp8Queries<S, T> q;
    q.Load(params_, item.seq, first_row());
    // Not before, or the first rows of q would wait for them.
    if (!filled_) FillStages();
    output.Clear();
    // Of the groups of copies closed so far, the last is that of the tile kStages - 2 past this
    // one.
    ring_.template BeforeSync<kStages - 2>();
    __syncthreads();
    MakeScores(q);
    __syncthreads();
    if (Softmax::active()) AddSoftmax(0);
    int tile = 0;
    for (; tile + 1 < tiles; ++tile) AttendTile<true>(q, tile, output);
    AttendTile<false>(q, tile, output);
  }

  // Output of a tile, and scores and softmax of the next if there is one.
  template <bool kNext>
  __device__ __forceinline__ void AttendTile(const Fp8Queries<S, T>& q, int tile,
                                             OutputFragments<S>& output) {
    ring_.template BeforeSync<kStages - 3>();  // for the next tile
    __syncthreads();
    const int free = free_stage_;  // that of the tile before this one, whose products are done
    free_stage_ = Next(free);
    const char* const stage = Shared::stage(free_stage_);
    CodedValues<S, 0> first;
    first.Load(Shared::probs(tile), stage);  // under way while the factors are awaited
    output.Scale(Shared::factors(tile));
    first.MultiplyTo(output);
    if (kNext) {
      MakeScores(q);
      __syncthreads();
    }
    ring_.Feed(free);
    if (kNext && Softmax::active()) AddSoftmax(tile + 1);
    CodedValues<S, 16> second;
    second.Load(Shared::probs(tile), stage);
    second.MultiplyTo(output);
  }

  __device__ __forceinline__ void MakeScores(const Fp8Queries<S, T>& q) {
    ring_.BeforeUse(key_stage_, key_parity_);
    MultiplyCodes<S, T>(q, Shared::stage(key_stage_), Shared::scores(), Shared::scales());
    key_stage_ = Next(key_stage_);
    if (key_stage_ == 0) key_parity_ ^= 1;
  }
  __device__ __forceinline__ void AddSoftmax(int tile) {
    softmax_.Add(Shared::scores(), Shared::scales(), params_.scale * kLog2E, Shared::probs(tile),
                 Shared::factors(tile));
  }

  // All stages but the last.
  __device__ void FillStages() {
    for (; free_stage_ + 1 < kStages; ++free_stage_) {
      ring_.Feed(free_stage_);
    }
    filled_ = true;
  }

  static __device__ int Next(int stage) { return stage + 1 == kStages ? 0 : stage + 1; }

  __device__ __forceinline__ void Store(const WorkItem& item, const OutputFragments<S>& output) {
    const ResultRows<T> results(params_, item);
    float* normalisers = Shared::factors(0);
    softmax_.Finish();
    __syncthreads();  // the last tile's factors have been read
    if (Softmax::active() && softmax_.part() == 0) {
      normalisers[softmax_.row()] = softmax_.normaliser() * PowerOfTwo(kOutputBelow);
      results.StoreLse(first_row() + softmax_.row(), softmax_.lse());
    }
    __syncthreads();
    const auto [warp, lane] = WarpLane<S>();
#pragma unroll
    for (int i = 0; i < 2 * S::kOutTiles; ++i) {
      const int row = i * 8 + lane / 4;
      const float by = normalisers[row];
      // Each of the lane's two columns of the tiles is 8 neighbours of the output.
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float eight[S::kColumnTiles];
#pragma unroll
        for (int n = 0; n < S::kColumnTiles; ++n) {
          eight[n] = output.d[i / 2][n][i % 2 * 2 + c] * by;
        }
        results.StoreEight(first_row() + row, warp * S::kWarpColumns + (lane % 4 * 2 + c) * 8,
                           eight);
      }
    }
  }

  static constexpr float kLog2E = 1.44269504088896341f;

  const MlaDecodeParams& params_;
  Ring<S, kStages> ring_;
  Softmax softmax_;
  bool filled_ = false;
  int free_stage_ = 0;  // of the tile before the one whose output comes next, then of that one
  int key_stage_ = 0;   // of the tile whose scores come next
  uint32_t key_parity_ = 0;
};

template <typename S, typename T, int kStages>
__global__ void __launch_bounds__(kThreads, S::kBlocksPerSm)
    Fp8DecodeKernel(const __grid_constant__ MlaDecodeParams params,
                    const __grid_constant__ Launched launched) {
#if __CUDA_ARCH__ >= 900
  sm90::WaitForPriorKernel();
  // The kernel after this one waits for the end of this grid before it reads anything.
  if (threadIdx.x == 0) sm90::AllowNextKernel();
#endif
  Fp8BlockDecoder<S, T, kStages>(params, launched).Run();
}

}  // namespace mla::cuda::sm80

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_CUH_
