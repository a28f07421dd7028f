// How the Ampere kernel of mla_decode divides its work, and what it needs for that. A thread block
// holds a tile of query rows and walks the keys in tiles that a ring of stages in shared memory
// receives. Three tiles are worked on at a time, between one barrier and the next:
//   - scores of tile j + 2: Q in registers, each warp its slice of d_k, of the rows and of the
//     tile's tokens; the slices of d_k go to shared memory apart
//   - softmax of tile j + 1: they are added up, and P and the rows' rescaling are written
//   - output += P * V of tile j: each warp its columns of d_v
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_H_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/mla_decode/params.h"
#include "mla/tensor.h"

namespace mla::cuda::sm80 {

inline constexpr int kWarp = 32;
inline constexpr int kWarps = 8;
inline constexpr int kThreads = kWarps * kWarp;

// Stages: three tiles in use, and at least one under way.
inline constexpr int kMinStages = 4;
inline constexpr int kMaxStages = 8;

// Shared memory that the device takes for itself of every thread block.
inline constexpr size_t kReservedSharedBytes = 1024;

// Whether every row of a tensor, innermost stride 1, begins at a multiple of `bytes`.
bool RowsAligned(const ConstTensor& tensor, size_t bytes);

// Whether the kernels can count from one page, and token, of the cache to the next: in units of 16
// bytes, and 32 bits.
bool StridesFit(const ConstTensor& cache);

// The tile of a thread block. Sizes in bytes are of shared memory.
struct Tile {
  int d_k, d_v;
  int rows;    // 16, 32 or 64
  int tokens;  // 16 or 32

  // Warps are shared out over slices of d_k, slices of the rows, and slices of the tokens.
  constexpr int depth_groups() const { return d_k / 16 % 4 == 0 ? 4 : 2; }
  constexpr int row_groups() const { return rows == 64 ? 2 : 1; }
  constexpr int token_groups() const { return kWarps / (depth_groups() * row_groups()); }

  // Each 128 bytes of row r of the keys have their 16-byte units exchanged, unit u with u ^ r % 8:
  // the 8 rows which ldmatrix reads together lie in different banks, and what is copied of a row
  // fills all of them.
  constexpr int key_pitch_bytes() const { return (d_k * 2 + 127) / 128 * 128; }
  constexpr int prob_pitch_bytes() const { return tokens * 2 + 16; }
  // Shared memory: rows' factors, P and scores, two of each, and the stages.
  constexpr size_t factor_bytes() const { return rows * sizeof(float); }
  constexpr size_t prob_bytes() const { return size_t(rows) * prob_pitch_bytes(); }
  constexpr size_t score_bytes() const {
    return size_t(depth_groups()) * rows * tokens * sizeof(float);
  }
  constexpr size_t stage_bytes() const { return size_t(tokens) * key_pitch_bytes(); }
  constexpr size_t shared_bytes(int stages) const {
    return 2 * (factor_bytes() + prob_bytes() + score_bytes()) + stages * stage_bytes();
  }

  // 64 rows take long enough for one tile under way; a constant saves them registers.
  constexpr int max_stages() const { return rows == 64 ? kMinStages : kMaxStages; }

  // What the registers of the kernel are limited for.
  constexpr int blocks_per_sm() const { return rows == 16 && (tokens == 16 || d_v == 256) ? 2 : 1; }
};

// Whether a kernel for this tile is compiled.
constexpr bool IsCompiled(const Tile& tile) {
  const bool dims = (tile.d_k == 576 && tile.d_v == 512) || (tile.d_k == 512 && tile.d_v == 512) ||
                    (tile.d_k == 320 && tile.d_v == 256) || (tile.d_k == 288 && tile.d_v == 256);
  const bool rows = tile.rows == 16 || tile.rows == 32 || tile.rows == 64;
  // A warp's slice of the tokens is at least the 8 of a matrix instruction.
  const bool tokens = tile.tokens == 32 || (tile.tokens == 16 && tile.token_groups() <= 2);
  return dims && rows && tokens;
}

struct Plan {
  Tile tile = {};
  int stages = 0;  // 0: the device has too little shared memory
  int blocks_per_sm = 1;
};

// The plan for `num_rows` query rows per sequence on a device with this shared memory, for one
// thread block at most and for one multiprocessor.
Plan MakePlan(int d_k, int d_v, int64_t num_rows, size_t max_shared_bytes,
              size_t shared_bytes_per_sm);

// Enqueues the kernel. The plan's tile is a compiled one.
cudaError_t Launch(const MlaDecodeParams& params, const Plan& plan, DType dtype,
                   cudaStream_t stream);

// The same for one pair of (d_k, d_v): each has its own source file.
using LaunchFunction = cudaError_t(const MlaDecodeParams& params, const Plan& plan, DType dtype,
                                   cudaStream_t stream);
LaunchFunction Launch576, Launch512, Launch320, Launch288;

}  // namespace mla::cuda::sm80

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM80_H_
