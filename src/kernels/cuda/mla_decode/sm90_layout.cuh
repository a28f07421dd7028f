// How the Hopper kernel of mla_decode divides a thread block and its shared memory.
//
// A thread block holds 64 query rows and has four warpgroups:
//   loader  fills rings in shared memory by TMA, ahead of the others: for each work item the
//           queries, then one block of 64 keys after another; each warp a pair of tiles of it
//   scores  S = Q K^T with most of Q in registers for the whole item, softmax, P to shared memory
//   values  two of them, each with half of the output's columns in registers: O += P V
// P V of block j waits until the scores of block j + 1 have been computed, and then covers their
// softmax: the tensor cores have one of the two products to do while the other's operands are made.
// Q in registers leaves shared memory to nearly three blocks of keys (for scores, for values, and
// under way), and is not read again for every block.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_LAYOUT_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_LAYOUT_CUH_

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/mla_decode/params.h"
#include "kernels/cuda/ptx_sm90.cuh"

namespace mla::cuda::sm90 {

inline constexpr int kRowTile = 64;
inline constexpr int kTileColumns = 64;
inline constexpr int kWarp = 32;
inline constexpr int kWarpgroup = 128;
inline constexpr int kThreads = 4 * kWarpgroup;

// Registers per thread of the warpgroups, 512 in all. The compiler puts accumulators and operands
// of wgmma after its first 24, and keeps 2 more: the values have 128, the scores 32 and 96 of Q.
inline constexpr int kLoaderRegisters = 32;
inline constexpr int kScoreRegisters = 160;
inline constexpr int kValueRegisters = 160;

// The keys of a block, and likewise the queries of an item, are tiles of 64 rows and 64 columns.
// Those with the columns of d_v come in pairs, and there is one tile for the rest: for the columns
// past d_v, if there are any, and for the probabilities once the block's scores have been computed.
template <int kKeyDim, int kValueDim>
struct Shape {
  static constexpr int kDk = kKeyDim, kDv = kValueDim;
  static constexpr int kSteps = kDk / 16;  // of wgmma's inner dimension in Q K^T
  static constexpr int kValueTiles = kDv / kTileColumns;
  static constexpr int kPairs = kValueTiles / 2;
  static constexpr bool kHasRest = kDk > kDv;
  // Of Q: those steps that registers have room for, and the tiles that have to stay in shared
  // memory.
  static constexpr int kRegisterSteps = kSteps < 24 ? kSteps : 24;
  static constexpr int kSharedQueryTiles = (kSteps - kRegisterSteps + 3) / 4;
  // The lengths of the rings.
  static constexpr int kPairSlots = kDv == 512 ? 11 : 10;
  static constexpr int kProducers = 1;  // warps that fill a slot
  // Whether keys are written by threads rather than by TMA. The scores then put the fence before
  // their products, and P V does not wait for the scores of the next block, whose keys are made
  // only as P V frees their places.
  static constexpr bool kConverted = false;
  static constexpr int kBlockSlots = kDv == 512 ? 3 : 5;
  // A values thread has 64 accumulators for each pair of tiles.
  static constexpr int kValuePairs = kPairs / 2;
  static_assert(kDk % 16 == 0 && kDv % 256 == 0 && kDk <= kDv + kTileColumns);
};

inline constexpr int kPairBytes = 2 * kTileBytes;

// What a part merges of a split sequence: a share of the tile's rows, in words of four columns,
// from `first` to `end`.
struct MergeShare {
  int32_t seq, first_slot, slots;
  int32_t first, end;
  int32_t log_groups;  // of threads that share the splits of a word
};
inline constexpr int kMostMerges = 2;  // that a part has results for
inline constexpr int kMergeThreads = 2 * kWarpgroup, kMostLogGroups = 4;

struct MergeShared {
  uint32_t call;         // the number of this call of all with its schedule
  uint32_t all_started;  // whether all thread blocks of the grid have begun
  uint32_t ending;       // nobody asks any more
  // A part's first item may be the end of a split sequence, its last the beginning of another.
  WorkItem items[kMostMerges];
  MergeShare shares[kMostMerges];
};

// Named barriers that warpgroups share: scores, values and a warp of the loader's warpgroup when a
// part's results have been stored; and the values when they merge.
inline constexpr int kPartEndBarrier = 4, kMergeBarrier = 5;
inline constexpr int kPartEndThreads = 3 * kWarpgroup + kWarp;

template <typename S>
struct SharedMemory {
  uint8_t pairs[S::kPairSlots][kPairBytes];
  uint8_t rests[S::kBlockSlots][kTileBytes];
  uint8_t queries[S::kSharedQueryTiles == 0 ? 1024 : S::kSharedQueryTiles * kTileBytes];
  float rescale[S::kBlockSlots][kRowTile];  // of the output so far, before the block
  float inverse[S::kBlockSlots][kRowTile];  // 1 / sum of P, with the last block of an item
  // Barriers. Each completes one phase per use of its slot.
  uint64_t pair_loaded[S::kPairSlots];
  uint64_t pair_freed[S::kPairSlots];  // it can be loaded again
  uint64_t rest_loaded[S::kBlockSlots];
  uint64_t rest_freed[S::kBlockSlots];
  uint64_t softmaxed[S::kBlockSlots];  // P and rescale are there; or the queries have been taken
  uint64_t scored[S::kBlockSlots];     // Q K^T is complete
  uint64_t ahead[S::kBlockSlots];      // the first half of the values has multiplied one pair
  MergeShared merge;
};
inline constexpr size_t kSharedAlignment = 1024;  // of the swizzled tiles; the launch adds as much

// A place in a ring and the parity of the phase that its barriers are in.
template <int kSlots>
struct RingPosition {
  int slot = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ RingPosition Plus(int count) const {
    RingPosition next = *this;
    next.slot += count;
    if (next.slot >= kSlots) {
      next.slot -= kSlots;
      next.parity ^= 1;
    }
    return next;
  }
};
template <typename S>
using PairPosition = RingPosition<S::kPairSlots>;
template <typename S>
using BlockPosition = RingPosition<S::kBlockSlots>;

// Once per warp, after all its lanes.
__device__ __forceinline__ void WarpArrive(uint64_t& barrier, uint32_t count = 1) {
  __syncwarp();
  if (threadIdx.x % kWarp == 0) BarrierArrive(SharedAddress(&barrier), count);
}

// The tensor maps of a launch, and the boxes that they load at a time: `key_rows` tokens, which lie
// in one page, and `query_rows` rows, which have one stride.
struct TensorMaps {
  CUtensorMap keys;     // [num_pages, page_size, d_k]
  CUtensorMap queries;  // [num_seqs, s_q, heads, d_k], or [num_seqs, 1, s_q * heads, d_k]
  int32_t key_rows;
  int32_t key_boxes;  // of a block and one tile's columns
  int32_t query_rows;
  int32_t query_heads;  // rows per index of the second dimension
};

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two elements of the type in a register.
template <typename T>
__device__ __forceinline__ uint32_t Pack(float low, float high) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// What is needed of a work item.
struct Work {
  int32_t seq, slot;
  int32_t first, end;  // blocks
  int32_t kv_len;
  __device__ __forceinline__ bool empty() const { return first >= end; }
};

__device__ __forceinline__ Work LoadWork(const WorkItem& from) {
  const WorkItem item = from;
  return {item.seq, item.slot, item.first_block, item.end_block, item.kv_len};
}
__device__ __forceinline__ Work LoadWork(const MlaDecodeParams& params, int index) {
  return LoadWork(params.items[index]);
}

// Where the results of a row go: lse and the first column of the output.
__device__ __forceinline__ int64_t PartRow(const MlaDecodeParams& params, const Work& work,
                                           int row) {
  return int64_t{work.slot} * params.s_q * params.heads + row;
}

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_LAYOUT_CUH_
