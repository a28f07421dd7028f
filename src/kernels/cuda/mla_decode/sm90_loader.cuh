// The loader warp of the Hopper kernel: queries and keys into the rings, by TMA.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_LOADER_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_LOADER_CUH_

#include <cstdint>

#include "kernels/cuda/mla_decode/sm90_layout.cuh"

namespace mla::cuda::sm90 {

template <typename S>
class Loader {
 public:
  __device__ __forceinline__ Loader(const MlaDecodeParams& params, const TensorMaps& maps,
                                    SharedMemory<S>& shared)
      : params_(params),
        maps_(maps),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % kWarp) {}

  __device__ __forceinline__ void Run() {
    const int end = params_.part_begin[blockIdx.y + 1];
    for (int i = params_.part_begin[blockIdx.y]; i < end; ++i) {
      const Work work = LoadWork(params_, i);
      if (work.empty()) continue;
      LoadQueries(work);
      boxes_known_ = false;
      for (int block = work.first; block < work.end; ++block) LoadKeys(work, block);
    }
  }

 private:
  // Lane t of a pair has its tile t. Waits for a free slot and announces what will come.
  __device__ __forceinline__ void OpenPair() {
    BarrierWait(SharedAddress(&shared_.pair_freed[pair_.slot]), pair_.parity ^ 1);
    barrier_ = SharedAddress(&shared_.pair_loaded[pair_.slot]);
    tile_ = SharedAddress(shared_.pairs[pair_.slot]) + lane_ * kTileBytes;
    if (lane_ == 0) BarrierArriveExpectBytes(barrier_, kPairBytes);
    pair_ = pair_.Plus(1);
  }
  __device__ __forceinline__ void OpenRest() {
    BarrierWait(SharedAddress(&shared_.rest_freed[block_.slot]), block_.parity ^ 1);
    barrier_ = SharedAddress(&shared_.rest_loaded[block_.slot]);
    tile_ = SharedAddress(shared_.rests[block_.slot]);
    if (S::kHasRest && lane_ == 0) BarrierArriveExpectBytes(barrier_, kTileBytes);
    block_ = block_.Plus(1);
  }

  __device__ __forceinline__ void LoadQueries(const Work& work) {
#pragma unroll 1
    for (int pair = 0; pair < S::kPairs; ++pair) {
      OpenPair();
      LoadQueryTile(work, 2 * pair + lane_, lane_ < 2);
    }
    OpenRest();
    LoadQueryTile(work, S::kValueTiles, S::kHasRest && lane_ == 0);
  }
  __device__ __forceinline__ void LoadKeys(const Work& work, int block) {
    FindBox(work, block * maps_.key_boxes);
#pragma unroll 1
    for (int pair = 0; pair < S::kPairs; ++pair) {
      OpenPair();
      LoadKeyTile(work, block, 2 * pair + lane_, lane_ < 2);
    }
    OpenRest();
    LoadKeyTile(work, block, S::kValueTiles, S::kHasRest && lane_ == 0);
  }

  // Rows past the last are outside of the tensor, and TMA writes zeros for them.
  __device__ __forceinline__ void LoadQueryTile(const Work& work, int tile, bool mine) {
#pragma unroll 1
    for (int row = 0; row < kRowTile; row += maps_.query_rows) {
      const int global = static_cast<int>(blockIdx.x) * kRowTile + row;
      const int outer = global / maps_.query_heads;
      if (mine) {
        TmaLoad4d(tile_ + row * kTileRowBytes, &maps_.queries, barrier_, tile * kTileColumns,
                  global - outer * maps_.query_heads, outer, work.seq);
      }
    }
  }

  __device__ __forceinline__ void LoadKeyTile(const Work& work, int block, int tile, bool mine) {
#pragma unroll 1
    for (int i = 0; i < maps_.key_boxes; ++i) {
      const int box = block * maps_.key_boxes + i;
      FindBox(work, box);
      const int page = __shfl_sync(~0u, page_, box - known_first_);
      const int row = __shfl_sync(~0u, row_, box - known_first_);
      if (mine) {
        TmaLoad3d(tile_ + i * maps_.key_rows * kTileRowBytes, &maps_.keys, barrier_,
                  tile * kTileColumns, row, page);
      }
    }
  }

  // Has the lanes know where the 32 boxes from `box` on lie, unless they know of this one. Boxes
  // past the last token lie outside of the tensor: the page table says nothing of them.
  __device__ __forceinline__ void FindBox(const Work& work, int box) {
    if (boxes_known_ && box >= known_first_ && box - known_first_ < kWarp) return;
    boxes_known_ = true;
    known_first_ = box;
    const int token = (box + lane_) * maps_.key_rows;
    const int index = token / params_.page_size;
    row_ = token - index * params_.page_size;
    page_ = params_.num_pages;
    if (token < work.kv_len) page_ = params_.page_table[work.seq * params_.page_table_stride + index];
  }

  const MlaDecodeParams& params_;
  const TensorMaps& maps_;
  SharedMemory<S>& shared_;
  const int lane_;
  PairPosition<S> pair_;
  BlockPosition<S> block_;
  uint32_t tile_ = 0, barrier_ = 0;  // what is being loaded
  bool boxes_known_ = false;
  int known_first_ = 0;  // box of lane 0
  int page_ = 0, row_ = 0;
};

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_LOADER_CUH_
