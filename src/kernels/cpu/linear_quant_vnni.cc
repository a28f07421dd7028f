#include "kernels/cpu/linear_quant_vnni.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx512_bf16.h"
#include "kernels/cpu/linear_quant_codes.h"

namespace mla::cpu {
namespace {

constexpr int kChains = 16;
constexpr int64_t kStrip = 32;  // outputs of a panel
constexpr int64_t kGroupWords = kStrip * kGroup;
// With so many rows of x it pays to turn the weights around, so that lanes are outputs.
constexpr int64_t kMinPanelRows = 9;
constexpr int kTileRows = 6;

// Memory of a block of panels.
struct PanelScratch {
  int16_t* codes;          // [groups in the order of additions, 16 pairs of `in`, 32 outputs, 2]
  float *scales, *second;  // [groups, 32]; `second`: minima, or scales of the groups' second halves
  float* sums;             // [rows, 32]
};

#if defined(__clang__)
#pragma clang attribute push(                                                                     \
    __attribute__((                                                                               \
        target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,gfni,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,gfni,avx512bf16,fma")
#endif

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

inline __mmask16 FirstOf16(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << n) - 1u);
}

// One row of x, lanes along `in`.

// Lane 4 j + q: the sum of the four lanes of quarter j of v[q].
inline __m512i SumQuarters(__m512i v0, __m512i v1, __m512i v2, __m512i v3) {
  const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v0, v1), _mm512_unpackhi_epi32(v0, v1));
  const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v2, v3), _mm512_unpackhi_epi32(v2, v3));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

// v[t]: eight lanes each of groups 2 t and 2 t + 1, four of a group's first half, four of its
// second. Sums of the groups to `first`, or of their halves to both.
template <bool kHalves>
inline void SumGroups(const __m512i (&v)[8], __m512i& first, __m512i& second) {
  const __m512i a = SumQuarters(v[0], v[1], v[2], v[3]), b = SumQuarters(v[4], v[5], v[6], v[7]);
  const __m512i of_first =
      _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27);
  const __m512i of_second =
      _mm512_setr_epi32(4, 12, 5, 13, 6, 14, 7, 15, 20, 28, 21, 29, 22, 30, 23, 31);
  first = _mm512_permutex2var_epi32(a, of_first, b);
  second = _mm512_permutex2var_epi32(a, of_second, b);
  if (!kHalves) first = _mm512_add_epi32(first, second);
}

// The integer products of up to 16 groups and a row of x at `x`, for the groups in order.
// Groups that do not exist: anything.
template <typename Codec, bool kWhole, int kRows>
inline void MultiplyPairs(const typename Codec::Block* chunk, const char* const (&x)[kRows],
                          const PackedQuantRow& at, int64_t groups, __m512i (&sum)[kRows][2]) {
  __m512i v[kRows][8];
#pragma GCC unroll 8
  for (int t = 0; t < 8; ++t) {
    if (!kWhole && 2 * t >= groups) {
      for (int r = 0; r < kRows; ++r) v[r][t] = _mm512_setzero_si512();
      continue;
    }
    const __m512i codes = Codec::Codes(chunk, t, kWhole || 2 * t + 1 < groups);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const char* from = x[r] + 64 * t;
      const __m512i high =
          _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, _mm512_loadu_si512(from + at.high()));
      v[r][t] = _mm512_dpbusd_epi32(_mm512_slli_epi32(high, 8), codes,
                                    _mm512_loadu_si512(from + at.low()));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) SumGroups<Codec::kHalves>(v[r], sum[r][0], sum[r][1]);
}

// The same by octets. A sum of a group is spread over four lanes only, in place of eight.
template <typename Codec, bool kWhole, int kRows>
inline void MultiplyOctets(const typename Codec::Block* chunk, const char* const (&x)[kRows],
                           const PackedQuantRow& at, int64_t groups, __m512i (&sum)[kRows][2]) {
  constexpr int64_t kOctetBlocks = 8 * kGroup / Codec::Block::kElements;
  __m512i v[kRows][4];
#pragma GCC unroll 2
  for (int b = 0; b < 2; ++b) {
    const int64_t count = kWhole ? 8 : Min(groups - 8 * b, 8);
    if (count <= 0) {
      for (int r = 0; r < kRows; ++r) v[r][2 * b] = v[r][2 * b + 1] = _mm512_setzero_si512();
      continue;
    }
    const typename Codec::template Octet<kWhole> octet(chunk + b * kOctetBlocks, count);
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; ++odd) {
      const __m512i first = octet.Codes(odd, 0), second = octet.Codes(odd, 1);
      const int64_t even = (count + 1) / 2, pieces = odd == 0 ? even : count / 2;
      const int64_t begin = 8 * kGroup * b + 32 * even * odd;
      const __mmask16 mask = FirstOf16(4 * pieces);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const auto piece = [&](int64_t part, int64_t half) {
          const char* from = x[r] + part + begin + 16 * pieces * half;
          return kWhole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi32(mask, from);
        };
        __m512i s = _mm512_dpbusd_epi32(_mm512_setzero_si512(), first, piece(at.high_pieces(), 0));
        s = _mm512_dpbusd_epi32(s, second, piece(at.high_pieces(), 1));
        s = _mm512_dpbusd_epi32(_mm512_slli_epi32(s, 8), first, piece(at.low_pieces(), 0));
        v[r][2 * b + odd] = _mm512_dpbusd_epi32(s, second, piece(at.low_pieces(), 1));
      }
    }
  }
  const __m512i in_order = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    sum[r][0] = _mm512_permutexvar_epi32(in_order, SumQuarters(v[r][0], v[r][1], v[r][2], v[r][3]));
    if constexpr (Codec::kOddTimes != 1) {
      constexpr int kOdd = __builtin_ctz(Codec::kOddTimes);
      sum[r][0] = _mm512_srav_epi32(sum[r][0], _mm512_set1_epi64(int64_t{kOdd} << 32));
    }
  }
}

// Adds the products of a chunk, of which `groups` groups exist unless kWhole, to the chains of each
// row.
template <typename Codec, bool kWhole, int kRows>
inline void AddChunk(const typename Codec::Block* chunk, const char* const (&x_rows)[kRows],
                     const PackedQuantRow& at, int64_t index, int64_t groups,
                     __m512 (&acc)[kRows]) {
  const char* x[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) x[r] = x_rows[r] + kChunk * index;
  __m512i sum[kRows][2];
  if constexpr (Codec::kOctets) {
    MultiplyOctets<Codec, kWhole, kRows>(chunk, x, at, groups, sum);
  } else {
    MultiplyPairs<Codec, kWhole, kRows>(chunk, x, at, groups, sum);
  }
  __m512 scale[2];
  Codec::template Scales<kWhole>(chunk, groups, scale[0], scale[1]);
  const __mmask16 mask = kWhole ? 0xffff : FirstOf16(groups);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const char* lanes = x_rows[r] + index * 64;  // 16 groups' numbers
    const __m512 x_scale = _mm512_maskz_loadu_ps(mask, lanes + at.scales());
    if constexpr (Codec::kOffset != 0) {
      constexpr int kShift = __builtin_ctz(Codec::kOffset);
      __m512i total = _mm512_maskz_loadu_epi32(mask, lanes + at.integer_sums());
      if constexpr (Codec::kHalves) {
        const __m512i first = _mm512_maskz_loadu_epi32(mask, lanes + at.first_sums());
        total = _mm512_sub_epi32(total, first);
        sum[r][1] = _mm512_sub_epi32(sum[r][1], _mm512_slli_epi32(total, kShift));
        total = first;
      }
      sum[r][0] = _mm512_sub_epi32(sum[r][0], _mm512_slli_epi32(total, kShift));
    }
    acc[r] =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][0]), _mm512_mul_ps(scale[0], x_scale), acc[r]);
    if constexpr (Codec::kHalves) {
      acc[r] =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][1]), _mm512_mul_ps(scale[1], x_scale), acc[r]);
    }
    if constexpr (Codec::kMins) {
      acc[r] = _mm512_fnmadd_ps(scale[1], _mm512_maskz_loadu_ps(mask, lanes + at.sums()), acc[r]);
    }
  }
}

// The sums of outputs [o, o + outs), at most 16, of a row.
inline void StoreOutputs(const Product& p, int64_t row, int64_t o, int64_t outs, __m512 sum,
                         __m512 bias) {
  const __mmask16 mask = FirstOf16(outs);
  float* y = p.y + row * p.y_stride + o;
  if (p.bias != nullptr) sum = _mm512_add_ps(sum, bias);
  if (p.accumulate) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, y));
  _mm512_mask_storeu_ps(y, mask, sum);
}

inline __m512 LoadBias(const Product& p, int64_t o, int64_t outs) {
  alignas(64) float values[16] = {};
  for (int64_t n = 0; p.bias != nullptr && n < Min(outs, 16); ++n) values[n] = BiasAt(p, o + n);
  return _mm512_load_ps(values);
}

template <typename Codec>
inline const typename Codec::Block* WeightRow(const Product& p, int64_t o) {
  return static_cast<const typename Codec::Block*>(p.w) +
         o * (p.w_stride / Codec::Block::kElements);
}

// Asks for weights ahead of their use: the hardware's own prefetching ends with every 4 KiB page.
// Into the L2 cache, which takes more requests at once than the L1.
template <typename Block>
inline void Prefetch(const Block* chunk, int64_t elements) {
  constexpr int64_t kAhead = kChunk / Block::kElements * sizeof(Block) > 400 ? 8192 : 16384;
  const char* p = reinterpret_cast<const char*>(chunk) + kAhead;
  const int64_t bytes = elements / Block::kElements * int64_t{sizeof(Block)};
  for (int64_t line = 0; line < bytes; line += 64) _mm_prefetch(p + line, _MM_HINT_T1);
}

// The sums of outputs [o, o + outs), at most 16, from their chains, [16 outputs, kRows, 16].
template <int kRows>
void StoreChains(const Product& p, int64_t row, int64_t o, int64_t outs, const float* chains) {
  const __m512 bias = LoadBias(p, o, outs);
  for (int r = 0; r < kRows; ++r) {
    __m512i chain[16];
#pragma GCC unroll 16
    for (int n = 0; n < 16; ++n) {
      chain[n] =
          n < outs ? _mm512_load_si512(chains + (n * kRows + r) * 16) : _mm512_setzero_si512();
    }
    Transpose16(chain);
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 16
    for (int c = 0; c < 16; ++c) sum = _mm512_add_ps(sum, reinterpret_cast<__m512>(chain[c]));
    StoreOutputs(p, row + r, o, outs, sum, bias);
  }
}

// The outputs of a block, at most 16, of rows [row, row + kRows). `scratch`: [16 outputs, kRows,
// 16].
template <typename Codec, int kRows>
void RowsOfX(const ProductBlock& block, int64_t row, float* scratch) {
  using Block = typename Codec::Block;
  constexpr int64_t kBlocks = kChunk / Block::kElements;
  const Product& p = *block.product;
  const PackedQuantRow at(p.x_stride);
  const char* x[kRows];
  for (int r = 0; r < kRows; ++r) {
    x[r] = static_cast<const char*>(p.x) + (row + r) * at.bytes();
  }
  const int64_t chunks = p.in / kChunk, left = p.in % kChunk;
  const int64_t o = block.out_begin, outs = block.out_end - o;
  for (int64_t n = 0; n < outs; ++n) {
    const Block* w = WeightRow<Codec>(p, o + n);
    __m512 acc[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) acc[r] = _mm512_setzero_ps();
    for (int64_t i = 0; i < chunks; ++i, w += kBlocks) {
      Prefetch(w, kChunk);
      AddChunk<Codec, true, kRows>(w, x, at, i, 16, acc);
    }
    if (left != 0) {
      Prefetch(w, left);
      AddChunk<Codec, false, kRows>(w, x, at, chunks, left / kGroup, acc);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) _mm512_store_ps(scratch + (n * kRows + r) * 16, acc[r]);
  }
  StoreChains<kRows>(p, row, o, outs, scratch);
}

// Many rows of x, lanes are outputs.

// Outputs [o, o + 16) of which `outs` exist, to half `half` of the panel.
template <typename Codec>
void DecodeHalf(const Product& p, int64_t o, int64_t outs, int half, const PanelScratch& to) {
  using Block = typename Codec::Block;
  const int64_t groups = p.in / kGroup;
  const ChainOrder order(groups);
  alignas(64) uint8_t codes[16][64];
  for (int64_t chunk = 0; chunk < p.in; chunk += kChunk) {
    const int64_t first_group = chunk / kGroup, count = Min(16, groups - first_group);
    const Block* w[16];
    PartialChunk<Block> end[16];
    __m512i scale[16], second[16];
    for (int64_t n = 0; n < 16; ++n) {
      w[n] = WeightRow<Codec>(p, o + Min(n, outs - 1)) + chunk / Block::kElements;
      if (count < 16) {
        end[n].Fill(w[n], count * kGroup / Block::kElements);
        w[n] = end[n].blocks;
      }
      __m512 s[2];
      s[1] = _mm512_setzero_ps();
      Codec::template Scales<true>(w[n], 16, s[0], s[1]);
      scale[n] = reinterpret_cast<__m512i>(s[0]);
      second[n] = reinterpret_cast<__m512i>(s[1]);
    }
    Transpose16(scale);
    if constexpr (Codec::kMins || Codec::kHalves) Transpose16(second);
    for (int64_t i = 0; i < count; ++i) {
      float* at = to.scales + (first_group + i) * kStrip + 16 * half;
      _mm512_store_si512(at, scale[i]);
      if constexpr (Codec::kMins || Codec::kHalves) {
        _mm512_store_si512(to.second + (at - to.scales), second[i]);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) {
      if (2 * t >= count) break;
      for (int n = 0; n < 16; ++n) _mm512_store_si512(codes[n], Codec::Codes(w[n], t));
      for (int g = 0; g < 2 && 2 * t + g < count; ++g) {
        __m512i words[16];
#pragma GCC unroll 16
        for (int n = 0; n < 16; ++n) {
          words[n] = _mm512_sub_epi16(_mm512_cvtepu8_epi16(Load256(codes[n] + 32 * g)),
                                      _mm512_set1_epi16(Codec::kOffset));
        }
        Transpose16(words);
        int16_t* at = to.codes + order.Of(first_group + 2 * t + g) * kGroupWords + 32 * half;
#pragma GCC unroll 16
        for (int pair = 0; pair < 16; ++pair) _mm512_store_si512(at + 64 * pair, words[pair]);
      }
    }
  }
}

// acc += the integer products of kPairs pairs along `in`. Unrolled: GCC 12 copies every accumulator
// twice in each turn of a loop.
template <int kRows, int kPairs>
inline void AddPairs(const int16_t* w, const char* const (&x)[kRows], int64_t offset,
                     __m512i (&acc)[kRows][2]) {
#pragma GCC unroll 16
  for (int pair = 0; pair < kPairs; ++pair) {
    const __m512i w0 = _mm512_load_si512(w + 64 * pair);
    const __m512i w1 = _mm512_load_si512(w + 64 * pair + 32);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      int32_t both;
      __builtin_memcpy(&both, x[r] + offset + 4 * pair, sizeof(both));
      const __m512i xk = _mm512_set1_epi32(both);
      acc[r][0] = _mm512_dpwssd_epi32(acc[r][0], w0, xk);
      acc[r][1] = _mm512_dpwssd_epi32(acc[r][1], w1, xk);
    }
  }
}

// One chain of kRows rows and 32 outputs, added to sums [kRows, 32].
template <bool kMins, bool kHalves, int kRows>
void AddChain(const PanelScratch& panel, const char* x_rows, const PackedQuantRow& at, int chain,
              float* sums) {
  const char* x[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) x[r] = x_rows + r * at.bytes();
  const int64_t groups = at.stride / kGroup;
  const ChainOrder order(groups);
  __m512 total[kRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) total[r][0] = total[r][1] = _mm512_setzero_ps();
  int64_t place = order.Begin(chain);
  for (int64_t g = chain; g < groups; g += kChains, ++place) {
    constexpr int kParts = kHalves ? 2 : 1;
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      __m512i acc[kRows][2];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_si512();
      AddPairs<kRows, 16 / kParts>(panel.codes + place * kGroupWords + part * kGroupWords / 2, x,
                                   at.words() + place * 64 + part * 32, acc);
      const float* scales = (part == 0 ? panel.scales : panel.second) + g * kStrip;
      const __m512 s0 = _mm512_load_ps(scales), s1 = _mm512_load_ps(scales + 16);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const __m512 d = _mm512_set1_ps(reinterpret_cast<const float*>(x[r] + at.scales())[g]);
        total[r][0] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][0]), _mm512_mul_ps(s0, d), total[r][0]);
        total[r][1] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][1]), _mm512_mul_ps(s1, d), total[r][1]);
      }
    }
    if constexpr (kMins) {
      const float* mins = panel.second + g * kStrip;
      const __m512 m0 = _mm512_load_ps(mins), m1 = _mm512_load_ps(mins + 16);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const __m512 s = _mm512_set1_ps(reinterpret_cast<const float*>(x[r] + at.sums())[g]);
        total[r][0] = _mm512_fnmadd_ps(m0, s, total[r][0]);
        total[r][1] = _mm512_fnmadd_ps(m1, s, total[r][1]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      float* to = sums + r * kStrip + 16 * h;
      const __m512 before = chain == 0 ? _mm512_setzero_ps() : _mm512_load_ps(to);
      _mm512_store_ps(to, _mm512_add_ps(before, total[r][h]));
    }
  }
}

template <bool kMins, bool kHalves, int kRows>
inline void AddChainOf(int64_t rows, const PanelScratch& panel, const char* x,
                       const PackedQuantRow& at, int chain, float* sums) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      AddChain<kMins, kHalves, kRows>(panel, x, at, chain, sums);
    } else {
      AddChainOf<kMins, kHalves, kRows - 1>(rows, panel, x, at, chain, sums);
    }
  }
}

template <typename Codec>
void PanelsOfX(const ProductBlock& block, float* scratch) {
  const Product& p = *block.product;
  const PackedQuantRow at(p.x_stride);
  const int64_t groups = p.in / kGroup, rows = block.row_end - block.row_begin;
  PanelScratch panel;
  panel.sums = scratch;
  panel.scales = panel.sums + rows * kStrip;
  panel.second = panel.scales + groups * kStrip;
  panel.codes = reinterpret_cast<int16_t*>(panel.second + groups * kStrip);
  const int64_t row_bytes = at.bytes();
  const char* x = static_cast<const char*>(p.x) + block.row_begin * row_bytes;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t o = block.out_begin; o < block.out_end; o += kStrip) {
    const int64_t outs = Min(kStrip, block.out_end - o);
    for (int half = 0; half < 2; ++half) {
      const int64_t begin = Min(16 * half, outs - 1);  // past the end: the last output once more
      DecodeHalf<Codec>(p, o + begin, Min(16, outs - begin), half, panel);
    }
    for (int chain = 0; chain < kChains; ++chain) {
      for (int64_t tile = 0; tile < tiles; ++tile) {  // of nearly equal heights
        const int64_t row = tile * rows / tiles, end = (tile + 1) * rows / tiles;
        AddChainOf<Codec::kMins, Codec::kHalves, kTileRows>(end - row, panel, x + row * row_bytes,
                                                            at, chain, panel.sums + row * kStrip);
      }
    }
    for (int64_t half = 0; 16 * half < outs; ++half) {
      const int64_t count = outs - 16 * half;
      const __m512 bias = LoadBias(p, o + 16 * half, count);
      for (int64_t row = 0; row < rows; ++row) {
        StoreOutputs(p, block.row_begin + row, o + 16 * half, count,
                     _mm512_load_ps(panel.sums + row * kStrip + 16 * half), bias);
      }
    }
  }
}

// RowsOfX of `rows` rows, at most kRows.
template <typename Codec, int kRows>
void TileOfX(const ProductBlock& block, int64_t row, int64_t rows, float* scratch) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      RowsOfX<Codec, kRows>(block, row, scratch);
    } else {
      TileOfX<Codec, kRows - 1>(block, row, rows, scratch);
    }
  }
}

// As PanelsOfX for few rows, all of them while 16 outputs' weights are in cache.
template <typename Codec>
void FewRowsOfX(const ProductBlock& block, float* scratch) {
  constexpr int kMaxRows = Codec::kOctets ? 4 : 3;
  const int64_t rows = block.row_end - block.row_begin, tiles = (rows + kMaxRows - 1) / kMaxRows;
  ProductBlock part = block;
  for (int64_t o = block.out_begin; o < block.out_end; o += 16) {
    part.out_begin = o;
    part.out_end = Min(o + 16, block.out_end);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = tile * rows / tiles, end = (tile + 1) * rows / tiles;
      TileOfX<Codec, kMaxRows>(part, block.row_begin + row, end - row, scratch);
    }
  }
}

template <typename Codec>
void RunCodec(const ProductBlock& block, float* scratch) {
  if (block.row_end - block.row_begin >= kMinPanelRows) {
    PanelsOfX<Codec>(block, scratch);
  } else {
    FewRowsOfX<Codec>(block, scratch);
  }
}

inline void StoreBytes(__m256i bytes, int64_t group, const PackedQuantRow& at, char* in_order,
                       char* by_pieces) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(in_order + 32 * group), bytes);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(by_pieces + at.Piece(group, 0)),
                   _mm256_castsi256_si128(bytes));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(by_pieces + at.Piece(group, 1)),
                   _mm256_extracti128_si256(bytes, 1));
}

// One group of x to its places in a packed row.
inline void PackGroup(__m512 first, __m512 second, int64_t group, int64_t place,
                      const PackedQuantRow& at, char* to) {
  const __m512i rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  const __m512i a = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(rounded)), 16);
  const __m512i b =
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(rounded, 1)), 16);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const uint32_t largest = _mm512_reduce_max_epu32(
      _mm512_max_epu32(_mm512_and_si512(a, magnitude), _mm512_and_si512(b, magnitude)));
  // Integers of at most 15 bits: the largest is in [2^13, 2^15), and not all ones, so that its
  // upper byte can be rounded. Groups that are zero or nearly so become zeros.
  uint32_t exponent = (largest + 0x10000u) >> 23;
  if (exponent < 27) exponent = 27;
  const uint32_t scale_bits = largest >= 0x7f800000u ? 0x7fc00000u : (exponent - 14) << 23;
  const __m512 inverse =
      reinterpret_cast<__m512>(_mm512_set1_epi32(static_cast<int>((268 - exponent) << 23)));
  const __m512i low_words = _mm512_cvtps_epi32(_mm512_mul_ps(reinterpret_cast<__m512>(a), inverse));
  const __m512i high_words =
      _mm512_cvtps_epi32(_mm512_mul_ps(reinterpret_cast<__m512>(b), inverse));
  const __m512i words = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(low_words)),
                                           _mm512_cvtepi32_epi16(high_words), 1);
  _mm512_storeu_si512(to + at.words() + 64 * place, words);
  StoreBytes(_mm512_cvtepi16_epi8(words), group, at, to + at.low(), to + at.low_pieces());
  const __m512i rounded_up = _mm512_add_epi16(words, _mm512_set1_epi16(128));
  StoreBytes(_mm512_cvtepi16_epi8(_mm512_srai_epi16(rounded_up, 8)), group, at, to + at.high(),
             to + at.high_pieces());
  const int32_t first_sum = _mm512_reduce_add_epi32(low_words);
  const int32_t sum = first_sum + _mm512_reduce_add_epi32(high_words);
  float scale;
  __builtin_memcpy(&scale, &scale_bits, sizeof(scale));
  reinterpret_cast<float*>(to + at.scales())[group] = scale;
  reinterpret_cast<float*>(to + at.sums())[group] = static_cast<float>(sum) * scale;
  reinterpret_cast<int32_t*>(to + at.integer_sums())[group] = sum;
  reinterpret_cast<int32_t*>(to + at.first_sums())[group] = first_sum;
}

void PackRowsOf(const float* x, int64_t x_stride, int64_t rows, int64_t in, void* packed,
                int64_t packed_stride) {
  const PackedQuantRow at(packed_stride);
  const int64_t groups = packed_stride / kGroup;
  const ChainOrder order(groups);
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * x_stride;
    char* to = static_cast<char*>(packed) + row * at.bytes();
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t left = in - kGroup * g;
      const __m512 first = _mm512_maskz_loadu_ps(FirstOf16(left), from + kGroup * g);
      const __m512 second =
          left > 16 ? _mm512_maskz_loadu_ps(FirstOf16(left - 16), from + kGroup * g + 16)
                    : _mm512_setzero_ps();
      PackGroup(first, second, g, order.Of(g), at, to);
    }
  }
}

void RunBlockOf(const ProductBlock& block, float* scratch) {
  switch (block.product->w_dtype) {
    case DType::kQ8_0: return RunCodec<Q8_0Codes>(block, scratch);
    case DType::kQ4_0: return RunCodec<Q4_0Codes>(block, scratch);
    case DType::kQ5_0: return RunCodec<Q5_0Codes>(block, scratch);
    case DType::kQ4_K: return RunCodec<Q4_KCodes>(block, scratch);
    case DType::kQ5_K: return RunCodec<Q5_KCodes>(block, scratch);
    case DType::kQ6_K: return RunCodec<Q6_KCodes>(block, scratch);
    default: break;
  }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}  // namespace

void PackQuantRows(const float* x, int64_t x_stride, int64_t rows, int64_t in, bool /*round*/,
                   void* packed, int64_t packed_stride) {
  PackRowsOf(x, x_stride, rows, in, packed, packed_stride);
}

void RunIntegerBlock(const ProductBlock& block, float* scratch) { RunBlockOf(block, scratch); }

int64_t IntegerScratchFloats(int64_t packed_stride, int64_t block_rows) {
  const int64_t groups = packed_stride / kGroup;
  return block_rows * kStrip + groups * (2 * kStrip + kGroupWords / 2);
}

}  // namespace mla::cpu

#endif  // __x86_64__
