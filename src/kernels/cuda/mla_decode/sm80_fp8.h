// How the Ampere kernel over FP8 latents divides its work. A thread block holds a tile of query
// rows and walks the keys in tiles of cached tokens, which lie in shared memory as they do in the
// cache: the matrix instructions multiply the codes, turned into 16-bit numbers in registers, and
// the scales go into the scores and into P. For each tile there are two phases, each between two
// barriers:
//   - output += P * V of the first half of tile j, each warp 64 columns of d_v; and the scores of
//     tile j + 1, each warp a group of codes with a quarter of k_pe, and a slice of the tokens
//   - the softmax of tile j + 1 by half of the warps, while (from 9.0 on) the first of the others
//     asks for copies; and output += P * V of the second half of tile j
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_H_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_H_

#include <cstddef>

#include "kernels/cuda/mla_decode/sm80.h"
#include "mla/cuda.h"

namespace mla::cuda::sm80 {

// Stages: two tiles in use, and at least one under way.
inline constexpr int kFp8MinStages = 3;
inline constexpr int kFp8MaxStages = 4;

// The tile of a thread block. Sizes in bytes are of shared memory.
struct Fp8Tile {
  int rows;  // 16
  static constexpr int kTokens = 32;
  static constexpr int kGroups = kFp8LatentRank / kFp8LatentGroup;

  // Rows of P are an odd number of 16-byte units apart, so that the 8 rows which ldmatrix reads
  // together lie in different banks.
  static constexpr int prob_pitch_bytes() { return kTokens * 2 + 16; }

  // Rows' factors and P for each group, two of each, scores, scales, the stages, and a barrier for
  // each.
  constexpr size_t factor_bytes() const { return rows * sizeof(float); }
  constexpr size_t prob_bytes() const { return size_t(rows) * prob_pitch_bytes(); }
  constexpr size_t score_bytes() const { return kGroups * rows * kTokens * sizeof(float); }
  static constexpr size_t scale_bytes() { return kGroups * kTokens * sizeof(float); }
  static constexpr size_t stage_bytes() { return size_t{kTokens} * kFp8LatentBytes; }
  constexpr size_t shared_bytes(int stages) const {
    return 2 * (factor_bytes() + kGroups * prob_bytes()) + score_bytes() + scale_bytes() +
           stages * (stage_bytes() + 8);
  }

  // What the registers of the kernel are limited for: two blocks fill each other's pauses.
  constexpr int blocks_per_sm() const { return rows == 16 ? 2 : 1; }
};

struct Fp8Plan {
  Fp8Tile tile = {};
  int stages = 0;  // 0: the device has too little shared memory
  int blocks_per_sm = 1;
};

// The plan for a device with this shared memory, for one thread block at most and for one
// multiprocessor.
Fp8Plan MakeFp8Plan(size_t max_shared_bytes, size_t shared_bytes_per_sm);

}  // namespace mla::cuda::sm80

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_H_
