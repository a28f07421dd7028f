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

// Which words of 128 bytes from Base(j) are the scales of blocks 4 j to 4 j + 3 of a chunk.
template <int kBytes>
struct ScaleIndex {
  static constexpr int Base(int j) {
    return 4 * j * kBytes < 16 * kBytes - 128 ? 4 * j * kBytes : 16 * kBytes - 128;
  }
  alignas(64) uint16_t word[4][32] = {};
  constexpr ScaleIndex() {
    for (int i = 0; i < 16; ++i) {
      word[i / 4][i] = static_cast<uint16_t>((kBytes * i - Base(i / 4)) / 2);
    }
  }
};

#if defined(__clang__)
#pragma clang attribute push(                                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,gfni,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,gfni,avx512bf16,fma")
#endif

inline __m256i Load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m128i Load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m512i Twice(__m256i v) { return _mm512_broadcast_i64x4(v); }

// The types. Codes(chunk, t): the unsigned codes of groups 2 t and 2 t + 1 of a chunk of 16, byte
// by byte; a weight is its code less kOffset, times its scale, less its minimum. Scales(chunk):
// `first` of each group; `second`: minima (kMins) or scales of the second halves (kHalves).
template <int kBytes>
inline __m512 ScalesOf16Blocks(const void* chunk) {
  static constexpr ScaleIndex<kBytes> kIndex;
  const char* p = static_cast<const char*>(chunk);
  __m512i words = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const char* from = p + ScaleIndex<kBytes>::Base(j);
    words = _mm512_mask_mov_epi16(
        words, __mmask32{15} << (4 * j),
        _mm512_permutex2var_epi16(_mm512_loadu_si512(from), _mm512_load_si512(kIndex.word[j]),
                                  _mm512_loadu_si512(from + 64)));
  }
  return _mm512_cvtph_ps(_mm512_castsi512_si256(words));
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

struct Q8_0Codes {
  using Block = Q8_0Block;
  static constexpr int kOffset = 128;
  static constexpr bool kMins = false, kHalves = false;
  static __m512i Codes(const Block* chunk, int t) {
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(Load256(chunk[2 * t].codes)),
                                            Load256(chunk[2 * t + 1].codes), 1);
    return _mm512_xor_si512(both, _mm512_set1_epi8(static_cast<char>(0x80)));
  }
  static void Scales(const Block* chunk, __m512& first, __m512&) {
    first = ScalesOf16Blocks<sizeof(Block)>(chunk);
  }
};

struct Q4_0Codes {
  using Block = Q4_0Block;
  static constexpr int kOffset = 8;
  static constexpr bool kMins = false, kHalves = false;
  static __m512i Codes(const Block* chunk, int t) {
    return NibblesOf16Bytes(TwoOf16Bytes(chunk[2 * t].codes, chunk[2 * t + 1].codes));
  }
  static void Scales(const Block* chunk, __m512& first, __m512&) {
    first = ScalesOf16Blocks<sizeof(Block)>(chunk);
  }
};

struct Q5_0Codes {
  using Block = Q5_0Block;
  static constexpr int kOffset = 16;
  static constexpr bool kMins = false, kHalves = false;
  static __m512i Codes(const Block* chunk, int t) {
    const Block *a = chunk + 2 * t, *b = a + 1;
    uint32_t low, high;
    __builtin_memcpy(&low, a->high, sizeof(low));
    __builtin_memcpy(&high, b->high, sizeof(high));
    const __m512i codes = NibblesOf16Bytes(TwoOf16Bytes(a->codes, b->codes));
    return _mm512_mask_add_epi8(codes, uint64_t{high} << 32 | low, codes, _mm512_set1_epi8(16));
  }
  static void Scales(const Block* chunk, __m512& first, __m512&) {
    first = ScalesOf16Blocks<sizeof(Block)>(chunk);
  }
};

inline __m512 AllLanesHalf(uint16_t half) {
  return _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(half)));
}
inline __m512 FloatsOf16Bytes(uint64_t low, uint64_t high) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low))));
}
inline uint32_t UpperTwoBits(uint32_t four_bytes) { return (four_bytes >> 6 & 0x03030303u) << 4; }

// Scales and minima of the two blocks of a chunk (see KScales).
template <typename Block>
inline void LoadKScales(const Block* chunk, __m512& scales, __m512& mins) {
  uint64_t scale[2], min[2];
  uint32_t d[2];
#pragma GCC unroll 2
  for (int b = 0; b < 2; ++b) {
    uint32_t packed[3];
    __builtin_memcpy(packed, chunk[b].scales, sizeof(packed));
    __builtin_memcpy(&d[b], &chunk[b].d, sizeof(d[b]));  // d and d_min
    scale[b] = (packed[0] & 0x3f3f3f3fu) |
               uint64_t{(packed[2] & 0x0f0f0f0fu) | UpperTwoBits(packed[0])} << 32;
    min[b] = (packed[1] & 0x3f3f3f3fu) |
             uint64_t{(packed[2] >> 4 & 0x0f0f0f0fu) | UpperTwoBits(packed[1])} << 32;
  }
  const __m512 d4 = _mm512_cvtph_ps(
      _mm256_castsi128_si256(_mm_set_epi32(0, 0, static_cast<int>(d[1]), static_cast<int>(d[0]))));
  const __m512i of_d = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
  scales = _mm512_mul_ps(FloatsOf16Bytes(scale[0], scale[1]), _mm512_permutexvar_ps(of_d, d4));
  mins = _mm512_mul_ps(FloatsOf16Bytes(min[0], min[1]),
                       _mm512_permutexvar_ps(_mm512_or_si512(of_d, _mm512_set1_epi32(1)), d4));
}

struct Q4_KCodes {
  using Block = Q4_KBlock;
  static constexpr int kOffset = 0;
  static constexpr bool kMins = true, kHalves = false;
  static __m512i Codes(const Block* chunk, int t) {
    return NibblesOf32Bytes(chunk[t / 4].codes + t % 4 * 32);
  }
  static void Scales(const Block* chunk, __m512& first, __m512& second) {
    LoadKScales(chunk, first, second);
  }
};

struct Q5_KCodes {
  using Block = Q5_KBlock;
  static constexpr int kOffset = 0;
  static constexpr bool kMins = true, kHalves = false;
  static __m512i Codes(const Block* chunk, int t) {
    const __m512i codes = NibblesOf32Bytes(chunk[t / 4].codes + t % 4 * 32);
    const int bit = 1 << t % 4 * 2;
    const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(bit)),
                                            _mm256_set1_epi8(static_cast<char>(2 * bit)), 1);
    const __mmask64 high = _mm512_test_epi8_mask(Twice(Load256(chunk[t / 4].high)), bits);
    return _mm512_mask_add_epi8(codes, high, codes, _mm512_set1_epi8(16));
  }
  static void Scales(const Block* chunk, __m512& first, __m512& second) {
    LoadKScales(chunk, first, second);
  }
};

struct Q6_KCodes {
  using Block = Q6_KBlock;
  static constexpr int kOffset = 32;
  static constexpr bool kMins = false, kHalves = true;
  static __m512i Codes(const Block* chunk, int t) {
    const Block& block = chunk[t / 4];
    const int half = t % 4 / 2;
    const __m512i low = _mm512_loadu_si512(block.low + 64 * half);
    const __m512i high = Twice(Load256(block.high + 32 * half));
    const __m512i four = _mm512_set1_epi8(15), two = _mm512_set1_epi8(0x30);
    if (t % 2 == 0) {
      const __m512i up = _mm512_sllv_epi64(high, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2));
      return _mm512_or_si512(_mm512_and_si512(low, four), _mm512_and_si512(up, two));
    }
    const __m512i up = _mm512_srlv_epi64(high, _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2));
    return _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi64(low, 4), four),
                           _mm512_and_si512(up, two));
  }
  static void Scales(const Block* chunk, __m512& first, __m512& second) {
    const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Load128(chunk[0].scales)));
    const __m512 b = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Load128(chunk[1].scales)));
    const __m512 da = _mm512_mul_ps(a, AllLanesHalf(chunk[0].d));
    const __m512 db = _mm512_mul_ps(b, AllLanesHalf(chunk[1].d));
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
