// What thread blocks of the Ampere kernel read: work items, and the tiles of all items of a block,
// one after another.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_FEEDER_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_FEEDER_CUH_

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/mla_decode/params.h"
#include "kernels/cuda/mla_decode/sm80.h"
#include "kernels/cuda/ptx_sm80.cuh"

namespace mla::cuda::sm80 {

inline constexpr int kUnitBytes = 16;  // of a copy

// What a launch adds to the parameters of the call.
struct Launched {
  int32_t num_stages;
  int32_t tile_pages, tile_rest;     // a tile's tokens as pages and tokens
  uint32_t page_units, token_units;  // from one to the next, 16 bytes each
  bool packed = false;               // tokens of a page follow one another without a gap
};

template <typename S>
Launched MakeLaunched(const MlaDecodeParams& params, int num_stages) {
  const auto units = [](int64_t elements) {
    return static_cast<uint32_t>(elements * S::kElementBytes / kUnitBytes);
  };
  return {num_stages,
          S::kTokens / params.page_size,
          S::kTokens % params.page_size,
          units(params.cache_stride_page),
          units(params.cache_stride_token),
          params.cache_stride_token * S::kElementBytes == S::kTokenBytes};
}

// A work item as the rows of one tile see it.
struct ItemTokens {
  int32_t seq;
  int32_t kv_len;      // of the sequence
  int32_t begin, end;  // tokens that a row of the tile may see; begin == end if there are none
};

// Tokens that token i of the queries may see. At most kv_len; negative if there are none.
__device__ __forceinline__ int32_t VisibleTokens(const MlaDecodeParams& params, int32_t kv_len,
                                                 int32_t i) {
  return params.causal ? kv_len - params.s_q + i + 1 : kv_len;
}

// Item `index` of the schedule, for tile blockIdx.x of `tile_rows` rows.
__device__ __forceinline__ ItemTokens ReadItem(const MlaDecodeParams& params, int32_t index,
                                               int tile_rows) {
  const WorkItem item = params.items[index];
  const int64_t capacity = params.page_table_stride * params.page_size;
  const int64_t kv_len = min(max(int64_t{params.kv_lens[item.seq]}, int64_t{0}), capacity);
  const int32_t last_row = (static_cast<int32_t>(blockIdx.x) + 1) * tile_rows - 1;
  const int32_t last_query = min(last_row / params.heads, params.s_q - 1);
  ItemTokens tokens;
  tokens.seq = item.seq;
  tokens.kv_len = static_cast<int32_t>(kv_len);
  const int64_t begin = int64_t{item.first_block} * kBlockTokens;
  const int64_t end = min(int64_t{item.end_block} * kBlockTokens,
                          int64_t{VisibleTokens(params, tokens.kv_len, last_query)});
  tokens.begin = static_cast<int32_t>(begin);
  tokens.end = static_cast<int32_t>(max(begin, end));
  return tokens;
}

// Walks through the tiles of the block's items, in order. A thread has one token of every tile, and
// of that one of kLanes parts; threads past those have none.
template <typename S, int kLanes>
class TokenCursor {
 public:
  __device__ TokenCursor(const MlaDecodeParams& params, const Launched& launched)
      : params_(params), launched_(launched), next_item_(params.part_begin[blockIdx.y]) {
    if (my_token() >= S::kTokens) return;
    FindItem();
    FindPage();
  }

  static __device__ int my_token() { return static_cast<int>(threadIdx.x / kLanes); }
  static __device__ int lane() { return static_cast<int>(threadIdx.x % kLanes); }

  // Tokens of the item, from this tile on; 0 if there is no tile left.
  __device__ int32_t left() const { return left_; }
  // Whether this thread's token is one of the item.
  __device__ bool filled() const { return my_token() < left_; }
  // Where in its page that lies.
  __device__ int32_t in_page() const { return in_page_; }
  // This thread's token, if it is one.
  __device__ const char* Token() const {
    return static_cast<const char*>(params_.cache) +
           (uint64_t{static_cast<uint32_t>(page_)} * launched_.page_units +
            uint64_t{static_cast<uint32_t>(in_page_)} * launched_.token_units) *
               kUnitBytes;
  }

  // Moves to the next tile. Looks the page of this thread's token up, which nothing waits for
  // before Token.
  __device__ __forceinline__ void Advance() {
    left_ -= S::kTokens;
    if (left_ > 0) {
      page_entry_ += launched_.tile_pages;
      in_page_ += launched_.tile_rest;
      if (in_page_ >= params_.page_size) {
        in_page_ -= params_.page_size;
        ++page_entry_;
      }
    } else {
      FindItem();
    }
    FindPage();
  }

 private:
  // Moves to the next item that has tokens.
  __device__ void FindItem() {
    left_ = 0;
    while (left_ <= 0 && next_item_ < params_.part_begin[blockIdx.y + 1]) {
      const ItemTokens item = ReadItem(params_, next_item_++, S::kRows);
      const int32_t token = item.begin + my_token();
      const int32_t page = token / params_.page_size;
      page_entry_ = params_.page_table + item.seq * params_.page_table_stride + page;
      in_page_ = token - page * params_.page_size;
      left_ = item.end - item.begin;
      if (left_ > 0) PrefetchQueries(item.seq);
    }
  }

  // Brings the item's rows of q to L2 while the tiles before it are worked on: a read of memory
  // then would wait for all the copies that are under way.
  __device__ void PrefetchQueries(int32_t seq) const {
    constexpr int kLine = 128, kLines = (S::kDk * 2 + kLine - 1) / kLine;
    for (int i = static_cast<int>(threadIdx.x); i < S::kRows * kLines; i += S::kTokens * kLanes) {
      const int32_t row = static_cast<int32_t>(blockIdx.x) * S::kRows + i / kLines;
      const int32_t token = row / params_.heads, head = row - token * params_.heads;
      if (token >= params_.s_q) return;
      PrefetchL2(reinterpret_cast<const char*>(
                     static_cast<const uint16_t*>(params_.q) + seq * params_.q_stride_seq +
                     token * params_.q_stride_token + head * params_.q_stride_head) +
                 i % kLines * kLine);
    }
  }

  __device__ void FindPage() {
    if (filled()) page_ = *page_entry_;
  }

  const MlaDecodeParams& params_;
  const Launched& launched_;
  int32_t next_item_;
  int32_t left_ = 0;
  const int32_t* page_entry_ = nullptr;  // of this thread's token
  int32_t page_ = 0;
  int32_t in_page_ = 0;
};

// Copies the tiles of the block's items into stages, in order.
template <typename S>
class Feeder {
 public:
  __device__ Feeder(const MlaDecodeParams& params, const Launched& launched)
      : params_(params), cursor_(params, launched) {}

  // Starts the copies of the next tile to `stage`, if there is a tile, and closes their group in
  // any case, so that the groups of a thread count the tiles. Advance comes before the next Feed.
  __device__ __forceinline__ void Feed(uint32_t stage) {
    if (cursor_.left() > 0) {
      StartCopies(stage + cursor_.my_token() * S::kKeyPitch +
                  S::KeyOffset(cursor_.my_token(), cursor_.lane() * kUnitBytes));
    }
    CommitCopies();
  }
  __device__ __forceinline__ void Advance() { cursor_.Advance(); }

 private:
  static constexpr int kUnits = S::kTokenBytes / kUnitBytes;
  static constexpr int kLanes = kThreads / S::kTokens;
  static_assert(kLanes % 8 == 0, "lanes are a whole number of 128 bytes apart");

  __device__ __forceinline__ void StartCopies(uint32_t to) const {
    const bool filled = cursor_.filled();
    // If not filled, read by no one.
    const char* from = filled ? cursor_.Token() + cursor_.lane() * kUnitBytes
                              : static_cast<const char*>(params_.cache);
#pragma unroll
    for (int unit = 0; unit < kUnits; unit += kLanes) {
      if (unit + kLanes <= kUnits || cursor_.lane() < kUnits - unit) {
        CopyAsync16Once(to + unit * kUnitBytes, from + unit * kUnitBytes, filled);
      }
    }
  }

  const MlaDecodeParams& params_;
  TokenCursor<S, kLanes> cursor_;
};

}  // namespace mla::cuda::sm80

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM80_FEEDER_CUH_
