// FP8 latents for the Hopper kernel of mla_decode. The scores and the values read tiles of bf16, as
// they do without FP8; what changes is the warpgroup that fills them. Each of its four warps has 16
// of the 64 keys of a block: it brings in their codes by TMA, two groups of 128 columns at a time
// and one block ahead, and turns each group into its rows of a pair of tiles. k_pe and the queries
// go to their tiles directly.
//
// Conversion is what the other warpgroups wait for, and each step of it is latency. So a converter
// asks for few boxes and knows the places of 32 blocks at a time. Its stores reach wgmma through
// its arrival at the pair (release), the wait of the scores for it (acquire) and their fence of the
// asynchronous proxy; the values' products are behind that fence by way of `softmaxed`.
//
// The codes take the memory of two of the eleven pairs and the registers of four steps of Q, which
// stay in shared memory. Eight pairs remain: the block of the scores and that of the values, which
// the converters fill again pair by pair.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_CUH_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/fp8_latent.cuh"
#include "kernels/cuda/mla_decode/sm90_layout.cuh"
#include "kernels/cuda/mla_decode/sm90_loader.cuh"

namespace mla::cuda::sm90 {

inline constexpr int kConverters = kWarpgroup / kWarp;  // warps

struct Fp8Shape : Shape<kFp8LatentRank + kFp8LatentRope, kFp8LatentRank> {
  static constexpr int kRegisterSteps = 20;
  static constexpr int kSharedQueryTiles = (kSteps - kRegisterSteps + 3) / 4;
  static constexpr int kPairSlots = 8;
  static constexpr int kProducers = kConverters;
  static constexpr bool kConverted = true;
};
static_assert(2 * kTileColumns == kFp8LatentGroup, "a group of codes becomes a pair of tiles");
inline constexpr int kFp8ScoreRegisters = kScoreRegisters - 16;
inline constexpr int kConverterRegisters = kLoaderRegisters + 16;

inline constexpr int kGroups = Fp8Shape::kPairs;
inline constexpr int kConverterRows = kBlockTokens / kConverters;
inline constexpr int kConverterBytes = kConverterRows * kTileRowBytes;  // of a group, or of a tile
inline constexpr int kScaleBytes = kConverterRows * kGroups * sizeof(float);

struct Fp8SharedMemory {
  // Of a block, two groups of a converter's rows at a time; each of them swizzled as a tile is.
  uint8_t codes[2][kConverters][2][kConverterBytes];
  float scales[2][kConverters][kConverterRows][kGroups];
  SharedMemory<Fp8Shape> tiles;
  uint64_t codes_loaded[kConverters][2];  // the first has the block's scales, too
};
static_assert(offsetof(Fp8SharedMemory, tiles) % kSharedAlignment == 0);

// `keys` is k_pe, [num_pages, page_size, 64]. A box has the rows of a converter, all of one page.
struct Fp8TensorMaps : TensorMaps {
  CUtensorMap codes;   // [num_pages, 4, page_size, 128] bytes
  CUtensorMap scales;  // [num_pages, page_size, 16] bytes
};

__device__ __forceinline__ void InitFp8Barriers(Fp8SharedMemory& shared) {
  for (int i = 0; i < 2 * kConverters; ++i) {
    BarrierInit(SharedAddress(&shared.codes_loaded[i / 2][i % 2]), 1);
  }
}

// Two codes times their scale. The product is rounded once.
__device__ __forceinline__ uint32_t Dequantise(uint16_t codes, float scale) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
  const float2 values = __half22float2(*reinterpret_cast<const __half2*>(&halves));
  return Pack<__nv_bfloat16>(values.x * scale, values.y * scale);
}

class Converter {
 public:
  __device__ __forceinline__ Converter(const MlaDecodeParams& params, const Fp8TensorMaps& maps,
                                       Fp8SharedMemory& shared)
      : params_(params), maps_(maps), shared_(shared) {}

  __device__ __forceinline__ void Run() {
    next_item_ = params_.part_begin[blockIdx.y];
    FindItem();
    int item = next_item_;
    if (!Advance()) return;
    LoadCodes(0, 0);
    LoadCodes(1, 0);
#pragma unroll 1
    for (; item < params_.part_begin[blockIdx.y + 1]; ++item) {
      int blocks;
      {
        const Work work = LoadWork(params_, item);
        if (work.empty()) continue;
        blocks = work.end - work.first;
        LoadQueries(work.seq);
      }
#pragma unroll 1
      for (; blocks > 0; --blocks) {
        LoadRope();
        const bool more = Advance();
#pragma unroll 1
        for (int group = 0; group < kGroups; ++group) {
          Convert(group);
          if (group % 2 == 1 && more) LoadCodes(group / 2, parity_ ^ 1);
        }
        parity_ ^= 1;
      }
    }
  }

 private:
  __device__ __forceinline__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ __forceinline__ static int Warp() { return static_cast<int>(threadIdx.x) / kWarp; }
  __device__ __forceinline__ uint32_t PairSlot() const { return pairs_ % Fp8Shape::kPairSlots; }
  __device__ __forceinline__ void WaitForPair() const {
    BarrierWait(SharedAddress(&shared_.tiles.pair_freed[PairSlot()]),
                (pairs_ / Fp8Shape::kPairSlots & 1) ^ 1);
  }

  // The first item from next_item_ on that has blocks.
  __device__ __forceinline__ void FindItem() {
    next_block_ = next_end_ = known_end_ = 0;
    for (; next_item_ < params_.part_begin[blockIdx.y + 1]; ++next_item_) {
      const Work work = LoadWork(params_, next_item_);
      if (work.empty()) continue;
      next_block_ = known_end_ = work.first;
      next_end_ = work.end;
      return;
    }
  }
  // Each lane, where this warp's rows of another block lie, from next_block_ on. Rows past the last
  // token lie outside of the tensor: the page table says nothing of them, and TMA writes zeros.
  __device__ __forceinline__ void FindRows() {
    const Work work = LoadWork(params_, next_item_);
    known_end_ = next_block_ + kWarp;
    const int token = (next_block_ + Lane()) * kBlockTokens + Warp() * kConverterRows;
    const int index = token / params_.page_size;
    known_row_ = token - index * params_.page_size;
    known_page_ = params_.num_pages;
    if (token < work.kv_len) {
      known_page_ = params_.page_table[work.seq * params_.page_table_stride + index];
    }
  }
  // To the next block; false if there is none.
  __device__ __forceinline__ bool Advance() {
    if (next_block_ == next_end_) {
      if (next_end_ == 0) return false;
      ++next_item_;
      FindItem();
      if (next_end_ == 0) return false;
    }
    if (next_block_ == known_end_) FindRows();
    const int at = next_block_++ - (known_end_ - kWarp);
    page_ = __shfl_sync(~0u, known_page_, at);
    row_ = __shfl_sync(~0u, known_row_, at);
    return true;
  }

  // Of the block that Advance has found. By one lane.
  __device__ __forceinline__ void LoadCodes(int half, uint32_t scale_slot) const {
    if (Lane() != 0) return;
    const uint32_t barrier = SharedAddress(&shared_.codes_loaded[Warp()][half]);
    BarrierArriveExpectBytes(barrier, 2 * kConverterBytes + (half == 0 ? kScaleBytes : 0));
    if (half == 0) {
      TmaLoad3d(SharedAddress(shared_.scales[scale_slot][Warp()]), &maps_.scales, barrier, 0, row_,
                page_);
    }
    TmaLoad4d(SharedAddress(shared_.codes[half][Warp()]), &maps_.codes, barrier, 0, row_, 2 * half,
              page_);
  }
  // k_pe of the block whose codes were asked for last.
  __device__ __forceinline__ void LoadRope() {
    auto& tiles = shared_.tiles;
    BarrierWait(SharedAddress(&tiles.rest_freed[rest_.slot]), rest_.parity ^ 1);
    if (Lane() == 0) {
      const uint32_t barrier = SharedAddress(&tiles.rest_loaded[rest_.slot]);
      BarrierArriveExpectBytes(barrier, kConverterBytes);
      TmaLoad3d(SharedAddress(tiles.rests[rest_.slot] + Warp() * kConverterBytes), &maps_.keys,
                barrier, 0, row_, page_);
    }
    rest_ = rest_.Plus(1);
  }

  // By the first warp; the others only count.
  __device__ __forceinline__ void LoadQueries(int seq) {
    auto& tiles = shared_.tiles;
#pragma unroll 1
    for (int pair = 0; pair < Fp8Shape::kPairs; ++pair) {
      WaitForPair();
      LoadQueryTiles(seq, 2 * pair, 2, tiles.pairs[PairSlot()], tiles.pair_loaded[PairSlot()]);
      ++pairs_;
    }
    BarrierWait(SharedAddress(&tiles.rest_freed[rest_.slot]), rest_.parity ^ 1);
    LoadQueryTiles(seq, Fp8Shape::kValueTiles, 1, tiles.rests[rest_.slot],
                   tiles.rest_loaded[rest_.slot]);
    rest_ = rest_.Plus(1);
  }
  __device__ __forceinline__ void LoadQueryTiles(int seq, int tile, int count, const uint8_t* to,
                                                 uint64_t& loaded) const {
    const uint32_t barrier = SharedAddress(&loaded);
    if (Lane() != 0) return;
    if (Warp() != 0) {
      BarrierArrive(barrier);
      return;
    }
    BarrierArriveExpectBytes(barrier, count * kTileBytes);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      LoadQueryTile(maps_, seq, tile + i, SharedAddress(to) + i * kTileBytes, barrier);
    }
  }

  // A lane has 16 codes of a row in each half of a group. Eight lanes have four chunks of 16 bytes
  // of one of eight rows, and of the row ^ 5: the swizzle puts what they read, and what they write,
  // into different banks.
  __device__ __forceinline__ static int Row() { return Lane() / 8 ^ ((Lane() & 4) != 0 ? 5 : 0); }
  __device__ __forceinline__ static uint4 Eight(uint32_t low, uint32_t high, float scale) {
    return make_uint4(Dequantise(static_cast<uint16_t>(low), scale),
                      Dequantise(static_cast<uint16_t>(low >> 16), scale),
                      Dequantise(static_cast<uint16_t>(high), scale),
                      Dequantise(static_cast<uint16_t>(high >> 16), scale));
  }
  // 16 codes to two chunks side by side.
  __device__ __forceinline__ static void Write(uint32_t to, uint4 codes, float scale) {
    StoreShared16(to, Eight(codes.x, codes.y, scale));
    StoreShared16(to ^ 16, Eight(codes.z, codes.w, scale));
  }

  __device__ __forceinline__ void Convert(int group) {
    constexpr uint32_t kEightRows = 8 * kTileRowBytes;
    static_assert(kConverterBytes == 2 * kEightRows);
    const uint32_t from = SharedAddress(shared_.codes[group / 2][Warp()][group % 2]) +
                          TileChunkOffset(Row(), Lane() % 4);
    const uint32_t to = SharedAddress(shared_.tiles.pairs[PairSlot()]) + Warp() * kConverterBytes +
                        TileChunkOffset(Row(), Lane() % 4 * 2);
    const uint32_t scales = SharedAddress(&shared_.scales[parity_][Warp()][Row()][group]);
    BarrierWait(SharedAddress(&shared_.codes_loaded[Warp()][group / 2]), parity_);
    const float first_scale = LoadSharedFloat(scales);
    const uint4 a = LoadShared16(from);
    const uint4 b = LoadShared16(from ^ 64);
    const float second_scale = LoadSharedFloat(scales + 8 * kGroups * sizeof(float));
    const uint4 c = LoadShared16(from + kEightRows);
    const uint4 d = LoadShared16((from ^ 64) + kEightRows);
    WaitForPair();
    Write(to, a, first_scale);
    Write(to + kTileBytes, b, first_scale);
    Write(to + kEightRows, c, second_scale);
    Write(to + kTileBytes + kEightRows, d, second_scale);
    WarpArrive(shared_.tiles.pair_loaded[PairSlot()]);
    ++pairs_;
  }

  const MlaDecodeParams& params_;
  const Fp8TensorMaps& maps_;
  Fp8SharedMemory& shared_;
  // What is found next; 0 for next_end_: nothing.
  int next_item_ = 0, next_block_ = 0, next_end_ = 0;
  // Where the lanes know this warp's rows to lie: of the 32 blocks before known_end_.
  int known_end_ = 0, known_page_ = 0, known_row_ = 0;
  int page_ = 0, row_ = 0;  // and of the block that has been found
  uint32_t pairs_ = 0;      // filled so far
  uint32_t parity_ = 0;     // of the phases of the codes, and the slot of the scales
  BlockPosition<Fp8Shape> rest_;
};

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_CUH_
