// The values warpgroups of the Hopper kernel over FP8 latents: O^T += V^T P, each for half of the
// columns of V.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_VALUES_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_VALUES_CUH_

#include <cstdint>

#include "kernels/cuda/fp8_codes.cuh"
#include "kernels/cuda/mla_decode/sm90_fp8_direct_layout.cuh"

namespace mla::cuda::sm90::direct {

// a * b + c of two numbers of bf16 each.
__device__ __forceinline__ uint32_t MultiplyAddPairs(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// Of a half's 256 columns, four tiles of 64: two for each group of codes, of which a warp has 32
// neighbouring columns, 16 in either tile. Rows l and l + 8 of its 16 are columns 2l and 2l + 1.
template <typename S>
class Fp8Values {
 public:
  __device__ __forceinline__ Fp8Values(const MlaDecodeParams& params, Fp8SharedMemory<S>& shared,
                                       int half)
      : params_(params), shared_(shared), half_(half) {}

  __device__ __forceinline__ void Run() {
    for (int i = params_.part_begin[blockIdx.y]; i < params_.part_begin[blockIdx.y + 1]; ++i) {
      const Work work = LoadWork(params_, i);
      Output o;
#pragma unroll
      for (int k = 0; k < kTiles * kCount; ++k) o[k / kCount][k % kCount] = 0;
      for (int block = work.first; block < work.end; ++block) Add(o, block + 1 == work.end);
      Store(work, o);
    }
  }

 private:
  using T = typename S::T;
  static constexpr int kCount = S::kAccumulators;
  static constexpr int kTiles = 4;
  static constexpr int kSteps = S::kTokens / 16;
  // Operands, and codes loaded.
  static constexpr int kAhead = S::kRows == 64 ? 2 : 3, kCodes = S::kRows == 64 ? 1 : 2;
  static constexpr int kHalfColumns = kFp8LatentRank / 2;
  using Output = float[kTiles][kCount];

  __device__ __forceinline__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ __forceinline__ static int Warp() {
    return static_cast<int>(threadIdx.x) % kWarpgroup / kWarp;
  }
  // The first of this lane's columns of the output, of tile 0.
  __device__ __forceinline__ int FirstColumn() const { return half_ * kHalfColumns + Warp() * 32; }
  __device__ __forceinline__ static constexpr int TileColumn(int tile) {
    return tile / 2 * kFp8LatentGroup + tile % 2 * 16;
  }

  // One tile of tokens.
  __device__ __forceinline__ void Add(Output& o, bool last) {
    BarrierWait(SharedAddress(&shared_.softmaxed[tile_.slot]), tile_.parity);
    if (shared_.rescale[tile_.slot] != 0) Scale(o, shared_.factors[tile_.slot]);
    Multiply(o);
    if (last) Scale(o, shared_.inverse[tile_.slot]);
    WarpArrive(shared_.tile_freed[tile_.slot]);
    tile_ = tile_.Plus(1);
  }

  // By a factor for each query row.
  __device__ __forceinline__ static void Scale(Output& o, const float* factors) {
#pragma unroll
    for (int n = 0; n < S::kRows / 8; ++n) {
      const auto by = *reinterpret_cast<const float2*>(factors + n * 8 + Lane() % 4 * 2);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        o[i][4 * n] *= by.x;
        o[i][4 * n + 1] *= by.y;
        o[i][4 * n + 2] *= by.x;
        o[i][4 * n + 3] *= by.y;
      }
    }
  }

  // 16 tokens and one tile of columns after another: while two are multiplied the next is
  // converted.
  __device__ __forceinline__ void Multiply(Output& o) {
    const uint64_t probs = TileDescriptor(SharedAddress(shared_.probs[tile_.slot]), 16, 1024);
    const int matrix = Lane() / 8;
    const uint32_t lane_at =
        ((matrix % 2) * 8 + Fp8Token(Lane() % 8)) * S::kPitch + FirstColumn() + matrix / 2 * 16;
    uint32_t a[kAhead][4];
    uint32_t codes[kCodes][4];  // of two tiles each
    uint4 scales;
    const auto load = [&](int pair) {
      LoadMatrix4Transposed(codes[pair % kCodes], SharedAddress(shared_.units[ring_.slot]) +
                                                      lane_at + pair / 2 % 2 * 16 * S::kPitch +
                                                      pair % 2 * kFp8LatentGroup);
    };
    if (kCodes == 2) load(0);
    Pin(o);
#pragma unroll
    for (int i = 0; i < kTiles * kSteps; ++i) {
      const int step = i / kTiles, pair = i / 2;
      if (i % 2 == 0) {
        scales = LoadShared16(SharedAddress(
            &shared_.value_scales[ring_.slot][half_][step % 2][pair % 2][Lane() % 4]));
        if (kCodes == 1) load(pair);
        if (pair % 4 == 3) NextUnit();
        if (kCodes == 2 && pair + 1 < kTiles * kSteps / 2) load(pair + 1);
      }
      uint32_t(&mine)[4] = a[i % kAhead];
      if (i >= kAhead) {
        WgmmaWait<kAhead - 1>();
        PinOperands(mine);
      }
      const uint32_t(&two)[4] = codes[pair % kCodes];
      Convert(two[i % 2 * 2], scales.x, scales.z, mine[0], mine[1]);
      Convert(two[i % 2 * 2 + 1], scales.y, scales.w, mine[2], mine[3]);
      WgmmaFence();
      WgmmaRegs<__nv_bfloat16>(o[i % kTiles], mine, Further(probs, step * 32), 1);
      WgmmaCommit();
    }
    WgmmaWait<0>();
#pragma unroll
    for (int i = 0; i < kAhead; ++i) PinOperands(a[i]);
    Pin(o);
  }
  __device__ __forceinline__ static void Pin(Output& o) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) PinRegisters(o[i]);
  }
  __device__ __forceinline__ void NextUnit() {
    WarpArrive(shared_.unit_freed[ring_.slot]);
    ring_ = ring_.Plus(1);
  }

  // Two columns of two tokens times the tokens' scales.
  __device__ __forceinline__ static void Convert(uint32_t codes, uint32_t high, uint32_t low,
                                                 uint32_t& even, uint32_t& odd) {
    using B = __nv_bfloat16;
    const uint32_t first = CodePair<B, 0, 2>(codes, codes);
    const uint32_t second = CodePair<B, 1, 3>(codes, codes);
    even = MultiplyAddPairs(first, high, MultiplyPairs<B>(first, low));
    odd = MultiplyAddPairs(second, high, MultiplyPairs<B>(second, low));
  }

  // A lane has two neighbouring columns of a query row and tile.
  __device__ __forceinline__ void Store(const Work& work, const Output& o) const {
    const int column = FirstColumn() + Lane() / 4 * 2;
#pragma unroll
    for (int n = 0; n < S::kRows / 8; ++n) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int row = n * 8 + Lane() % 4 * 2 + k;
        const Fp8Row& place = shared_.rows[row];
        if (place.real == 0) continue;
        if (work.slot >= 0) {
          const int64_t part =
              PartRow(params_, work, static_cast<int>(blockIdx.x) * S::kRows + row);
          float* to = params_.part_out + part * PartPitch(kFp8LatentRank) + column;
#pragma unroll
          for (int i = 0; i < kTiles; ++i) {
            *reinterpret_cast<float2*>(to + TileColumn(i)) = {o[i][4 * n + k], o[i][4 * n + 2 + k]};
          }
        } else {
          T* to =
              static_cast<T*>(params_.out) + work.seq * params_.out_stride_seq + place.out + column;
#pragma unroll
          for (int i = 0; i < kTiles; ++i) {
            *reinterpret_cast<uint32_t*>(to + TileColumn(i)) =
                Pack<T>(o[i][4 * n + k], o[i][4 * n + 2 + k]);
          }
        }
      }
    }
  }

  const MlaDecodeParams& params_;
  Fp8SharedMemory<S>& shared_;
  const int half_;
  RingPosition<S::kUnits> ring_;
  RingPosition<S::kTiles> tile_;
};

}  // namespace mla::cuda::sm90::direct

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_VALUES_CUH_
