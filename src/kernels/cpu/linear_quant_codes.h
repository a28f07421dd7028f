// The block types as the integer kernels of linear_quant_vnni.cc take them: unsigned codes and
// scales of 512 elements at a time, in vectors. For x86-64 only; call these from functions that are
// compiled for the same instructions.
#ifndef MLA_KERNELS_CPU_LINEAR_QUANT_CODES_H_
#define MLA_KERNELS_CPU_LINEAR_QUANT_CODES_H_

#include "kernels/cpu/avx512_bf16.h"
#include "tensor/quant_blocks.h"

namespace mla::cpu {
// Each file has its own copy: code for AVX-512 must not be shared through the linker.
namespace {  // NOLINT(google-build-namespaces)

inline constexpr int64_t kGroup = 32;
inline constexpr int64_t kChunk = 512;  // elements whose 16 groups are the lanes of a vector

// Bit matrices that take the low or the high half of each byte.
inline constexpr int64_t kLowHalf = 0x0102040800000000, kHighHalf = 0x1020408000000000;

// Where the scales of 16 blocks of kBytes lie: those of blocks kEach j to kEach j + kEach - 1 are
// among the words of 128 bytes from Base(j) on.
template <int kBytes>
struct ScaleIndex {
  static constexpr int kEach = 126 / kBytes + 1, kParts = (15 + kEach) / kEach;
  static constexpr int Base(int j) {
    return kEach * j * kBytes < 16 * kBytes - 128 ? kEach * j * kBytes : 16 * kBytes - 128;
  }
  alignas(64) uint16_t word[kParts][32] = {};
  constexpr ScaleIndex() {
    for (int i = 0; i < 16; ++i) {
      word[i / kEach][i] = static_cast<uint16_t>((kBytes * i - Base(i / kEach)) / 2);
    }
  }
};

// Bytes of eight blocks of kBytes in four windows of 64 bytes: of blocks 0 and 2 and of 4 and 6,
// then of 1 and 3 and of 5 and 7. The first two bytes of a block need not be in any.
template <int kBytes>
struct Windows {
  static constexpr int kBase[2][2] = {{2, 4 * kBytes + 2}, {kBytes + 2, 8 * kBytes - 64}};
  // Index of byte `byte` of block 2 j + odd into its pair of windows.
  static constexpr int Index(int j, int odd, int byte) {
    return (2 * j + odd) * kBytes + byte - kBase[odd][j / 2] + j / 2 * 64;
  }
};

// Which words of two windows are the codes of their four blocks, and their words of bits 4.
template <int kBytes>
struct PieceIndex {
  alignas(64) uint16_t codes[2][32] = {}, bits[2][32] = {};
  constexpr PieceIndex() {
    for (int odd = 0; odd < 2; ++odd) {
      for (int i = 0; i < 32; ++i) {
        codes[odd][i] =
            static_cast<uint16_t>(Windows<kBytes>::Index(i / 8, odd, kBytes - 16 + i % 8 * 2) / 2);
        bits[odd][i] = static_cast<uint16_t>(Windows<kBytes>::Index(i / 8, odd, 2 + i % 2 * 2) / 2);
      }
    }
  }
};

// For each of the 16 runs of two K blocks the bytes that its scale and its minimum are made of,
// among the first 16 of each block; byte 63 is zero.
struct KScaleBytes {
  alignas(64) uint8_t scale[16][4] = {}, min[16][4] = {};
  constexpr KScaleBytes() {
    for (int g = 0; g < 16; ++g) {
      const int block = g / 8 * 16, run = g % 8;
      for (int i = 0; i < 4; ++i) scale[g][i] = min[g][i] = 63;
      scale[g][0] = static_cast<uint8_t>(block + (run < 4 ? 4 + run : 8 + run));
      min[g][0] = static_cast<uint8_t>(block + 8 + run);
      if (run >= 4) {
        scale[g][1] = static_cast<uint8_t>(block + run);
        min[g][1] = static_cast<uint8_t>(block + 4 + run);
      }
    }
  }
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

inline __m256i Load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m128i Load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
// 64 bytes, of which `bytes` exist unless kWhole.
template <bool kWhole>
inline __m512i Load512(const char* p, int64_t bytes) {
  return kWhole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8(FirstOf64(bytes), p);
}
inline __m512i Twice(__m256i v) { return _mm512_broadcast_i64x4(v); }

// The scales of 16 blocks of kBytes, of which `groups` exist unless kWhole.
template <bool kWhole, int kBytes>
inline __m512 ScalesOf16Blocks(const void* chunk, int64_t groups) {
  using Index = ScaleIndex<kBytes>;
  static constexpr Index kIndex;
  const char* p = static_cast<const char*>(chunk);
  __m512i words = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int j = 0; j < Index::kParts; ++j) {
    const int64_t base = Index::Base(j), left = groups * kBytes - base;
    const __m512i part = _mm512_permutex2var_epi16(Load512<kWhole>(p + base, left),
                                                   _mm512_load_si512(kIndex.word[j]),
                                                   Load512<kWhole>(p + base + 64, left - 64));
    const __mmask32 mask = ((1u << Index::kEach) - 1) << (j * Index::kEach);
    words = j == 0 ? part : _mm512_mask_mov_epi16(words, mask, part);
  }
  return _mm512_cvtph_ps(_mm512_castsi512_si256(words));
}

// The windows that blocks 2 j + odd of eight lie in; words of them by PieceIndex.
template <bool kWhole, int kBytes>
struct BlockWindows {
  __m512i first, second;
  BlockWindows(const void* blocks, int odd, int64_t groups) {
    const char* p = static_cast<const char*>(blocks);
    const int a = Windows<kBytes>::kBase[odd][0], b = Windows<kBytes>::kBase[odd][1];
    first = Load512<kWhole>(p + a, groups * kBytes - a);
    second = Load512<kWhole>(p + b, groups * kBytes - b);
  }
  __m512i Words(const uint16_t* index) const {
    return _mm512_permutex2var_epi16(first, _mm512_load_si512(index), second);
  }
};
// From the 32 bits of a block in each four bytes of a quarter: those of half `half`, each as bit 4
// of a byte.
inline __m512i BitsOfHalf(__m512i words, int half) {
  // A byte for every eight codes, as the row of a bit matrix that bit 4 of a product comes from.
  const __m512i rows =
      _mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                     -1, -1, -1, static_cast<char>(2 * half), -1, -1, -1, -1, -1,
                                     -1, -1, static_cast<char>(2 * half + 1), -1, -1, -1, -1)));
  return _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201)),
                                       rows, 0);
}
inline __m512i LowNibbles(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
// The low nibbles of `bytes`, or `bits`.
inline __m512i LowNibblesOr(__m512i bytes, __m512i bits) {
  return _mm512_ternarylogic_epi32(bytes, _mm512_set1_epi8(15), bits, 0xea);
}
inline __m512i HighNibbles(__m512i bytes) {
  return _mm512_gf2p8affine_epi64_epi8(bytes, _mm512_set1_epi64(kHighHalf), 0);
}

// Each 16 bytes of the lower half of `bytes` as 32 codes: their low halves, then their high halves.
inline __m512i NibblesOf16Bytes(__m256i bytes) {
  const __m512i pairs = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3),
                                                 _mm512_castsi256_si512(bytes));
  return _mm512_gf2p8affine_epi64_epi8(pairs,
                                       _mm512_setr_epi64(kLowHalf, kLowHalf, kHighHalf, kHighHalf,
                                                         kLowHalf, kLowHalf, kHighHalf, kHighHalf),
                                       0);
}
inline __m256i TwoOf16Bytes(const void* first, const void* second) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(Load128(first)), Load128(second), 1);
}
// 32 bytes as 64 codes: their low halves, then their high halves.
inline __m512i NibblesOf32Bytes(const void* p) {
  return _mm512_gf2p8affine_epi64_epi8(
      Twice(Load256(p)),
      _mm512_setr_epi64(kLowHalf, kLowHalf, kLowHalf, kLowHalf, kHighHalf, kHighHalf, kHighHalf,
                        kHighHalf),
      0);
}

// The types. Codes(chunk, t): the unsigned codes of groups 2 t and 2 t + 1 of a chunk of 16, byte
// by byte; a weight is its code less kOffset, times its scale, less its minimum. Scales(chunk):
// `first` of each group; `second`: minima (kMins) or scales of the second halves (kHalves). Unless
// kWhole only `groups` groups exist, and nothing behind them is read.
//
// Where kOctets, Octet(blocks) holds eight groups, and its Codes(odd, half) are the codes of 16
// elements each of four groups, in the order of PackedQuantRow::Piece; those of odd groups are
// times kOddTimes.
struct Q8_0Codes {
  using Block = Q8_0Block;
  static constexpr int kOffset = 128;
  static constexpr bool kMins = false, kHalves = false, kOctets = false;
  static __m512i Codes(const Block* chunk, int t, bool both = true) {
    __m512i codes = _mm512_castsi256_si512(Load256(chunk[2 * t].codes));
    if (both) codes = _mm512_inserti64x4(codes, Load256(chunk[2 * t + 1].codes), 1);
    return _mm512_xor_si512(codes, _mm512_set1_epi8(static_cast<char>(0x80)));
  }
  template <bool kWhole>
  static void Scales(const Block* chunk, int64_t groups, __m512& first, __m512&) {
    first = ScalesOf16Blocks<kWhole, sizeof(Block)>(chunk, groups);
  }
};

struct Q4_0Codes {
  using Block = Q4_0Block;
  static constexpr int kOffset = 8;
  static constexpr bool kMins = false, kHalves = false, kOctets = true;
  static constexpr int kOddTimes = 1;
  static __m512i Codes(const Block* chunk, int t) {
    return NibblesOf16Bytes(TwoOf16Bytes(chunk[2 * t].codes, chunk[2 * t + 1].codes));
  }
  template <bool kWhole>
  static void Scales(const Block* chunk, int64_t groups, __m512& first, __m512&) {
    first = ScalesOf16Blocks<kWhole, sizeof(Block)>(chunk, groups);
  }
  template <bool kWhole>
  struct Octet {
    __m512i codes[2];
    Octet(const Block* blocks, int64_t groups) {
      static constexpr PieceIndex<sizeof(Block)> kIndex;
      for (int odd = 0; odd < 2; ++odd) {
        codes[odd] =
            BlockWindows<kWhole, sizeof(Block)>(blocks, odd, groups).Words(kIndex.codes[odd]);
      }
    }
    __m512i Codes(int odd, int half) const {
      return half == 0 ? LowNibbles(codes[odd]) : HighNibbles(codes[odd]);
    }
  };
};

struct Q5_0Codes {
  using Block = Q5_0Block;
  static constexpr int kOffset = 16;
  static constexpr bool kMins = false, kHalves = false, kOctets = true;
  static constexpr int kOddTimes = 1;
  static __m512i Codes(const Block* chunk, int t) {
    const Block *a = chunk + 2 * t, *b = a + 1;
    uint32_t low, high;
    __builtin_memcpy(&low, a->high, sizeof(low));
    __builtin_memcpy(&high, b->high, sizeof(high));
    const __m512i codes = NibblesOf16Bytes(TwoOf16Bytes(a->codes, b->codes));
    return _mm512_mask_add_epi8(codes, uint64_t{high} << 32 | low, codes, _mm512_set1_epi8(16));
  }
  template <bool kWhole>
  static void Scales(const Block* chunk, int64_t groups, __m512& first, __m512&) {
    first = ScalesOf16Blocks<kWhole, sizeof(Block)>(chunk, groups);
  }
  template <bool kWhole>
  struct Octet {
    __m512i codes[2], bits[2];
    Octet(const Block* blocks, int64_t groups) {
      static constexpr PieceIndex<sizeof(Block)> kIndex;
      for (int odd = 0; odd < 2; ++odd) {
        const BlockWindows<kWhole, sizeof(Block)> windows(blocks, odd, groups);
        codes[odd] = windows.Words(kIndex.codes[odd]);
        bits[odd] = windows.Words(kIndex.bits[odd]);
      }
    }
    __m512i Codes(int odd, int half) const {
      const __m512i high = BitsOfHalf(bits[odd], half);
      return half == 0 ? LowNibblesOr(codes[odd], high)
                       : _mm512_or_si512(HighNibbles(codes[odd]), high);
    }
  };
};

inline __m512 AllLanesHalf(uint16_t half) {
  return _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(half)));
}

// Scales and minima of the two blocks of a chunk (see KScales), or of one.
template <bool kWhole, typename Block>
inline void LoadKScales(const Block* chunk, int64_t groups, __m512& scales, __m512& mins) {
  static constexpr KScaleBytes kBytes;
  const __m128i none = _mm_setzero_si128();
  const __m256i heads = _mm256_inserti128_si256(
      _mm256_castsi128_si256(Load128(chunk)), kWhole || groups > 8 ? Load128(chunk + 1) : none, 1);
  const __m512i bytes = _mm512_zextsi256_si512(heads);
  const __m512i scale = _mm512_permutexvar_epi8(_mm512_load_si512(kBytes.scale), bytes);
  const __m512i min = _mm512_permutexvar_epi8(_mm512_load_si512(kBytes.min), bytes);
  // Six bits of the only byte; or four of the first and the upper two of the second.
  const __m512i low =
      _mm512_setr_epi32(63, 63, 63, 63, 15, 15, 15, 15, 63, 63, 63, 63, 15, 15, 15, 15);
  const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
  constexpr int kSelect = 0xca;
  const __m512i scale6 =
      _mm512_ternarylogic_epi32(low, scale, _mm512_srli_epi32(scale, 10), kSelect);
  const __m512i min6 = _mm512_ternarylogic_epi32(low, _mm512_srlv_epi32(min, shift),
                                                 _mm512_srli_epi32(min, 10), kSelect);
  const __m512 halves = _mm512_cvtph_ps(heads);  // d and d_min of each, the rest of no meaning
  const __m512i of_d = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8);
  const __m512i of_d_min = _mm512_setr_epi32(1, 1, 1, 1, 1, 1, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9);
  scales = _mm512_mul_ps(_mm512_cvtepi32_ps(scale6), _mm512_permutexvar_ps(of_d, halves));
  mins = _mm512_mul_ps(_mm512_cvtepi32_ps(min6), _mm512_permutexvar_ps(of_d_min, halves));
}

// The bytes of a K block's codes: first halves of its four pairs of runs, then second halves.
struct KPieces {
  __m512i half[2];
  explicit KPieces(const uint8_t* codes) {
    const __m512i a = _mm512_loadu_si512(codes), b = _mm512_loadu_si512(codes + 64);
    half[0] = _mm512_shuffle_i64x2(a, b, 0x88);
    half[1] = _mm512_shuffle_i64x2(a, b, 0xdd);
  }
};

template <typename B>
struct KCodes {
  using Block = B;
  static constexpr int kOffset = 0;
  static constexpr bool kMins = true, kHalves = false, kOctets = true;
  template <bool kWhole>
  static void Scales(const Block* chunk, int64_t groups, __m512& first, __m512& second) {
    LoadKScales<kWhole>(chunk, groups, first, second);
  }
};

struct Q4_KCodes : KCodes<Q4_KBlock> {
  static constexpr int kOddTimes = 16;
  static __m512i Codes(const Block* chunk, int t) {
    return NibblesOf32Bytes(chunk[t / 4].codes + t % 4 * 32);
  }
  template <bool>
  struct Octet {
    KPieces pieces;
    Octet(const Block* block, int64_t /*groups*/) : pieces(block->codes) {}
    __m512i Codes(int odd, int half) const {
      return _mm512_and_si512(pieces.half[half],
                              _mm512_set1_epi8(static_cast<char>(odd == 0 ? 0x0f : 0xf0)));
    }
  };
};

struct Q5_KCodes : KCodes<Q5_KBlock> {
  static constexpr int kOddTimes = 1;
  static __m512i Codes(const Block* chunk, int t) {
    const __m512i codes = NibblesOf32Bytes(chunk[t / 4].codes + t % 4 * 32);
    const int bit = 1 << t % 4 * 2;
    const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(bit)),
                                            _mm256_set1_epi8(static_cast<char>(2 * bit)), 1);
    const __mmask64 high = _mm512_test_epi8_mask(Twice(Load256(chunk[t / 4].high)), bits);
    return _mm512_mask_add_epi8(codes, high, codes, _mm512_set1_epi8(16));
  }
  template <bool>
  struct Octet {
    KPieces pieces;
    __m512i high[2];
    Octet(const Block* block, int64_t /*groups*/) : pieces(block->codes) {
      for (int half = 0; half < 2; ++half) {
        high[half] = _mm512_broadcast_i32x4(Load128(block->high + 16 * half));
      }
    }
    __m512i Codes(int odd, int half) const {
      // Bit matrices that make bit 2 j + odd bit 4 in quarter j.
      const __m512i rows = _mm512_setr_epi64(int64_t{1} << 24 << odd, int64_t{1} << 24 << odd,
                                             int64_t{4} << 24 << odd, int64_t{4} << 24 << odd,
                                             int64_t{16} << 24 << odd, int64_t{16} << 24 << odd,
                                             int64_t{64} << 24 << odd, int64_t{64} << 24 << odd);
      const __m512i bits = _mm512_gf2p8affine_epi64_epi8(high[half], rows, 0);
      const __m512i low = odd == 0 ? pieces.half[half] : _mm512_srli_epi16(pieces.half[half], 4);
      return LowNibblesOr(low, bits);
    }
  };
};

struct Q6_KCodes {
  using Block = Q6_KBlock;
  static constexpr int kOffset = 32;
  static constexpr bool kMins = false, kHalves = true, kOctets = false;
  static __m512i Codes(const Block* chunk, int t, bool /*both*/ = true) {
    const Block& block = chunk[t / 4];
    const int half = t % 4 / 2;
    const __m512i low = _mm512_loadu_si512(block.low + 64 * half);
    const __m512i high = Twice(Load256(block.high + 32 * half));
    // Bit matrices that make bits 2 r and 2 r + 1 bits 4 and 5, r being the run.
    const int64_t first = int64_t{0x01020000} << t % 2 * 4, second = first << 2;
    const __m512i bits = _mm512_gf2p8affine_epi64_epi8(
        high, _mm512_setr_epi64(first, first, first, first, second, second, second, second), 0);
    return LowNibblesOr(t % 2 == 0 ? low : _mm512_srli_epi16(low, 4), bits);
  }
  template <bool kWhole>
  static void Scales(const Block* chunk, int64_t groups, __m512& first, __m512& second) {
    const Block* next = kWhole || groups > 8 ? chunk + 1 : chunk;
    const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Load128(chunk[0].scales)));
    const __m512 b = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Load128(next->scales)));
    const __m512 da = _mm512_mul_ps(a, AllLanesHalf(chunk[0].d));
    const __m512 db = _mm512_mul_ps(b, AllLanesHalf(next->d));
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    first = _mm512_permutex2var_ps(da, even, db);
    second = _mm512_permutex2var_ps(da, _mm512_or_si512(even, _mm512_set1_epi32(1)), db);
  }
};

// A chunk at the end of a row that has fewer blocks, as a whole one.
template <typename Block>
struct PartialChunk {
  Block blocks[kChunk / Block::kElements];
  void Fill(const Block* from, int64_t count) {
    __builtin_memset(blocks, 0, sizeof(blocks));
    __builtin_memcpy(blocks, from, count * sizeof(Block));
  }
};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}  // namespace
}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_LINEAR_QUANT_CODES_H_
