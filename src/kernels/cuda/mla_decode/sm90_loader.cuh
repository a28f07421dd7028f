// The loader warps of the Hopper kernel: queries and keys into the rings, by TMA.
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

// What the kernel for bf16 and fp16 is given besides its parameters.
struct KeyTensorMaps : TensorMaps {
  // The values once more, [num_pages, d_v / 64, page_size, 64]: a box is a pair of tiles. For pages
  // of whole blocks.
  CUtensorMap key_pairs;
};

// One of the warps that load: pair number `warp` of the queries of each item and of each block, and
// the last warp the rest, too. A warp takes a while to ask for a pair, and all the longer until the
// first keys are there if one has to ask for all.
template <typename S>
class Loader {
 public:
  static constexpr int kWarps = S::kPairs;

  __device__ __forceinline__ Loader(const MlaDecodeParams& params, const KeyTensorMaps& maps,
                                    SharedMemory<S>& shared, int warp)
      : params_(params),
        maps_(maps),
        shared_(shared),
        pair_index_(warp),
        lane_(static_cast<int>(threadIdx.x) % kWarp),
        boxes_(params, maps.key_rows) {
    pair_ = pair_.Plus(warp);
  }

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
      LoadTiles([&](int tile, int count) {
        if (lane_ < count) LoadQueryTile(maps_, work.seq, tile + lane_, tile_, barrier_);
      });
      PairPosition<S> before = pair_;
      for (int block = work.first; block < work.end; ++block) {
        if (block > work.first) {
          WaitForArrival(before);
          before = before.Plus(S::kPairs);
        }
        LoadTiles([&](int tile, int count) { LoadKeys(work, block, tile, count); });
      }
    }
  }

 private:
  // A block is asked for when the one before it is there: half a block for each multiprocessor
  // keeps the memory busy, and what is asked for sooner holds up the first blocks of the others.
  // Waits until the pair there has arrived, or been used: by then its place may have been loaded
  // once more (but not twice, since the one after comes behind what this warp is about to load).
  __device__ __forceinline__ void WaitForArrival(const PairPosition<S>& pair) const {
    while (!BarrierTest(SharedAddress(&shared_.pair_loaded[pair.slot]), pair.parity) &&
           !BarrierTest(SharedAddress(&shared_.pair_freed[pair.slot]), pair.parity)) {
    }
  }
  // Lane t of a pair has its tile t. Waits for a free slot and announces what will come.
  __device__ __forceinline__ void OpenPair() {
    BarrierWait(SharedAddress(&shared_.pair_freed[pair_.slot]), pair_.parity ^ 1);
    barrier_ = SharedAddress(&shared_.pair_loaded[pair_.slot]);
    tile_ = SharedAddress(shared_.pairs[pair_.slot]) + lane_ * kTileBytes;
    if (lane_ == 0) BarrierArriveExpectBytes(barrier_, kPairBytes);
    pair_ = pair_.Plus(S::kPairs);
  }
  __device__ __forceinline__ void OpenRest() {
    BarrierWait(SharedAddress(&shared_.rest_freed[block_.slot]), block_.parity ^ 1);
    barrier_ = SharedAddress(&shared_.rest_loaded[block_.slot]);
    tile_ = SharedAddress(shared_.rests[block_.slot]);
    if (S::kHasRest && lane_ == 0) BarrierArriveExpectBytes(barrier_, kTileBytes);
    block_ = block_.Plus(1);
  }

  // Calls load(first tile, number of tiles) for what this warp loads of the next queries or keys,
  // in the order in which it is used.
  template <typename Load>
  __device__ __forceinline__ void LoadTiles(Load&& load) {
    if (pair_index_ == S::kPairs - 1) {
      OpenRest();
      if (S::kHasRest) load(S::kValueTiles, 1);
    }
    OpenPair();
    load(2 * pair_index_, 2);
  }
  __device__ __forceinline__ void LoadKeys(const Work& work, int block, int tile, int count) {
    if (maps_.key_boxes == 1) {
      const KeyBoxes::Box box = boxes_.Find(work, block);
      if (lane_ != 0) return;
      if (count == 2) {
        TmaLoad4d(tile_, &maps_.key_pairs, barrier_, 0, box.row, tile, box.page);
      } else {
        TmaLoad3d(tile_, &maps_.keys, barrier_, tile * kTileColumns, box.row, box.page);
      }
      return;
    }
#pragma unroll 1
    for (int i = 0; i < maps_.key_boxes; ++i) {
      const KeyBoxes::Box box = boxes_.Find(work, block * maps_.key_boxes + i);
      if (lane_ >= count) continue;
      TmaLoad3d(tile_ + i * maps_.key_rows * kTileRowBytes, &maps_.keys, barrier_,
                (tile + lane_) * kTileColumns, box.row, box.page);
    }
  }

  const MlaDecodeParams& params_;
  const KeyTensorMaps& maps_;
  SharedMemory<S>& shared_;
  const int pair_index_, lane_;
  PairPosition<S> pair_;
  BlockPosition<S> block_;
  uint32_t tile_ = 0, barrier_ = 0;  // what is being loaded
  KeyBoxes boxes_;
};

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_LOADER_CUH_
