// FP8 latents for the Hopper kernel of mla_decode. The scores and the values read tiles of bf16, as
// they do without FP8; what changes is the warpgroup that fills them. Each of its four warps has 16
// of the 64 keys of a block: it brings in their codes by TMA, a group of 128 columns at a time and
// one block ahead, and turns each group into its rows of a pair of tiles. k_pe and the queries go
// to their tiles directly.
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
};
static_assert(2 * kTileColumns == kFp8LatentGroup, "a group of codes becomes a pair of tiles");
inline constexpr int kFp8ScoreRegisters = kScoreRegisters - 16;
inline constexpr int kConverterRegisters = kLoaderRegisters + 16;

inline constexpr int kGroups = Fp8Shape::kPairs;
inline constexpr int kConverterRows = kBlockTokens / kConverters;
inline constexpr int kConverterBytes = kConverterRows * kTileRowBytes;  // of a group, or of a tile
inline constexpr int kScaleBytes = kConverterRows * kGroups * sizeof(float);

struct Fp8SharedMemory {
  uint8_t codes[kGroups][kTileBytes];  // of a block; swizzled as a tile is
  float scales[2][kConverters][kConverterRows][kGroups];
  SharedMemory<Fp8Shape> tiles;
  uint64_t codes_loaded[kConverters][kGroups];  // the first group's has the block's scales, too
};
static_assert(offsetof(Fp8SharedMemory, tiles) % kSharedAlignment == 0);

// `keys` is k_pe, [num_pages, page_size, 64]. A box has the rows of a converter, all of one page.
struct Fp8TensorMaps : TensorMaps {
  CUtensorMap codes;   // [num_pages, page_size, 512] bytes
  CUtensorMap scales;  // [num_pages, page_size, 16] bytes
};

__device__ __forceinline__ void InitFp8Barriers(Fp8SharedMemory& shared) {
  for (int i = 0; i < kConverters * kGroups; ++i) {
    BarrierInit(SharedAddress(&shared.codes_loaded[i / kGroups][i % kGroups]), 1);
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
    item_ = params_.part_begin[blockIdx.y];
    if (!FindItem()) return;
    FindRows();
#pragma unroll 1
    for (int group = 0; group < kGroups; ++group) LoadCodes(group, parity_);
    bool begins = true, more;
    do {
      if (begins) {
        LoadQueries();
        LoadRope();
      }
      const int item = item_;
      more = ++block_ < end_;
      if (!more) {
        ++item_;
        more = FindItem();
      }
      begins = item != item_;
      if (more) FindRows();
#pragma unroll 1
      for (int group = 0; group < kGroups; ++group) {
        Convert(group);
        if (more) LoadCodes(group, parity_ ^ 1);
      }
      parity_ ^= 1;
      if (more && !begins) LoadRope();
    } while (more);
  }

 private:
  __device__ __forceinline__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ __forceinline__ static int Warp() { return static_cast<int>(threadIdx.x) / kWarp; }
  __device__ __forceinline__ uint32_t PairSlot() const { return pairs_ % Fp8Shape::kPairSlots; }
  __device__ __forceinline__ void WaitForPair() const {
    BarrierWait(SharedAddress(&shared_.tiles.pair_freed[PairSlot()]),
                (pairs_ / Fp8Shape::kPairSlots & 1) ^ 1);
  }

  // The first item from item_ on that has blocks; false if there is none.
  __device__ __forceinline__ bool FindItem() {
    for (; item_ < params_.part_begin[blockIdx.y + 1]; ++item_) {
      const Work work = LoadWork(params_, item_);
      block_ = work.first;
      end_ = work.end;
      if (!work.empty()) return true;
    }
    return false;
  }
  // Rows past the last token lie outside of the tensor: the page table says nothing of them, and
  // TMA writes zeros.
  __device__ __forceinline__ void FindRows() {
    const Work work = LoadWork(params_, item_);
    const int token = block_ * kBlockTokens + Warp() * kConverterRows;
    const int index = token / params_.page_size;
    row_ = token - index * params_.page_size;
    page_ = params_.num_pages;
    if (token < work.kv_len) {
      page_ = params_.page_table[work.seq * params_.page_table_stride + index];
    }
  }
  // By one lane.
  __device__ __forceinline__ void LoadRows(const CUtensorMap* map, int column, const void* to,
                                           uint32_t barrier) const {
    TmaLoad3d(SharedAddress(to), map, barrier, column, row_, page_);
  }
  __device__ __forceinline__ void LoadCodes(int group, uint32_t scale_slot) const {
    if (Lane() != 0) return;
    const uint32_t barrier = SharedAddress(&shared_.codes_loaded[Warp()][group]);
    BarrierArriveExpectBytes(barrier, kConverterBytes + (group == 0 ? kScaleBytes : 0));
    if (group == 0) LoadRows(&maps_.scales, 0, shared_.scales[scale_slot][Warp()], barrier);
    LoadRows(&maps_.codes, group * kFp8LatentGroup, shared_.codes[group] + Warp() * kConverterBytes,
             barrier);
  }
  __device__ __forceinline__ void LoadRope() {
    auto& tiles = shared_.tiles;
    BarrierWait(SharedAddress(&tiles.rest_freed[rest_.slot]), rest_.parity ^ 1);
    if (Lane() == 0) {
      const uint32_t barrier = SharedAddress(&tiles.rest_loaded[rest_.slot]);
      BarrierArriveExpectBytes(barrier, kConverterBytes);
      LoadRows(&maps_.keys, 0, tiles.rests[rest_.slot] + Warp() * kConverterBytes, barrier);
    }
    rest_ = rest_.Plus(1);
  }

  // By the first warp; the others only count.
  __device__ __forceinline__ void LoadQueries() {
    auto& tiles = shared_.tiles;
    const int seq = params_.items[item_].seq;
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
    const uint32_t from = SharedAddress(shared_.codes[group]) + Warp() * kConverterBytes +
                          TileChunkOffset(Row(), Lane() % 4);
    const uint32_t to = SharedAddress(shared_.tiles.pairs[PairSlot()]) + Warp() * kConverterBytes +
                        TileChunkOffset(Row(), Lane() % 4 * 2);
    const uint32_t scales = SharedAddress(&shared_.scales[parity_][Warp()][Row()][group]);
    BarrierWait(SharedAddress(&shared_.codes_loaded[Warp()][group]), parity_);
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
    FenceSharedToAsync();
    WarpArrive(shared_.tiles.pair_loaded[PairSlot()]);
    ++pairs_;
  }

  const MlaDecodeParams& params_;
  const Fp8TensorMaps& maps_;
  Fp8SharedMemory& shared_;
  // What is loaded next: block_ of item_, and where this warp's rows of it lie.
  int item_ = 0, block_ = 0, end_ = 0;
  int page_ = 0, row_ = 0;
  uint32_t pairs_ = 0;   // filled so far
  uint32_t parity_ = 0;  // of the phases of the codes, and the slot of the scales
  BlockPosition<Fp8Shape> rest_;
};

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_CUH_
