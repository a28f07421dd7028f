// The scores warpgroup of the Hopper kernel over FP8 latents: S^T = K Q^T and its online softmax.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_SCORES_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_SCORES_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/fp8_codes.cuh"
#include "kernels/cuda/mla_decode/sm90_fp8_direct_layout.cuh"
#include "kernels/cuda/ptx_sm80.cuh"

namespace mla::cuda::sm90::direct {

// The queries of an item as fp16 and their rope part as bf16, both times a power of two for each
// row, in the tiles of shared memory. The order of the columns is that in which a lane has keys: of
// each 64 codes it loads 16 neighbours, of k_pe twice 8.
template <typename S>
class Fp8QueryStore {
 public:
  __device__ __forceinline__ Fp8QueryStore(const MlaDecodeParams& params,
                                           Fp8SharedMemory<S>& shared)
      : params_(params), shared_(shared) {}

  // By a warpgroup: eight rows by a warp at a time, a row by four lanes. Resets the columns, too.
  __device__ __forceinline__ void Take(int seq) {
    const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / kWarp;
#pragma unroll 1
    for (int row = warp * 8; row < S::kRows; row += 32) TakeRow(seq, row + Lane() / 4);
  }

 private:
  using T = typename S::T;
  static constexpr int kVectors = 2 * S::kRopeTile;  // of a lane: 8 neighbours each

  __device__ __forceinline__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }

  __device__ __forceinline__ void TakeRow(int seq, int row) {
    const Fp8Row& place = shared_.rows[row];
    const bool real = place.real != 0;
    const auto* q = static_cast<const T*>(params_.q) + seq * params_.q_stride_seq + place.q;
    float most = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) most = fmaxf(most, Most(Load(q + CodeAt(i), real)));
#pragma unroll
    for (int i = 0; i < 2; ++i) most = fmaxf(most, Most(Load(q + RopeAt(i), real)));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    const QueryFactors factors(most);
    if (Lane() % 4 == 0) {
      constexpr float kLog2e = 1.4426950408889634f;
      Fp8Columns& columns = shared_.columns[row / 2];
      columns.by[row % 2] = factors.down * (params_.scale * kLog2e);
      columns.minus_base[row % 2] = kNothing;
    }
    // Once more: there are no registers for all of it.
#pragma unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const uint4 v = Load(q + CodeAt(i), real);
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 two = UnpackPair<T>(words[k]);
        Store(i / 2, row, i % 2 * 4 + k, PackPair<__half>(two.x * factors.up, two.y * factors.up));
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 v = Load(q + RopeAt(i), real);
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) StoreRope(row, i * 4 + k, words[k], factors.up);
    }
  }

  // The first of 8 numbers of a row.
  __device__ __forceinline__ static int CodeAt(int i) {
    return i / 2 * kTileColumns + Lane() % 4 * 16 + i % 2 * 8;
  }
  __device__ __forceinline__ static int RopeAt(int i) {
    return kFp8LatentRank + i * 32 + Lane() % 4 * 8;
  }
  __device__ __forceinline__ static uint4 Load(const T* from, bool real) {
    return real ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
  }
  __device__ __forceinline__ static float Most(const uint4& v) {
    return fmaxf(fmaxf(MostOfPair<T>(v.x), MostOfPair<T>(v.y)),
                 fmaxf(MostOfPair<T>(v.z), MostOfPair<T>(v.w)));
  }

  __device__ __forceinline__ void StoreRope(int row, int chunk, uint32_t pair, float up) {
    const float2 q = UnpackPair<T>(pair);
    const float2 v = {q.x * up, q.y * up};
    const uint32_t high = PackPair<__nv_bfloat16>(v.x, v.y);
    Store(S::kRopeTile, row, chunk, high);
    if constexpr (S::kRopeTerms == 2) {
      const float2 most = UnpackPair<__nv_bfloat16>(high);
      Store(S::kRopeTile + 1, row, chunk, PackPair<__nv_bfloat16>(v.x - most.x, v.y - most.y));
    }
  }
  // Two numbers: this lane's of a 16-byte chunk of a tile.
  __device__ __forceinline__ void Store(int tile, int row, int chunk, uint32_t pair) {
    *reinterpret_cast<uint32_t*>(shared_.queries[tile] + TileChunkOffset(row, chunk) +
                                 Lane() % 4 * 4) = pair;
  }

  // Minus the base before there is one: whatever comes exceeds it, and 2^(-inf + this) is 0.
  static constexpr float kNothing = 1e30f;

  const MlaDecodeParams& params_;
  Fp8SharedMemory<S>& shared_;
};

template <typename S>
class Fp8Scores {
 public:
  __device__ __forceinline__ Fp8Scores(const MlaDecodeParams& params, Fp8SharedMemory<S>& shared)
      : params_(params), shared_(shared) {}

  __device__ __forceinline__ void Run() {
    for (int i = params_.part_begin[blockIdx.y]; i < params_.part_begin[blockIdx.y + 1]; ++i) {
      const Work work = LoadWork(params_, i);
      if (work.empty()) {
        if (Thread() < S::kRows) StoreLse(work, Thread(), -INFINITY);
      } else {
        Attend(work);
      }
    }
  }

 private:
  static constexpr int kNamedBarrier = 1;
  static constexpr int kCount = S::kAccumulators;
  static constexpr int kColumnPairs = S::kRows / 8;  // of a thread
  // As in Scores of sm90_scores.cuh.
  static constexpr float kSlack = 8.0f;
  using Accumulators = float[kCount];
  static constexpr int kPieces = kColumnPairs / 2;  // of a softmax
  static constexpr int kCodeTiles = S::kRopeTile;
  // Halves of 64 columns that are multiplied together, and columns loaded ahead: registers.
  static constexpr int kHalves = S::kRows == 64 ? 1 : 2, kLoads = S::kRows == 64 ? 1 : 2;

  __device__ __forceinline__ static int Thread() {
    return static_cast<int>(threadIdx.x) % kWarpgroup;
  }
  __device__ __forceinline__ static int Warp() { return Thread() / kWarp; }
  __device__ __forceinline__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  // The first of this lane's two tokens of the tile; the other is 8 further on.
  __device__ __forceinline__ static int Token() { return Warp() * 16 + Fp8Token(Lane() / 4); }
  // Its first column pair; the next is 4 further on.
  __device__ __forceinline__ static int ColumnPair(int i) { return i * 4 + Lane() % 4; }
  __device__ __forceinline__ static void Meet() { NamedBarrierSync(kNamedBarrier, kWarpgroup); }

  __device__ __forceinline__ void Attend(const Work& work) {
    Fp8QueryStore<S>(params_, shared_).Take(work.seq);
    FenceSharedToAsync();
    Meet();
#pragma unroll
    for (float& sum : sums_) sum = 0;
    const int all_see = params_.causal ? work.kv_len - params_.s_q + 1 : work.kv_len;
    Accumulators before;  // the scores of the last tile
    for (int block = work.first; block < work.end; ++block) {
      Accumulators s;
      if (S::kSoftenLater && block > work.first) {
        Multiply<true>(s, before);
      } else {
        Multiply<false>(s, before);
      }
      Copy(s, before);
      const int first = block * S::kTokens;
      if (first + S::kTokens > all_see) Mask(work, first, before);
      const bool last = block + 1 == work.end;
      if (S::kSoftenLater && !last) continue;
      BeginSoftmax(before);
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) MakeProbs(before, piece);
      if (last) Finish(work);
      EndSoftmax();
    }
  }

  // s = K Q^T of the next tile, with keys still in units of their own. While some columns are
  // multiplied the next are converted and those after them loaded. With kSoften the softmax of
  // `before` is made besides.
  template <bool kSoften>
  __device__ __forceinline__ void Multiply(Accumulators& s, Accumulators& before) {
    const RingPosition<S::kUnits> unit = ring_.Plus(Warp() / 2);
    ring_ = ring_.Plus(2);
    BarrierWait(SharedAddress(&shared_.unit_scaled[unit.slot]), unit.parity);
    const int token = Token() % S::kUnitTokens;
    const uint32_t keys = SharedAddress(shared_.units[unit.slot]) + token * S::kPitch;
    const uint64_t queries = TileDescriptor(SharedAddress(shared_.queries), 16, 1024);
    uint4 raw[kLoads][2];  // of two tokens each
    const auto load = [&](int i) {
      if (i < kCodeTiles + 2)
        Load(keys + (i < 2 ? S::kRopeAt + i * 64 : (i - 2) * 64), raw[i % kLoads]);
    };
#pragma unroll
    for (int i = 0; i < kLoads; ++i) load(i);
    uint4 scales[2];  // Fp8KeyScales
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      scales[half] = LoadShared16(SharedAddress(&shared_.key_scales[unit.slot][token + 8 * half]));
      down_[half] = __uint_as_float(scales[half].w);
    }
    uint32_t a[2][kHalves][8];
    // A half is 32 columns: two steps.
#pragma unroll
    for (int half = 0; half < 2 * (kCodeTiles + 1); ++half) {
      const int batch = half / kHalves;
      if (half % kHalves == 0 && batch >= 2) {
        WgmmaWait<1>();
        PinHalves(a[batch % 2]);
      }
      uint32_t(&mine)[8] = a[batch % 2][half % kHalves];
      if (half < 2) {
        RaiseRope(raw[half % kLoads], scales, mine);
        load(half + kLoads);
      } else {
        const int tile = half / 2 - 1;
        ConvertCodes(raw[tile % kLoads], half % 2, scales, tile / 2, mine);
        if (half % 2 == 1) load(tile + 2 + kLoads);
      }
      if ((half + 1) % kHalves != 0) continue;
      WgmmaFence();
#pragma unroll
      for (int k = half + 1 - kHalves; k <= half; ++k) {
        const uint32_t(&operands)[8] = a[batch % 2][k % kHalves];
        if (k < 2) {
#pragma unroll
          for (int term = 0; term < S::kRopeTerms; ++term) {
            MultiplySteps<__nv_bfloat16>(s, operands, queries, S::kRopeTile + term, k,
                                         k + term > 0);
          }
        } else {
          MultiplySteps<__half>(s, operands, queries, k / 2 - 1, k % 2, true);
        }
      }
      WgmmaCommit();
      if (kSoften && half % 2 == 1) {
        if (half == 1) BeginSoftmax(before);
        if (half > 1 && half / 2 <= kPieces) MakeProbs(before, half / 2 - 1);
        if (half / 2 == kPieces) EndSoftmax();
      }
    }
    WgmmaWait<0>();
    PinHalves(a[0]);
    PinHalves(a[1]);
    PinRegisters(s);
  }
  __device__ __forceinline__ static void PinHalves(const uint32_t (&a)[kHalves][8]) {
#pragma unroll
    for (int i = 0; i < kHalves; ++i) PinOperands(a[i]);
  }
  __device__ __forceinline__ void Copy(const Accumulators& s, Accumulators& scores) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) scores[i] = s[i] * down_[i / 2 % 2];
  }

  // Steps 2 * half and the next of a tile of queries.
  template <typename T>
  __device__ __forceinline__ static void MultiplySteps(Accumulators& d, const uint32_t (&a)[8],
                                                       uint64_t queries, int tile, int half,
                                                       bool accumulate) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t four[4] = {a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]};
      WgmmaRegs<T>(d, four, Further(queries, tile * S::kQueryTileBytes + (2 * half + i) * 32),
                   accumulate || i > 0);
    }
  }

  // This lane's 16 of 64 bytes of both of its tokens.
  __device__ __forceinline__ static void Load(uint32_t keys, uint4 (&raw)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      raw[half] = LoadShared16(keys + half * 8 * S::kPitch + Lane() % 4 * 16);
    }
  }
  __device__ __forceinline__ static void ConvertCodes(const uint4 (&raw)[2], int pair,
                                                      const uint4 (&scales)[2], int group,
                                                      uint32_t (&a)[8]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4& v = raw[half];
      const uint32_t words[2] = {pair == 0 ? v.x : v.z, pair == 0 ? v.y : v.w};
      const uint32_t both = group < 2 ? scales[half].x : scales[half].y;
      const uint32_t ratio = __byte_perm(both, 0, group % 2 == 0 ? 0x1010 : 0x3232);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t pairs[2];
        KeyPairs(words[i], pairs);
        a[4 * i + half] = MultiplyPairs<__half>(pairs[0], ratio);
        a[4 * i + 2 + half] = MultiplyPairs<__half>(pairs[1], ratio);
      }
    }
  }
  __device__ __forceinline__ static void RaiseRope(const uint4 (&raw)[2], const uint4 (&scales)[2],
                                                   uint32_t (&a)[8]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t words[4] = {raw[half].x, raw[half].y, raw[half].z, raw[half].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[2 * i + half] = MultiplyPairs<__nv_bfloat16>(words[i], scales[half].z);
      }
    }
  }

  // By selection: what was multiplied may have been NaN.
  __device__ __forceinline__ void Mask(const Work& work, int first, Accumulators& s) const {
#pragma unroll
    for (int i = 0; i < kColumnPairs; ++i) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        int limit = work.kv_len;
        if (params_.causal) {
          const int query = shared_.rows[2 * ColumnPair(i) + k].query;
          limit = min(limit, work.kv_len - params_.s_q + 1 + query);
        }
        limit -= first + Token();
        if (limit <= 0) s[4 * i + k] = -INFINITY;
        if (limit <= 8) s[4 * i + 2 + k] = -INFINITY;
      }
    }
  }

  // The softmax of a tile: BeginSoftmax, MakeProbs of all pieces, EndSoftmax.
  __device__ __forceinline__ void BeginSoftmax(const Accumulators& s) {
    BarrierWait(SharedAddress(&shared_.tile_freed[tile_.slot]), tile_.parity ^ 1);
    float most = -INFINITY;
#pragma unroll
    for (int i = 0; i < kColumnPairs; ++i) {
      const Fp8Columns c = Columns(i);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        most = fmaxf(most, fmaf(fmaxf(s[4 * i + k], s[4 * i + 2 + k]), c.by[k], c.minus_base[k]));
      }
    }
    const bool moves = NamedBarrierAny(kNamedBarrier, kWarpgroup, most > kSlack);
    if (moves) MoveBases(s);
    if (Thread() == 0) shared_.rescale[tile_.slot] = moves;
  }
  __device__ __forceinline__ Fp8Columns Columns(int i) const {
    const uint4 v = LoadShared16(SharedAddress(&shared_.columns[ColumnPair(i)]));
    return {{__uint_as_float(v.x), __uint_as_float(v.y)},
            {__uint_as_float(v.z), __uint_as_float(v.w)}};
  }
  // Two column pairs: probabilities relative to the base of their column, added up and stored as
  // rows of tokens.
  __device__ __forceinline__ void MakeProbs(Accumulators& s, int piece) {
    uint32_t packed[4];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int i = 2 * piece + j;
      const Fp8Columns c = Columns(i);
      float p[4];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        p[k] = Exp2(fmaf(s[4 * i + k], c.by[k], c.minus_base[k]));
        p[2 + k] = Exp2(fmaf(s[4 * i + 2 + k], c.by[k], c.minus_base[k]));
        sums_[2 * i + k] += p[k] + p[2 + k];
      }
      packed[2 * j] = PackPair<__nv_bfloat16>(p[0], p[1]);
      packed[2 * j + 1] = PackPair<__nv_bfloat16>(p[2], p[3]);
    }
    const int matrix = Lane() / 8;
    StoreMatrix4Transposed(SharedAddress(shared_.probs[tile_.slot]) +
                               TileChunkOffset(Lane() % 8, Warp() * 2 + matrix % 2) +
                               (2 * piece + matrix / 2) * 8 * kTileRowBytes,
                           packed[0], packed[1], packed[2], packed[3]);
  }
  __device__ __forceinline__ void EndSoftmax() {
    FenceSharedToAsync();
    WarpArrive(shared_.softmaxed[tile_.slot]);
    tile_ = tile_.Plus(1);
  }

  // The bases of columns that exceed theirs follow the greatest score. Seldom.
  __device__ __forceinline__ void MoveBases(const Accumulators& s) {
#pragma unroll
    for (int i = 0; i < kColumnPairs; ++i) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        float most = fmaxf(s[4 * i + k], s[4 * i + 2 + k]);
#pragma unroll
        for (int d = 4; d <= 16; d *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
        if (Lane() < 4) shared_.partial[Warp()][2 * ColumnPair(i) + k] = most;
      }
    }
    Meet();
    if (Thread() < S::kRows) {
      const int row = Thread();
      Fp8Columns& c = shared_.columns[row / 2];
      float most = shared_.partial[0][row];
#pragma unroll
      for (int w = 1; w < 4; ++w) most = fmaxf(most, shared_.partial[w][row]);
      most *= c.by[row % 2];
      float& minus_base = c.minus_base[row % 2];
      float factor = 1.0f;
      if (most + minus_base > kSlack) {
        factor = Exp2(-minus_base - most);
        minus_base = -most;
      }
      shared_.factors[tile_.slot][row] = factor;
    }
    Meet();
#pragma unroll
    for (int i = 0; i < kColumnPairs; ++i) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        sums_[2 * i + k] *= shared_.factors[tile_.slot][2 * ColumnPair(i) + k];
      }
    }
  }

  // The sums are complete: lse, and what the values divide by.
  __device__ __forceinline__ void Finish(const Work& work) {
#pragma unroll
    for (int i = 0; i < kColumnPairs; ++i) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        float sum = sums_[2 * i + k];
#pragma unroll
        for (int d = 4; d <= 16; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
        if (Lane() < 4) shared_.partial[Warp()][2 * ColumnPair(i) + k] = sum;
      }
    }
    Meet();
    if (Thread() < S::kRows) {
      constexpr float kLn2 = 0.6931471805599453f;
      const int row = Thread();
      const float sum = (shared_.partial[0][row] + shared_.partial[1][row]) +
                        (shared_.partial[2][row] + shared_.partial[3][row]);
      const bool none = sum == 0;
      shared_.inverse[tile_.slot][row] = none ? 0.0f : __fdividef(PowerOfTwo(kFp8ValuesBelow), sum);
      const float base = -shared_.columns[row / 2].minus_base[row % 2];
      StoreLse(work, row, none ? -INFINITY : (base + log2f(sum)) * kLn2);
    }
    Meet();  // the next item begins with other columns
  }

  __device__ __forceinline__ void StoreLse(const Work& work, int row, float lse) const {
    const Fp8Row& place = shared_.rows[row];
    if (place.real == 0) return;
    if (work.slot >= 0) {
      params_.part_lse[PartRow(params_, work, static_cast<int>(blockIdx.x) * S::kRows + row)] = lse;
    } else if (params_.lse != nullptr) {
      params_.lse[work.seq * params_.lse_stride_seq + place.lse] = lse;
    }
  }

  const MlaDecodeParams& params_;
  Fp8SharedMemory<S>& shared_;
  RingPosition<S::kUnits> ring_;
  RingPosition<S::kTiles> tile_;
  float down_[2];             // Fp8KeyScales::down, of the tile that is multiplied
  float sums_[S::kRows / 4];  // of P, of this lane's tokens: columns as ColumnPair has them
};

}  // namespace mla::cuda::sm90::direct

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_SCORES_CUH_
