// The matrix products of the Ampere kernel over FP8 latents, as one warp does its share of them.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_PRODUCTS_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_PRODUCTS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/fp8_codes.cuh"
#include "kernels/cuda/mla_decode/params.h"
#include "kernels/cuda/mla_decode/sm80_fp8.h"
#include "kernels/cuda/mla_decode/sm80_products.cuh"
#include "kernels/cuda/ptx_sm80.cuh"

namespace mla::cuda::sm80 {

// Keys are fp16 and values bf16 (fp8_codes.cuh). P times scale is raised halfway to meet values, so
// that sums stay in the range of fp32 whatever the scales are, within reason: scales may be from
// 2^-56 to 2^58 before anything is lost. And how far below its value the output is then.
inline constexpr int kMeet = CodeFormat<__nv_bfloat16>::kBelow / 2;
inline constexpr int kOutputBelow = CodeFormat<__nv_bfloat16>::kBelow - kMeet;

// What the parts that are shared with the kernel without FP8 want of a tile, and more.
template <int kRows_>
struct Fp8Shape {
  static constexpr Fp8Tile kTile = {kRows_};
  static constexpr int kDk = kFp8LatentRank + kFp8LatentRope, kDv = kFp8LatentRank;
  static constexpr int kRows = kRows_, kTokens = Fp8Tile::kTokens;
  static constexpr int kElementBytes = 1, kTokenBytes = kFp8LatentBytes;

  // Scores: a warp has a group of codes, and a slice of the tokens.
  static constexpr int kDepthGroups = Fp8Tile::kGroups;
  static constexpr int kWarpTokens = kTokens / (kWarps / kDepthGroups);
  static constexpr int kRowTiles = kRows / 16;
  static constexpr int kCodeSteps = kFp8LatentGroup / 16;  // of 16 codes
  static_assert(kWarpTokens == 16 && kFp8LatentRope == 16 * kDepthGroups);

  // Output: a warp has 64 columns, which lie in one group.
  static constexpr int kOutTiles = kRowTiles;
  static constexpr int kWarpColumns = kDv / kWarps;
  static constexpr int kColumnTiles = kWarpColumns / 8;
  static_assert(kColumnTiles == 8 && kFp8LatentGroup % kWarpColumns == 0);

  // Tokens are as far apart as in the cache: 4 banks.
  static constexpr int kKeyPitch = kTokenBytes;
  static_assert(kKeyPitch / 4 % 32 == 4);
  static __device__ __forceinline__ int KeyOffset(int, int byte) { return byte; }
  static constexpr int kScalesAt = kFp8LatentRank;
  static constexpr int kRopeAt = kScalesAt + kDepthGroups * static_cast<int>(sizeof(float));
  static constexpr int kStageBytes = static_cast<int>(Fp8Tile::stage_bytes());
  static constexpr int kFactorBytes = static_cast<int>(kTile.factor_bytes());
  static constexpr int kProbBytes = static_cast<int>(kTile.prob_bytes());
  static constexpr int kScoreBytes = static_cast<int>(kTile.score_bytes());
  static constexpr int kScaleBytes = static_cast<int>(Fp8Tile::scale_bytes());
  static constexpr int kBlocksPerSm = kTile.blocks_per_sm();

  // Where in its row of scores a column is kept: exchanged so that of what half a warp writes
  // together, columns 0-3 and 8-11 of 4 rows, no more than two lie in one bank. Columns 0-15 stay
  // together.
  static __device__ __forceinline__ int ScoreColumn(int row, int column) {
    return column ^ row % 2 * 16;
  }
  // Where a column of a row of P is kept, in bytes.
  static constexpr int kProbPitch = Fp8Tile::prob_pitch_bytes();
  static __device__ __forceinline__ int ProbOffset(int row, int column) {
    return row * kProbPitch + column * 2;
  }
  static constexpr float kProbFactor = PowerOfTwo(kMeet);
};

template <typename V>
__device__ __forceinline__ V LoadAt(const char* base, int offset) {
  return *reinterpret_cast<const V*>(base + offset);
}

// A warp's slice of Q as fragments of MultiplyAdd's a: its group as fp16, and its quarter of q_pe
// as bf16. Rows past the end are zeros. The order of the elements is that in which MultiplyCodes
// reads the keys. q_pe of fp16 is two terms.
template <typename S, typename T>
struct Fp8Queries {
  static constexpr int kRopeTerms = std::is_same_v<T, __half> ? 2 : 1;
  uint32_t codes[S::kRowTiles][S::kCodeSteps][4];
  uint32_t rope[S::kRowTiles][kRopeTerms][4];
  // What products of codes are to be multiplied by, of the lane's rows.
  float factors[2 * S::kRowTiles];

  __device__ __forceinline__ void Load(const MlaDecodeParams& params, int32_t seq,
                                       int32_t first_row) {
    const auto [warp, lane] = WarpLane<S>();
    const int group = warp % S::kDepthGroups;
#pragma unroll
    for (int half = 0; half < 2 * S::kRowTiles; ++half) {
      const int32_t row = first_row + half * 8 + lane / 4;
      const int32_t token = row / params.heads, head = row - token * params.heads;
      const bool real = token < params.s_q;
      const auto* q = static_cast<const uint16_t*>(params.q) + seq * params.q_stride_seq +
                      token * params.q_stride_token + head * params.q_stride_head;
      // A vector has the elements of a pair of steps, four of each.
      uint4 vectors[kVectors];
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int element = i / 2 * 64 + lane % 4 * 16 + i % 2 * 8;
        vectors[i] = make_uint4(0, 0, 0, 0);
        if (real) {
          vectors[i] = *reinterpret_cast<const uint4*>(q + group * kFp8LatentGroup + element);
        }
      }
      uint2 v = {0, 0};
      if (real) {
        v = *reinterpret_cast<const uint2*>(q + S::kDv + group * 16 + lane % 4 * 4);
      }
      SetRope(v.x, half / 2, half % 2);
      SetRope(v.y, half / 2, half % 2 + 2);
      SetCodes(vectors, half);
    }
  }

 private:
  static constexpr int kVectors = S::kCodeSteps / 2;

  __device__ __forceinline__ void SetCodes(const uint4 (&vectors)[kVectors], int half) {
    float most = 0;
#pragma unroll
    for (const uint4& v : vectors) {
      most = fmaxf(fmaxf(most, MostOfPair<T>(v.x)),
                   fmaxf(MostOfPair<T>(v.y), fmaxf(MostOfPair<T>(v.z), MostOfPair<T>(v.w))));
    }
#pragma unroll
    for (int d = 1; d <= 2; d *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
    const QueryFactors powers(most);
    const float by = powers.up;
    factors[half] = powers.down;
    uint32_t(&fragments)[S::kCodeSteps][4] = codes[half / 2];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      fragments[2 * i][half % 2] = Times(vectors[i].x, by);
      fragments[2 * i][half % 2 + 2] = Times(vectors[i].y, by);
      fragments[2 * i + 1][half % 2] = Times(vectors[i].z, by);
      fragments[2 * i + 1][half % 2 + 2] = Times(vectors[i].w, by);
    }
  }
  static __device__ __forceinline__ uint32_t Times(uint32_t pair, float by) {
    const float2 v = UnpackPair<T>(pair);
    return PackPair<__half>(v.x * by, v.y * by);
  }

  __device__ __forceinline__ void SetRope(uint32_t pair, int tile, int i) {
    if constexpr (std::is_same_v<T, __half>) {
      const float2 v = UnpackPair<T>(pair);
      rope[tile][0][i] = PackPair<__nv_bfloat16>(v.x, v.y);
      const float2 most = UnpackPair<__nv_bfloat16>(rope[tile][0][i]);
      rope[tile][1][i] = PackPair<__nv_bfloat16>(v.x - most.x, v.y - most.y);
    } else {
      rope[tile][0][i] = pair;
    }
  }
};

// scores[group][row][token] = scale * (q . codes) + q_pe . k_pe over this warp's group and quarter,
// of the rows and its tokens of the stage. Copies their scales to all_scales[group][token].
template <typename S, typename T>
__device__ __forceinline__ void MultiplyCodes(const Fp8Queries<S, T>& q, const char* stage,
                                              float* scores, float* all_scales) {
  const auto [warp, lane] = WarpLane<S>();
  const int group = warp % S::kDepthGroups;
  const int first = warp / S::kDepthGroups * S::kWarpTokens;
  // Column n of the two tiles is this token, and the next one: tokens of neighbouring columns are
  // 16 banks apart, those of a lane's columns of the two tiles neighbours.
  const auto token_of = [](int n) { return n / 4 * 8 + n % 2 * 4 + n / 2 % 2 * 2; };
  const char* keys = stage + (first + token_of(lane / 4)) * S::kKeyPitch;

  float sums[2][S::kRowTiles][4] = {}, ropes[2][S::kRowTiles][4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const auto codes = LoadAt<uint4>(
          keys, n * S::kKeyPitch + group * kFp8LatentGroup + half * 64 + lane % 4 * 16);
      const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t b[2];
        KeyPairs(words[i], b);
#pragma unroll
        for (int m = 0; m < S::kRowTiles; ++m) {
          MultiplyAdd<__half>(sums[n][m], q.codes[m][half * 4 + i], b[0], b[1]);
        }
      }
    }
  }
  float scales[2][2];  // of the lane's columns of the tiles
  const int mine = first + token_of(lane % 4 * 2);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const auto rope =
        LoadAt<uint2>(keys, n * S::kKeyPitch + S::kRopeAt + group * 32 + lane % 4 * 8);
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
      for (int term = 0; term < q.kRopeTerms; ++term) {
        MultiplyAdd<__nv_bfloat16>(ropes[n][m], q.rope[m][term], rope.x, rope.y);
      }
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      scales[n][c] = LoadAt<float>(stage, (mine + n + c * 4) * S::kKeyPitch + S::kScalesAt +
                                              group * static_cast<int>(sizeof(float)));
    }
  }
  if (lane < 4) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      *reinterpret_cast<float2*>(all_scales + group * S::kTokens + mine + c * 4) = {scales[0][c],
                                                                                    scales[1][c]};
    }
  }
#pragma unroll
  for (int i = 0; i < 2 * S::kRowTiles; ++i) {
    const int row = i * 8 + lane / 4;
    float* to = scores + (group * S::kRows + row) * S::kTokens;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int at = i % 2 * 2 + c;
      float2 pair;
      pair.x = sums[0][i / 2][at] * (scales[0][c] * q.factors[i]) + ropes[0][i / 2][at];
      pair.y = sums[1][i / 2][at] * (scales[1][c] * q.factors[i]) + ropes[1][i / 2][at];
      *reinterpret_cast<float2*>(to + S::ScoreColumn(row, mine + c * 4)) = pair;
    }
  }
}

// What a warp multiplies of 16 tokens, from kFirst on: P times scale, and codes. Of column tile j,
// column n is the warp's column 8 * n + j.
template <typename S, int kFirst>
struct CodedValues {
  uint32_t a[S::kOutTiles][4];
  uint2 v[4];

  __device__ __forceinline__ void Load(const char* probs, const char* stage) {
    const auto [warp, lane] = WarpLane<S>();
    const int column = warp * S::kWarpColumns;
    const uint32_t values =
        SharedAddress(stage) + lane % 4 * 2 * S::kKeyPitch + column + lane / 4 * 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] = LoadShared8(values + (kFirst + i / 2 * 8 + i % 2) * S::kKeyPitch);
    }
    const uint32_t p = SharedAddress(probs) + column / kFp8LatentGroup * S::kProbBytes +
                       S::ProbOffset(lane % 16, lane / 16 * 8 + kFirst);
#pragma unroll
    for (int m = 0; m < S::kOutTiles; ++m) LoadMatrices4(a[m], p + m * 16 * S::kProbPitch);
  }

  __device__ __forceinline__ void MultiplyTo(OutputFragments<S>& output) const {
    using B = __nv_bfloat16;
    const auto multiply = [&](int tile, uint32_t b0, uint32_t b1) {
#pragma unroll
      for (int m = 0; m < S::kOutTiles; ++m) MultiplyAdd<B>(output.d[m][tile], a[m], b0, b1);
    };
    multiply(0, CodePair<B, 0, 4>(v[0].x, v[1].x), CodePair<B, 0, 4>(v[2].x, v[3].x));
    multiply(1, CodePair<B, 1, 5>(v[0].x, v[1].x), CodePair<B, 1, 5>(v[2].x, v[3].x));
    multiply(2, CodePair<B, 2, 6>(v[0].x, v[1].x), CodePair<B, 2, 6>(v[2].x, v[3].x));
    multiply(3, CodePair<B, 3, 7>(v[0].x, v[1].x), CodePair<B, 3, 7>(v[2].x, v[3].x));
    multiply(4, CodePair<B, 0, 4>(v[0].y, v[1].y), CodePair<B, 0, 4>(v[2].y, v[3].y));
    multiply(5, CodePair<B, 1, 5>(v[0].y, v[1].y), CodePair<B, 1, 5>(v[2].y, v[3].y));
    multiply(6, CodePair<B, 2, 6>(v[0].y, v[1].y), CodePair<B, 2, 6>(v[2].y, v[3].y));
    multiply(7, CodePair<B, 3, 7>(v[0].y, v[1].y), CodePair<B, 3, 7>(v[2].y, v[3].y));
  }
};

}  // namespace mla::cuda::sm80

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_PRODUCTS_CUH_
