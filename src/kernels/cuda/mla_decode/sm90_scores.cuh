// The scores warpgroup of the Hopper kernel: S = Q K^T and its online softmax.
//
// Most registers hold Q. What is not needed for every block (the rest of the work item, say) is
// therefore read again where it is needed.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_SCORES_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_SCORES_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/mla_decode/sm90_layout.cuh"

namespace mla::cuda::sm90 {

// Over the four lanes that share a row of an accumulator.
__device__ __forceinline__ float QuadMax(float v) {
  v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
  return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}
__device__ __forceinline__ float QuadSum(float v) {
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}

template <typename S, typename T>
class Scores {
 public:
  __device__ __forceinline__ Scores(const MlaDecodeParams& params, SharedMemory<S>& shared)
      : params_(params), shared_(shared) {}

  __device__ __forceinline__ void Run() {
    for (int i = params_.part_begin[blockIdx.y]; i < params_.part_begin[blockIdx.y + 1]; ++i) {
      max_[0] = max_[1] = -INFINITY;
      sum_[0] = sum_[1] = 0;
      Attend(i);
      StoreLse(i, 0);
      StoreLse(i, 1);
    }
  }

 private:
  static constexpr int kNamedBarrier = 1;
  static constexpr float kLog2e = 1.4426950408889634f;
  static constexpr float kLn2 = 0.6931471805599453f;
  // The exponent's reference follows the greatest score only when that has grown by more than this
  // (in powers of two): P stays below 2^8, and the output is rarely rescaled.
  static constexpr float kSlack = 8.0f;

  __device__ __forceinline__ void Attend(int item) {
    int block, end, first_masked;
    {
      const Work work = LoadWork(params_, item);
      if (work.empty()) return;
      block = work.first;
      end = work.end;
      const int all_see = params_.causal ? work.kv_len - params_.s_q + 1 : work.kv_len;
      first_masked = all_see / kBlockTokens;
      if (all_see < 0) first_masked = 0;
    }
    uint32_t q[S::kRegisterSteps][4];
    TakeQueries(q);

    while (true) {
      float s[32];
      Multiply(q, s);
      if constexpr (!S::kConverted) WarpArrive(shared_.scored[block_.slot]);
      if (block >= first_masked) Mask(item, block, s);
      Softmax(s);
      const bool last = ++block == end;
      if (last) StoreInverse();
      FenceSharedToAsync();
      WarpArrive(shared_.softmaxed[block_.slot]);
      block_ = block_.Plus(1);
      if (last) return;
    }
  }

  __device__ __forceinline__ uint32_t Rest() const {
    return SharedAddress(shared_.rests[block_.slot]);
  }
  // Calls visit(first tile, number of tiles, address) for each pair of tiles of what comes next and
  // for the rest, as they land. The last pair, whose place in the ring is freed last, comes last.
  template <typename Visit>
  __device__ __forceinline__ void VisitTiles(Visit&& visit) {
#pragma unroll
    for (int pair = 0; pair < S::kPairs; ++pair) {
      if (S::kHasRest && pair == S::kPairs - 1) {
        BarrierWait(SharedAddress(&shared_.rest_loaded[block_.slot]), block_.parity);
        visit(S::kValueTiles, 1, Rest());
      }
      BarrierWait(SharedAddress(&shared_.pair_loaded[pair_.slot]), pair_.parity);
      if constexpr (S::kConverted) FenceSharedToAsync();
      visit(2 * pair, 2, SharedAddress(shared_.pairs[pair_.slot]));
      pair_ = pair_.Plus(1);
    }
  }

  __device__ __forceinline__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  // The first of the rows of this lane, of 64; the other is 8 further on.
  __device__ __forceinline__ static int Row() { return WarpRow() + Lane() / 4; }
  __device__ __forceinline__ static int WarpRow() {
    return static_cast<int>(threadIdx.x) % kWarpgroup / kWarp * 16;
  }
  // Where this lane's row and 16-byte chunk of the matrices of a 16-column step lie in a tile.
  __device__ __forceinline__ static uint32_t FragmentOffset(int step) {
    return TileChunkOffset(WarpRow() + (Lane() & 15), 2 * step + (Lane() >> 4));
  }

  // Into registers, and what they have no room for to its place in shared memory. The warps' last
  // products with what was there before ended before their last barrier.
  __device__ __forceinline__ void TakeQueries(uint32_t (&q)[S::kRegisterSteps][4]) {
    const PairPosition<S> first = pair_;
    const auto take = [&](int tile, int count, uint32_t address) {
#pragma unroll
      for (int i = 0; i < 4 * count; ++i) {
        const int step = 4 * tile + i;
        const uint32_t from = address + i / 4 * kTileBytes + FragmentOffset(i % 4);
        if (step < S::kRegisterSteps) {
          LoadMatrix4(q[step % S::kRegisterSteps], from);
        } else if (step < S::kSteps) {
          uint32_t part[4];
          LoadMatrix4(part, from);
          StoreMatrix4(SharedQueryTile(step) + FragmentOffset(i % 4), part[0], part[1], part[2],
                       part[3]);
        }
      }
    };
    VisitTiles(take);
    FenceSharedToAsync();
    NamedBarrierSync(kNamedBarrier, kWarpgroup);
    for (int pair = 0; pair < S::kPairs; ++pair) {
      WarpArrive(shared_.pair_freed[first.Plus(pair).slot]);
    }
    WarpArrive(shared_.rest_freed[block_.slot], 2);  // in place of the values' eight warps
    if constexpr (!S::kConverted) WarpArrive(shared_.scored[block_.slot]);
    WarpArrive(shared_.softmaxed[block_.slot]);
    block_ = block_.Plus(1);
  }
  __device__ __forceinline__ uint32_t SharedQueryTile(int step) const {
    return SharedAddress(shared_.queries) + (step - S::kRegisterSteps) / 4 * kTileBytes;
  }

  // s = Q K^T.
  __device__ __forceinline__ void Multiply(const uint32_t (&q)[S::kRegisterSteps][4],
                                           float (&s)[32]) {
    const auto multiply = [&](int tile, int count, uint32_t address) {
      WgmmaFence();
#pragma unroll
      for (int i = 0; i < 4 * count; ++i) {
        const int step = 4 * tile + i;
        const uint32_t offset = i % 4 * 32;
        const uint64_t keys = TileDescriptor(address + i / 4 * kTileBytes + offset, 16, 1024);
        if (step < S::kRegisterSteps) {
          WgmmaRegs<T>(s, q[step % S::kRegisterSteps], keys, step > 0);
        } else if (step < S::kSteps) {
          WgmmaShared<T>(s, TileDescriptor(SharedQueryTile(step) + offset, 16, 1024), keys, true);
        }
      }
    };
    VisitTiles(multiply);
    WgmmaCommit();
    WgmmaWait<0>();
    PinRegisters(s);
  }

  // By selection: what was multiplied may have been NaN.
  __device__ __forceinline__ void Mask(int item, int block, float (&s)[32]) const {
    const Work work = LoadWork(params_, item);
    const int column = block * kBlockTokens + Lane() % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int limit = work.kv_len;
      if (params_.causal) {
        const int row = static_cast<int>(blockIdx.x) * kRowTile + Row() + half * 8;
        limit = min(limit, work.kv_len - params_.s_q + 1 + row / params_.heads);
      }
      limit -= column;
#pragma unroll
      for (int i = 2 * half; i < 32; i += 4) {
        if (i / 4 * 8 >= limit) s[i] = -INFINITY;
        if (i / 4 * 8 + 1 >= limit) s[i + 1] = -INFINITY;
      }
    }
  }

  // Turns s into probabilities relative to max_ and stores them with the output's rescaling.
  __device__ __forceinline__ void Softmax(float (&s)[32]) {
    const float scale = params_.scale * kLog2e;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = -INFINITY;
#pragma unroll
      for (int i = 2 * half; i < 32; i += 4) most = fmaxf(most, fmaxf(s[i], s[i + 1]));
      most = QuadMax(most) * scale;
      float rescale = 1.0f;
      if (most > max_[half] + kSlack) {
        rescale = Exp2(max_[half] - most);
        max_[half] = most;
      }
      sum_[half] *= rescale;
      if (Lane() % 4 == 0) shared_.rescale[block_.slot][Row() + half * 8] = rescale;
      const float reference = max_[half] == -INFINITY ? 0.0f : max_[half];
#pragma unroll
      for (int i = 2 * half; i < 32; i += 4) {
        s[i] = Exp2(fmaf(s[i], scale, -reference));
        s[i + 1] = Exp2(fmaf(s[i + 1], scale, -reference));
        sum_[half] += s[i] + s[i + 1];
      }
    }
    // The tile that P goes to held keys, which every warp has multiplied by then.
    NamedBarrierSync(kNamedBarrier, kWarpgroup);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const float* v = s + 8 * step;
      StoreMatrix4(Rest() + FragmentOffset(step), Pack<T>(v[0], v[1]), Pack<T>(v[2], v[3]),
                   Pack<T>(v[4], v[5]), Pack<T>(v[6], v[7]));
    }
  }

  // The sums are complete: what the values divide by.
  __device__ __forceinline__ void StoreInverse() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum_[half] = QuadSum(sum_[half]);
      if (Lane() % 4 == 0) {
        shared_.inverse[block_.slot][Row() + half * 8] =
            sum_[half] == 0 ? 0.0f : __fdividef(1.0f, sum_[half]);
      }
    }
  }

  __device__ __forceinline__ void StoreLse(int item, int half) const {
    const float lse = sum_[half] == 0 ? -INFINITY : (max_[half] + log2f(sum_[half])) * kLn2;
    const int row = static_cast<int>(blockIdx.x) * kRowTile + Row() + half * 8;
    if (Lane() % 4 != 0 || row >= params_.s_q * params_.heads) return;
    const Work work = LoadWork(params_, item);
    if (work.slot >= 0) {
      params_.part_lse[PartRow(params_, work, row)] = lse;
    } else if (params_.lse != nullptr) {
      const int token = row / params_.heads;
      params_.lse[work.seq * params_.lse_stride_seq + token * params_.lse_stride_token +
                  (row - token * params_.heads) * params_.lse_stride_head] = lse;
    }
  }

  const MlaDecodeParams& params_;
  SharedMemory<S>& shared_;
  PairPosition<S> pair_;
  BlockPosition<S> block_;
  // Of this lane's two rows. The greatest score in powers of two, or up to kSlack less; this lane's
  // part of the sum of P.
  float max_[2], sum_[2];
};

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_SCORES_CUH_
