// How the Hopper kernel of mla_decode over FP8 latents divides a thread block and its shared
// memory.
//
// The cached rows lie in shared memory as they do in the cache, and the products are transposed:
// tokens are the rows of the scores and columns of codes those of the output, so that the codes are
// the operand that wgmma takes from registers, where they become 16-bit numbers. Query rows are the
// columns, 16, 32 or 64 of them, and nothing is padded to 64. A block has four warpgroups:
//   loader  its first warp copies rows to a ring, in units of 32 tokens, ahead of the others; its
//           second makes of their scales what the others multiply by; its third watches for the
//           merging (sm90_merge.cuh)
//   scores  S^T = K Q^T of a tile of 64 tokens, softmax, P to shared memory
//   values  two of them, each with half of the output's columns in registers: O^T += V^T P
// Scales go to the codes as these are converted, in fp16 for the scores and with one rounding to
// bf16 for the values: exact where they are powers of two.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_LAYOUT_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_LAYOUT_CUH_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/mla_decode/params.h"
#include "kernels/cuda/mla_decode/sm90_layout.cuh"
#include "kernels/cuda/ptx_sm90.cuh"
#include "mla/cuda.h"

namespace mla::cuda::sm90::direct {

// Registers per thread of the warpgroups: with more than there are in all, they wait for ever.
inline constexpr int kFp8LoaderRegisters = 32;
inline constexpr int kFp8ScoreRegisters = 144;
inline constexpr int kFp8ValueRegisters = 168;
static_assert(kFp8LoaderRegisters + kFp8ScoreRegisters + 2 * kFp8ValueRegisters <= 512);

// Values times scales are this many powers of two below what they stand for: codes are 120 below
// when they have become bf16, and scales are raised by the rest. Scales may be up to 2^39.
inline constexpr int kFp8ValuesBelow = 32;

// Compiled to merge, the kernel for more rows is 10 % slower all along.
inline constexpr int kMostMergedRows = 32;

template <int kQueryRows, typename QueryType>
struct Fp8Shape {
  using T = QueryType;  // of q and out
  static constexpr int kRows = kQueryRows;
  static constexpr int kTokens = kBlockTokens;
  static constexpr int kGroups = kFp8LatentRank / kFp8LatentGroup;
  static constexpr int kScalesAt = kFp8LatentRank;
  static constexpr int kRopeAt = kScalesAt + kGroups * static_cast<int>(sizeof(float));
  static constexpr int kPitch = kFp8LatentBytes;
  // q_pe of fp16 is two terms of bf16.
  static constexpr int kRopeTerms = std::is_same_v<T, __half> ? 2 : 1;
  static constexpr int kRopeTile = kFp8LatentRank / kTileColumns;
  static constexpr int kQueryTiles = kRopeTile + kRopeTerms;
  static constexpr int kQueryTileBytes = kRows * kTileRowBytes;
  static constexpr int kAccumulators = kRows / 2;  // of a thread and 64 rows
  static constexpr int kUnitTokens = 32;           // of the ring
  static constexpr int kUnits = kRows == 64 ? (kRopeTerms == 2 ? 5 : 6) : kRows == 32 ? 8 : 9;
  static constexpr int kUnitBytes = kUnitTokens * kPitch;
  static constexpr int kTiles = 2;  // whose P is kept
  // Whether the softmax of a tile is made while the next is multiplied: registers.
  static constexpr bool kSoftenLater = kRows < 64;
  static constexpr bool kMerges = kRows <= kMostMergedRows;
  static_assert(kPitch % 128 == 16);
};

// Where a row of the block's tile lies, in elements from the beginning of its sequence.
struct Fp8Row {
  int64_t q, out, lse;
  int32_t query;  // its token
  int32_t real;   // 0: past the last row
};

// Of two neighbouring query rows: scores in powers of two are score * by - base.
struct alignas(16) Fp8Columns {
  float by[2];
  float minus_base[2];
};

// Of four tokens and a group, as the sum of two numbers: that of their products with a code is
// rounded once.
struct alignas(16) Fp8ValueScales {
  __nv_bfloat16 high[4], low[4];
};

// What keys of a token and their sums are multiplied by. `raised` is 2^7 / unit with a power of two
// `unit` not below its scales, and codes have their scale / unit besides: they then end just below
// the largest numbers of fp16.
struct alignas(16) Fp8KeyScales {
  __half ratios[kFp8LatentRank / kFp8LatentGroup];
  __nv_bfloat162 raised;  // twice the same
  float down;             // unit / 2^7
};

template <typename S>
struct Fp8SharedMemory {
  // [8-row groups of S::kRows rows, 128 bytes]: the swizzled tiles of wgmma, K-major.
  uint8_t queries[S::kQueryTiles][S::kQueryTileBytes];
  uint8_t probs[S::kTiles][S::kQueryTileBytes];  // [rows, tokens]
  uint8_t units[S::kUnits][S::kUnitBytes];
  // Of values: [half, 16 tokens, group % 2, lane % 4].
  Fp8ValueScales value_scales[S::kUnits][2][S::kUnitTokens / 16][2][4];
  Fp8KeyScales key_scales[S::kUnits][S::kUnitTokens];
  Fp8Columns columns[S::kRows / 2];
  float factors[S::kTiles][S::kRows];  // of the output so far, if `rescale`
  float inverse[S::kTiles][S::kRows];  // 1 / sum of P, with the last tile of an item
  float partial[4][S::kRows];          // of the warps
  uint32_t rescale[S::kTiles];
  Fp8Row rows[S::kRows];
  uint64_t unit_loaded[S::kUnits];
  uint64_t unit_scaled[S::kUnits];  // it is loaded, and its scales are there
  uint64_t unit_freed[S::kUnits];
  uint64_t softmaxed[S::kTiles];  // P and what goes with it is there
  uint64_t tile_freed[S::kTiles];
  MergeShared merge;
};

// Two numbers of T times two.
template <typename T>
__device__ __forceinline__ uint32_t MultiplyPairs(uint32_t a, uint32_t b) {
  uint32_t d;
  if constexpr (std::is_same_v<T, __half>) {
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  } else {
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  }
  return d;
}

// The tokens of 16 neighbouring ones, in the order in which the products have them: those of a
// quarter of a warp that loads 16 bytes per lane, four neighbours of two tokens, lie in all banks.
__device__ __forceinline__ int Fp8Token(int place) {
  return (place & 8) | (place & 1) << 2 | (place & 6) >> 1;
}

// The inverse of that.
__device__ __forceinline__ int Fp8Place(int token) {
  return (token & 8) | (token & 3) << 1 | (token & 4) >> 2;
}

}  // namespace mla::cuda::sm90::direct

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_LAYOUT_CUH_
