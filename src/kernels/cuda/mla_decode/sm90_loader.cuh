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

  // Calls load(first tile + lane, whether this lane has it) for what is to be loaded next, in the
  // order in which it is used.
  template <typename Load>
  __device__ __forceinline__ void LoadTiles(Load&& load) {
#pragma unroll 1
    for (int pair = 0; pair < S::kPairs; ++pair) {
      if (pair == S::kPairs - 1) {
        OpenRest();
        load(S::kValueTiles, S::kHasRest && lane_ == 0);
      }
      OpenPair();
      load(2 * pair + lane_, lane_ < 2);
    }
  }
  __device__ __forceinline__ void LoadQueries(const Work& work) {
    LoadTiles([&](int tile, bool mine) { LoadQueryTile(work, tile, mine); });
  }
  __device__ __forceinline__ void LoadKeys(const Work& work, int block) {
    if (maps_.key_boxes == 1) {
      const Box box = FindBox(work, block);
      LoadTiles([&](int tile, bool mine) {
        if (mine) LoadBox(box, 0, tile);
      });
    } else {
      LoadTiles([&](int tile, bool mine) {
#pragma unroll 1
        for (int i = 0; i < maps_.key_boxes; ++i) {
          const Box box = FindBox(work, block * maps_.key_boxes + i);
          if (mine) LoadBox(box, i, tile);
        }
      });
    }
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

  struct Box {
    int page, row;
  };
  // Box `i` of the block in the slot that has been opened.
  __device__ __forceinline__ void LoadBox(const Box& box, int i, int tile) {
    TmaLoad3d(tile_ + i * maps_.key_rows * kTileRowBytes, &maps_.keys, barrier_,
              tile * kTileColumns, box.row, box.page);
  }

  // The lanes know where 32 boxes lie. Boxes past the last token lie outside of the tensor: the
  // page table says nothing of them.
  __device__ __forceinline__ Box FindBox(const Work& work, int box) {
    if (!boxes_known_ || box < known_first_ || box - known_first_ >= kWarp) {
      boxes_known_ = true;
      known_first_ = box;
      const int token = (box + lane_) * maps_.key_rows;
      const int index = token / params_.page_size;
      known_.row = token - index * params_.page_size;
      known_.page = params_.num_pages;
      if (token < work.kv_len) {
        known_.page = params_.page_table[work.seq * params_.page_table_stride + index];
      }
    }
    return {__shfl_sync(~0u, known_.page, box - known_first_),
            __shfl_sync(~0u, known_.row, box - known_first_)};
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
  Box known_ = {0, 0};
};

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_LOADER_CUH_
