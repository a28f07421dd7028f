// The values warpgroups of the Hopper kernel: O += P V, each for half of the columns.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_VALUES_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_VALUES_CUH_

#include <cstdint>

#include "kernels/cuda/mla_decode/sm90_layout.cuh"

namespace mla::cuda::sm90 {

template <typename S, typename T>
class Values {
 public:
  // `half`: of the columns.
  __device__ __forceinline__ Values(const MlaDecodeParams& params, SharedMemory<S>& shared,
                                    int half)
      : params_(params), shared_(shared), half_(half) {
    pair_ = pair_.Plus(half * S::kValuePairs);
  }

  __device__ __forceinline__ void Run() {
    for (int i = params_.part_begin[blockIdx.y]; i < params_.part_begin[blockIdx.y + 1]; ++i) {
      Output o;
#pragma unroll
      for (int k = 0; k < 64 * S::kValuePairs; ++k) o[k / 64][k % 64] = 0;
      Accumulate(i, o);
      Store(i, 0, o);
      Store(i, 1, o);
    }
  }

 private:
  using Output = float[S::kValuePairs][64];
  static constexpr int64_t kPartPitch = PartPitch(S::kDv);

  __device__ __forceinline__ void Accumulate(int item, Output& o) {
    int blocks, valid;  // still to come; tokens of the sequence from the next one's beginning
    {
      const Work work = LoadWork(params_, item);
      if (work.empty()) return;
      blocks = work.end - work.first;
      valid = work.kv_len - work.first * kBlockTokens;
    }
    BarrierWait(SharedAddress(&shared_.softmaxed[block_.slot]), block_.parity);  // the queries
    if (S::kValuePairs == 2 && half_ == 0) WarpArrive(shared_.ahead[block_.slot]);
    WaitForHalf();
    WaitForScores(block_);
    Advance();
    WaitForScores(block_);
    bool begun = false;
    while (true) {
      if (valid < kBlockTokens) ClearRowsFrom(valid);
      BarrierWait(SharedAddress(&shared_.softmaxed[block_.slot]), block_.parity);
      if (begun) Rescale(o);
      // The scores of the next block come first, unless keys are converted: the products here then
      // cover their softmax.
      if (blocks > 1) WaitForScores(block_.Plus(1));
      // The first half goes ahead by one pair, which the loader waits for.
      WaitForHalf();
      Multiply(o, begun);
      const bool last = --blocks == 0;
      if (last) {
        Scale(o, shared_.inverse[block_.slot][Row()], shared_.inverse[block_.slot][Row() + 8]);
      }
      WarpArrive(shared_.rest_freed[block_.slot]);
      Advance();
      if (last) return;
      valid -= kBlockTokens;
      begun = true;
    }
  }

  // Every phase of a barrier is waited for, also where it is known to have passed: synccheck asks
  // for that.
  __device__ __forceinline__ void WaitForScores(const BlockPosition<S>& block) const {
    if constexpr (S::kConverted) return;
    BarrierWait(SharedAddress(&shared_.scored[block.slot]), block.parity);
  }
  __device__ __forceinline__ void WaitForHalf() const {
    if (S::kValuePairs != 2 || half_ == 0) return;
    BarrierWait(SharedAddress(&shared_.ahead[block_.slot]), block_.parity);
  }

  // To the next block: past all its pairs. (The next two here are this warpgroup's.)
  __device__ __forceinline__ void Advance() {
    pair_ = pair_.Plus(S::kPairs);
    block_ = block_.Plus(1);
  }
  __device__ __forceinline__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  // The first of the rows of this lane, of 64; the other is 8 further on.
  __device__ __forceinline__ static int Row() {
    return static_cast<int>(threadIdx.x) % kWarpgroup / kWarp * 16 + Lane() / 4;
  }

  __device__ __forceinline__ void Rescale(Output& o) {
    const float first = shared_.rescale[block_.slot][Row()];
    const float second = shared_.rescale[block_.slot][Row() + 8];
    if (__any_sync(~0u, first != 1.0f || second != 1.0f)) Scale(o, first, second);
  }
  // This lane's two rows.
  __device__ __forceinline__ static void Scale(Output& o, float first, float second) {
#pragma unroll
    for (int i = 0; i < 64 * S::kValuePairs; ++i) {
      o[i / 64][i % 64] *= i / 2 % 2 == 0 ? first : second;
    }
  }

  // Pair after pair, so that the first can be loaded again while the second is used.
  __device__ __forceinline__ void Multiply(Output& o, bool accumulate) {
    const uint64_t probs = TileDescriptor(SharedAddress(shared_.rests[block_.slot]), 16, 1024);
    Pin(o);
    WgmmaFence();
#pragma unroll
    for (int i = 0; i < S::kValuePairs; ++i) {
      const uint64_t values =
          TileDescriptor(SharedAddress(shared_.pairs[pair_.Plus(i).slot]), kTileBytes, 1024);
#pragma unroll
      for (int step = 0; step < kBlockTokens / 16; ++step) {
        WgmmaSharedColumns<T>(o[i], Further(probs, step * 32),
                              Further(values, step * 16 * kTileRowBytes), accumulate || step > 0);
      }
      WgmmaCommit();
    }
    if constexpr (S::kValuePairs == 2) {
      WgmmaWait<1>();
      WarpArrive(shared_.pair_freed[pair_.slot]);
      if (half_ == 0) WarpArrive(shared_.ahead[block_.slot]);
    }
    WgmmaWait<0>();
    Pin(o);
    WarpArrive(shared_.pair_freed[pair_.Plus(S::kValuePairs - 1).slot]);
  }
  __device__ __forceinline__ static void Pin(Output& o) {
#pragma unroll
    for (int i = 0; i < S::kValuePairs; ++i) PinRegisters(o[i]);
  }

  // Tokens past the sequence's end: their probabilities are 0, but 0 * NaN is NaN. This warpgroup's
  // columns only. The scores may or may not see the zeros, and mask these tokens anyway.
  __device__ __forceinline__ void ClearRowsFrom(int first) {
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    constexpr int kRowChunks = kTileRowBytes / 16;
    for (int i = 0; i < S::kValuePairs; ++i) {
      const PairPosition<S> pair = pair_.Plus(i);
      BarrierWait(SharedAddress(&shared_.pair_loaded[pair.slot]), pair.parity);
      uint4* const data = reinterpret_cast<uint4*>(shared_.pairs[pair.slot]);
      for (int k = first * kRowChunks + thread; k < kRowTile * kRowChunks; k += kWarpgroup) {
        data[k] = make_uint4(0, 0, 0, 0);
        data[k + kTileBytes / 16] = make_uint4(0, 0, 0, 0);
      }
    }
    FenceSharedToAsync();
    NamedBarrierSync(2 + half_, kWarpgroup);
  }

  // Row() + 8 * second. The two accumulators of group i of 8 columns are 2 * (lane % 4) and the
  // next.
  __device__ __forceinline__ void Store(int item, int second, const Output& o) const {
    const int row = static_cast<int>(blockIdx.x) * kRowTile + Row() + second * 8;
    const bool real = row < params_.s_q * params_.heads;
    if (!__any_sync(~0u, real)) return;
    const Work work = LoadWork(params_, item);
    const int first_column = half_ * (S::kDv / 2);
    if (work.slot >= 0) {
      StoreFloats(params_.part_out + PartRow(params_, work, row) * kPartPitch + first_column, real,
                  second, o);
    } else {
      const int token = row / params_.heads;
      StoreRounded(static_cast<T*>(params_.out) + work.seq * params_.out_stride_seq +
                       token * params_.out_stride_token +
                       (row - token * params_.heads) * params_.out_stride_head + first_column,
                   real, second, o);
    }
  }

  // Accumulator k (0 or 1) of group i.
  __device__ __forceinline__ static float Value(const Output& o, int i, int second, int k) {
    return o[i / 16][i % 16 * 4 + second * 2 + k];
  }

  // 16 bytes a lane. Lanes trade halves of two groups: even ones then have four columns of the
  // first, odd ones of the second.
  __device__ __forceinline__ static void StoreFloats(float* out, bool real, int second,
                                                     const Output& o) {
    const bool odd = Lane() % 2 != 0;
    out += (odd ? 8 : 0) + (Lane() & 2) * 2;
#pragma unroll
    for (int i = 0; i < 16 * S::kValuePairs; i += 2) {
      float mine[2], other[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float a = Value(o, i, second, k);
        const float b = Value(o, i + 1, second, k);
        mine[k] = odd ? b : a;
        other[k] = __shfl_xor_sync(~0u, odd ? a : b, 1);
      }
      StoreIf(real, out + i * 8, odd ? other[0] : mine[0], odd ? other[1] : mine[1],
              odd ? mine[0] : other[0], odd ? mine[1] : other[1]);
    }
  }

  // 16 bytes a lane: lane q of the four gets all of group q of four.
  __device__ __forceinline__ static void StoreRounded(T* out, bool real, int second,
                                                      const Output& o) {
    const int q = Lane() % 4;
    out += q * 8;
#pragma unroll
    for (int i = 0; i < 16 * S::kValuePairs; i += 4) {
      uint32_t w[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        w[k] = Pack<T>(Value(o, i + k, second, 0), Value(o, i + k, second, 1));
      }
      Transpose4(w, q);
      StoreIf(real, out + i * 8, w);
    }
  }

  // Between four lanes: w[k] of lane q becomes w[q] of lane k.
  __device__ __forceinline__ static void Transpose4(uint32_t (&w)[4], int q) {
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
      const bool upper = (q & distance) != 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int low = distance == 1 ? 2 * i : i;
        const int high = low + distance;
        const uint32_t got = __shfl_xor_sync(~0u, upper ? w[low] : w[high], distance);
        if (upper) {
          w[low] = got;
        } else {
          w[high] = got;
        }
      }
    }
  }

  const MlaDecodeParams& params_;
  SharedMemory<S>& shared_;
  const int half_;
  PairPosition<S> pair_;  // this warpgroup's first of the block
  BlockPosition<S> block_;
};

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_VALUES_CUH_
