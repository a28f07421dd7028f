// The matrix products of the Ampere kernel, as one warp does its share of them.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_PRODUCTS_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_PRODUCTS_CUH_

#include <cstdint>

#include "kernels/cuda/mla_decode/params.h"
#include "kernels/cuda/mla_decode/sm80.h"
#include "kernels/cuda/ptx_sm80.cuh"

namespace mla::cuda::sm80 {

// A tile as constants.
template <int kD_k, int kD_v, int kRows_, int kTokens_>
struct Shape {
  static constexpr int kDk = kD_k, kDv = kD_v, kRows = kRows_, kTokens = kTokens_;
  static constexpr Tile kTile = {kDk, kDv, kRows, kTokens};
  static_assert(IsCompiled(kTile));

  // Scores: a warp's slices of d_k, the rows and the tokens. Steps of d_k are dealt out to the
  // slices in turn: those of a slice then lie in the same part of each 128 bytes.
  static constexpr int kDepthGroups = kTile.depth_groups(), kRowGroups = kTile.row_groups();
  static constexpr int kSteps = kDk / 16 / kDepthGroups;  // of 16 elements of d_k
  static constexpr int kWarpRows = kRows / kRowGroups;
  static constexpr int kWarpTokens = kTokens / kTile.token_groups();
  static constexpr int kScoreTiles = kWarpRows / 16;
  static_assert(kDk % (16 * kDepthGroups) == 0 && kWarpTokens % 8 == 0);

  // Output: all rows, and a warp's columns of d_v.
  static constexpr int kOutTiles = kRows / 16;
  static constexpr int kWarpColumns = kDv / kWarps;
  static constexpr int kColumnTiles = kWarpColumns / 8;
  static_assert(kWarpColumns % 16 == 0);

  // Of a cached token.
  static constexpr int kElementBytes = 2;
  static constexpr int kTokenBytes = kDk * kElementBytes;

  static constexpr int kKeyPitch = kTile.key_pitch_bytes();
  static constexpr int kProbPitch = kTile.prob_pitch_bytes();
  static constexpr int kStageBytes = static_cast<int>(kTile.stage_bytes());
  static constexpr int kFactorBytes = static_cast<int>(kTile.factor_bytes());
  static constexpr int kProbBytes = static_cast<int>(kTile.prob_bytes());
  static constexpr int kScoreBytes = static_cast<int>(kTile.score_bytes());
  static constexpr int kBlocksPerSm = kTile.blocks_per_sm();

  // Where in row `row` of a stage 16 bytes are kept, and, from the address of some, that of others
  // `bytes` further on in the row. (What is below 128 of these must not carry.)
  static __device__ __forceinline__ int KeyOffset(int row, int byte) { return byte ^ row % 8 * 16; }
  static __device__ __forceinline__ uint32_t Further(uint32_t address, int bytes) {
    return (address ^ bytes % 128) + bytes / 128 * 128;
  }
  // Where in its row of scores a column is kept: exchanged so that 8 columns of 4 rows, which half
  // a warp writes together, lie in different banks. Columns 0-7, 8-15, ... stay together.
  static __device__ __forceinline__ int ScoreColumn(int row, int column) {
    return column ^ (kTokens == 32 ? row % 4 * 8 : row / 2 % 2 * 8);
  }
  // Where a column of a row of P is kept, in bytes.
  static __device__ __forceinline__ int ProbOffset(int row, int column) {
    return row * kProbPitch + column * 2;
  }
};

template <typename S>
struct WarpLane {
  int warp, lane;

  __device__ WarpLane() {
    warp = static_cast<int>(threadIdx.x / kWarp);
    lane = static_cast<int>(threadIdx.x % kWarp);
  }
};

// Warps of one slice of the tokens follow one another, so that the ones which read the same keys
// of different slices of d_k run at the same time.
template <typename S>
struct ScoreSlice {
  int rows, tokens;  // first row, first token
  int depth_group;

  __device__ ScoreSlice() {
    const int warp = WarpLane<S>().warp;
    depth_group = warp % S::kDepthGroups;
    rows = warp / S::kDepthGroups % S::kRowGroups * S::kWarpRows;
    tokens = warp / (S::kDepthGroups * S::kRowGroups) * S::kWarpTokens;
  }
  // Elements of d_k from the slice's first to those of its step `step`.
  static constexpr int Depth(int step) { return step * S::kDepthGroups * 16; }
};

// A warp's slice of Q as fragments of MultiplyAdd's a. Rows past the end are zeros.
template <typename S>
struct QueryFragments {
  uint32_t a[S::kScoreTiles][S::kSteps][4];

  __device__ __forceinline__ void Load(const MlaDecodeParams& params, int32_t seq,
                                       int32_t first_row) {
    const ScoreSlice<S> slice;
    const int lane = WarpLane<S>().lane;
#pragma unroll
    for (int half = 0; half < 2 * S::kScoreTiles; ++half) {
      const int32_t row = first_row + slice.rows + half * 8 + lane / 4;
      const int32_t token = row / params.heads, head = row - token * params.heads;
      const bool real = token < params.s_q;
      const auto* q = static_cast<const uint16_t*>(params.q) + seq * params.q_stride_seq +
                      token * params.q_stride_token + head * params.q_stride_head +
                      slice.depth_group * 16 + lane % 4 * 2;
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        uint32_t(&fragment)[4] = a[half / 2][step];
        const uint16_t* from = q + ScoreSlice<S>::Depth(step);
        fragment[half % 2] = real ? *reinterpret_cast<const uint32_t*>(from) : 0;
        fragment[half % 2 + 2] = real ? *reinterpret_cast<const uint32_t*>(from + 8) : 0;
      }
    }
  }
};

__device__ __forceinline__ void LoadKeys(uint32_t (&b)[4], uint32_t from) {
  LoadMatrices4(b, from);
}
__device__ __forceinline__ void LoadKeys(uint32_t (&b)[2], uint32_t from) {
  LoadMatrices2(b, from);
}

// The sums of a warp's tokens from the chunk's first on, of all its rows.
template <typename S, int kTiles>
__device__ __forceinline__ void StoreScores(const float (&sums)[S::kScoreTiles][kTiles][4],
                                            int chunk, float* scores) {
  const ScoreSlice<S> slice;
  const int lane = WarpLane<S>().lane;
  const int row = slice.rows + lane / 4;
  float* to = scores + (slice.depth_group * S::kRows + row) * S::kTokens + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    float* column = to + S::ScoreColumn(row, slice.tokens + chunk + n * 8);
#pragma unroll
    for (int m = 0; m < S::kScoreTiles; ++m) {
      const float(&sum)[4] = sums[m][n];
      float* at = column + m * 16 * S::kTokens;
      *reinterpret_cast<float2*>(at) = {sum[0], sum[1]};
      *reinterpret_cast<float2*>(at + 8 * S::kTokens) = {sum[2], sum[3]};
    }
  }
}

// scores[depth_group][row][token] = the products over this warp's slice of d_k, of its rows and
// tokens of the stage.
template <typename S, typename T>
__device__ __forceinline__ void MultiplyKeys(const QueryFragments<S>& q, uint32_t stage,
                                             float* scores) {
  // Tokens at a time: at most 16, but 8 where the compiler would spill registers.
  constexpr int kMaxChunk = S::kRows == 64 && S::kTokens == 16 ? 8 : 16;
  constexpr int kChunk = S::kWarpTokens < kMaxChunk ? S::kWarpTokens : kMaxChunk;
  constexpr int kTiles = kChunk / 8;
  // Two sums for one where there are few: an instruction waits for the one before it.
  constexpr int kChains = S::kRows < 64 && S::kScoreTiles * kTiles <= 2 ? 2 : 1;
  const ScoreSlice<S> slice;
  const int lane = WarpLane<S>().lane;
  // 16 tokens are 2 x 2 matrices, 8 tokens by 8 elements of d_k, elements first; 8 tokens are two.
  const uint32_t keys = stage + (slice.tokens + lane / 16 % kTiles * 8 + lane % 8) * S::kKeyPitch +
                        S::KeyOffset(lane, slice.depth_group * 32 + lane / 8 % 2 * 16);
#pragma unroll
  for (int chunk = 0; chunk < S::kWarpTokens; chunk += kChunk) {
    const uint32_t from = keys + chunk * S::kKeyPitch;
    float sums[kChains][S::kScoreTiles][kTiles][4] = {};
    uint32_t b[2][kTiles * 2];  // of this step and of the next
    const auto load = [&](int step) {
      constexpr int kBytes = 2;
      LoadKeys(b[step % 2], S::Further(from, ScoreSlice<S>::Depth(step) * kBytes));
    };
    load(0);
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      if (step + 1 < S::kSteps) load(step + 1);
#pragma unroll
      for (int m = 0; m < S::kScoreTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          MultiplyAdd<T>(sums[step % kChains][m][n], q.a[m][step], b[step % 2][2 * n],
                         b[step % 2][2 * n + 1]);
        }
      }
    }
    if constexpr (kChains == 2) {
#pragma unroll
      for (int m = 0; m < S::kScoreTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[0][m][n][i] += sums[1][m][n][i];
        }
      }
    }
    StoreScores<S>(sums[0], chunk, scores);
  }
}

// The output of all rows in a warp's columns, as fragments of MultiplyAdd's d.
template <typename S>
struct OutputFragments {
  float d[S::kOutTiles][S::kColumnTiles][4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (auto& tile : d) {
#pragma unroll
      for (auto& column : tile) {
#pragma unroll
        for (float& x : column) x = 0;
      }
    }
  }

  // Multiplies each row by its factor.
  __device__ __forceinline__ void Scale(const float* factors) {
    const int lane = WarpLane<S>().lane;
#pragma unroll
    for (int m = 0; m < S::kOutTiles; ++m) {
      const float by[2] = {factors[m * 16 + lane / 4], factors[m * 16 + 8 + lane / 4]};
#pragma unroll
      for (int n = 0; n < S::kColumnTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) d[m][n][i] *= by[i / 2];
      }
    }
  }

  // Adds P * V, V the first d_v elements of the stage's tokens.
  template <typename T>
  __device__ __forceinline__ void MultiplyValues(uint32_t probs, uint32_t stage) {
    const auto [warp, lane] = WarpLane<S>();
    const uint32_t p = probs + lane % 16 * S::kProbPitch + lane / 16 * 16;
    const uint32_t v = stage + lane % 16 * S::kKeyPitch +
                       S::KeyOffset(lane, warp * S::kWarpColumns * 2 + lane / 16 * 16);
#pragma unroll
    for (int k = 0; k < S::kTokens; k += 16) {
      uint32_t a[S::kOutTiles][4];
#pragma unroll
      for (int m = 0; m < S::kOutTiles; ++m) {
        LoadMatrices4(a[m], p + m * 16 * S::kProbPitch + k * 2);
      }
#pragma unroll
      for (int n = 0; n < S::kColumnTiles; n += 2) {
        uint32_t b[4];
        LoadMatrices4Transposed(b, S::Further(v, n * 16) + k * S::kKeyPitch);
#pragma unroll
        for (int m = 0; m < S::kOutTiles; ++m) {
          MultiplyAdd<T>(d[m][n], a[m], b[0], b[1]);
          MultiplyAdd<T>(d[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }
};

}  // namespace mla::cuda::sm80

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM80_PRODUCTS_CUH_
