// The matrix products of the Ampere kernel over FP8 latents, as one warp does its share of them.
//
// Values: a code of e4m3, its sign moved to the top and the rest to the exponent's lower end, is a
// number of bf16 times 2^-120, exactly, subnormal ones too. That takes three instructions for two
// codes. P times scale is raised halfway to meet it (kMeet): sums then stay in the range of fp32
// whatever the scales are, within reason.
//
// Keys: fp16, to which there is an instruction from compute capability 8.9 on; before that a code's
// bits are a number of fp16 times 2^-8. Q becomes fp16 after a power of two for each row, so that
// nothing of it is lost. A code of NaN is NaN from 8.9 on, and else reads as 480.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_PRODUCTS_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_PRODUCTS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/mla_decode/params.h"
#include "kernels/cuda/mla_decode/sm80_fp8.h"
#include "kernels/cuda/mla_decode/sm80_products.cuh"
#include "kernels/cuda/ptx_sm80.cuh"

namespace mla::cuda::sm80 {

// Codes as numbers of T: T(code) * 2^(-kBelow).
template <typename T>
struct CodeFormat;
template <>
struct CodeFormat<__nv_bfloat16> {
  static constexpr int kShift = 4, kBelow = 120;
  static constexpr uint32_t kMask = 0x87f087f0u;
};
template <>
struct CodeFormat<__half> {
  static constexpr int kShift = 7, kBelow = 8;
  static constexpr uint32_t kMask = 0xbf80bf80u;
};

// 2^exponent, of a normal number.
constexpr float PowerOfTwo(int exponent) {
  float power = 1;
  for (; exponent > 0; --exponent) power *= 2;
  for (; exponent < 0; ++exponent) power /= 2;
  return power;
}

// How far P times scale is raised to meet values of bf16: scales may be from 2^-56 to 2^58 before
// anything is lost. And how far below its value the output is then.
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
  static constexpr int kScalesAt = kFp8LatentRank;
  static constexpr int kRopeAt = kScalesAt + kDepthGroups * static_cast<int>(sizeof(float));
  static constexpr int kStageBytes = static_cast<int>(Fp8Tile::stage_bytes());
  static constexpr int kFactorBytes = static_cast<int>(kTile.factor_bytes());
  static constexpr int kProbBytes = static_cast<int>(kTile.prob_bytes());
  static constexpr int kScoreBytes = static_cast<int>(kTile.score_bytes());
  static constexpr int kScaleBytes = static_cast<int>(Fp8Tile::scale_bytes());
  static constexpr bool kReadAnew = false;
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

// Two bytes of (low, high), 0 to 7, of which kFirst becomes the first. The byte above each is made
// copies of its sign, from where the shift takes one to the top.
template <typename T, int kFirst, int kSecond>
__device__ __forceinline__ uint32_t CodePair(uint32_t low, uint32_t high) {
  constexpr uint32_t kSelect = kFirst | (kFirst + 8) << 4 | kSecond << 8 | (kSecond + 8) << 12;
  uint32_t bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "n"(kSelect));
  return bytes << CodeFormat<T>::kShift & CodeFormat<T>::kMask;
}

// Four codes as two pairs of fp16, below their values by kKeysBelow.
#if __CUDA_ARCH__ >= 890
inline constexpr int kKeysBelow = 0;
__device__ __forceinline__ void KeyPairs(uint32_t codes, uint32_t (&pairs)[2]) {
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n"
      "}\n"
      : "=r"(pairs[0]), "=r"(pairs[1])
      : "r"(codes));
}
#else
inline constexpr int kKeysBelow = CodeFormat<__half>::kBelow;
__device__ __forceinline__ void KeyPairs(uint32_t codes, uint32_t (&pairs)[2]) {
  pairs[0] = CodePair<__half, 0, 1>(codes, codes);
  pairs[1] = CodePair<__half, 2, 3>(codes, codes);
}
#endif

template <typename V>
__device__ __forceinline__ V LoadAt(const char* base, int offset) {
  return *reinterpret_cast<const V*>(base + offset);
}

template <typename T>
__device__ __forceinline__ float2 UnpackPair(uint32_t pair) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
  } else {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  }
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
  static constexpr int kLargest = 14;  // numbers of fp16 are made less than 2^(this + 1)

  __device__ __forceinline__ void SetCodes(const uint4 (&vectors)[kVectors], int half) {
    float most = 0;
#pragma unroll
    for (const uint4& v : vectors) {
      most = fmaxf(fmaxf(most, Most(v.x)), fmaxf(Most(v.y), fmaxf(Most(v.z), Most(v.w))));
    }
#pragma unroll
    for (int d = 1; d <= 2; d *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
    // Of fp32 numbers: exponents of both powers stay normal.
    constexpr int kBias = 127, kLeast = 20, kGreatest = 254;
    const int exponent = min(max(__float_as_int(most) >> 23, kLeast), kGreatest);
    const float by = __int_as_float((kLargest + 2 * kBias - exponent) << 23);
    factors[half] = __int_as_float((exponent - kLargest + kKeysBelow) << 23);
    uint32_t(&fragments)[S::kCodeSteps][4] = codes[half / 2];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      fragments[2 * i][half % 2] = Times(vectors[i].x, by);
      fragments[2 * i][half % 2 + 2] = Times(vectors[i].y, by);
      fragments[2 * i + 1][half % 2] = Times(vectors[i].z, by);
      fragments[2 * i + 1][half % 2 + 2] = Times(vectors[i].w, by);
    }
  }
  static __device__ __forceinline__ float Most(uint32_t pair) {
    const float2 v = UnpackPair<T>(pair);
    return fmaxf(fabsf(v.x), fabsf(v.y));
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
