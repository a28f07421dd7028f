// The loader warp of the Hopper kernel: queries and keys into the rings, by TMA.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_LOADER_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_LOADER_CUH_

#include <cstdint>

#include "kernels/cuda/mla_decode/sm90_layout.cuh"

namespace mla::cuda::sm90 {

// Where the keys of a work item lie. A box is `box_tokens` tokens, all of one page; the lanes of
// the warp know 32 of them at a time, from a multiple of the boxes that are loaded together on.
class KeyBoxes {
 public:
  struct Box {
    int page, row;
  };

  __device__ __forceinline__ KeyBoxes(const MlaDecodeParams& params, int box_tokens)
      : params_(params), box_tokens_(box_tokens), lane_(static_cast<int>(threadIdx.x) % kWarp) {}

  __device__ __forceinline__ void BeginItem() { known_any_ = false; }

  __device__ __forceinline__ Box Find(const Work& work, int box) {
    Know(work, box);
    return At(box);
  }
  // Boxes past the last token lie outside of the tensor: the page table says nothing of them.
  __device__ __forceinline__ void Know(const Work& work, int box) {
    if (known_any_ && box >= first_ && box - first_ < kWarp) return;
    known_any_ = true;
    first_ = box;
    const int token = (box + lane_) * box_tokens_;
    const int index = token / params_.page_size;
    mine_.row = token - index * params_.page_size;
    mine_.page = params_.num_pages;
    if (token < work.kv_len) {
      mine_.page = params_.page_table[work.seq * params_.page_table_stride + index];
    }
  }
  // One of the known boxes, of each lane's own choice.
  __device__ __forceinline__ Box At(int box) const {
    return {__shfl_sync(~0u, mine_.page, box - first_), __shfl_sync(~0u, mine_.row, box - first_)};
  }

 private:
  const MlaDecodeParams& params_;
  const int box_tokens_;
  const int lane_;
  bool known_any_ = false;
  int first_ = 0;  // of lane 0
  Box mine_ = {0, 0};
};

// A tile of the queries, by one thread. Rows past the last are outside of the tensor, and TMA
// writes zeros for them.
__device__ __forceinline__ void LoadQueryTile(const TensorMaps& maps, int seq, int tile,
                                              uint32_t shared, uint32_t barrier) {
#pragma unroll 1
  for (int row = 0; row < kRowTile; row += maps.query_rows) {
    const int global = static_cast<int>(blockIdx.x) * kRowTile + row;
    // Most often there is one axis of rows: a division would hold the first loads up.
    const int outer = global < maps.query_heads ? 0 : global / maps.query_heads;
    TmaLoad4d(shared + row * kTileRowBytes, &maps.queries, barrier, tile * kTileColumns,
              global - outer * maps.query_heads, outer, seq);
  }
}

template <typename S>
class Loader {
 public:
  __device__ __forceinline__ Loader(const MlaDecodeParams& params, const TensorMaps& maps,
                                    SharedMemory<S>& shared)
      : params_(params),
        maps_(maps),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % kWarp),
        boxes_(params, maps.key_rows) {}

  __device__ __forceinline__ void Run() {
    // Everything waits for this: the first item is read together with its place.
    Work work = LoadWork(params_.first_items[blockIdx.y]);
    const int begin = params_.part_begin[blockIdx.y];
    const int end = params_.part_begin[blockIdx.y + 1];
    for (int i = begin; i < end; ++i) {
      if (i > begin) work = LoadWork(params_, i);
      if (work.empty()) continue;
      boxes_.BeginItem();
      boxes_.Know(work, work.first * maps_.key_boxes);  // while the queries are asked for
      LoadQueries(work);
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
    LoadTiles([&](int tile, bool mine) {
      if (mine) LoadQueryTile(maps_, work.seq, tile, tile_, barrier_);
    });
  }
  __device__ __forceinline__ void LoadKeys(const Work& work, int block) {
    if (maps_.key_boxes == 1) {
      const KeyBoxes::Box box = boxes_.Find(work, block);
      LoadTiles([&](int tile, bool mine) {
        if (mine) LoadBox(box, 0, tile);
      });
    } else {
      LoadTiles([&](int tile, bool mine) {
#pragma unroll 1
        for (int i = 0; i < maps_.key_boxes; ++i) {
          const KeyBoxes::Box box = boxes_.Find(work, block * maps_.key_boxes + i);
          if (mine) LoadBox(box, i, tile);
        }
      });
    }
  }

  // Box `i` of the block in the slot that has been opened.
  __device__ __forceinline__ void LoadBox(const KeyBoxes::Box& box, int i, int tile) {
    TmaLoad3d(tile_ + i * maps_.key_rows * kTileRowBytes, &maps_.keys, barrier_,
              tile * kTileColumns, box.row, box.page);
  }

  const MlaDecodeParams& params_;
  const TensorMaps& maps_;
  SharedMemory<S>& shared_;
  const int lane_;
  PairPosition<S> pair_;
  BlockPosition<S> block_;
  uint32_t tile_ = 0, barrier_ = 0;  // what is being loaded
  KeyBoxes boxes_;
};

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_LOADER_CUH_
