// What kernels on AVX512_BF16 share. For x86-64 only; call these from functions that are compiled
// for the same instructions.
#ifndef MLA_KERNELS_CPU_AVX512_BF16_H_
#define MLA_KERNELS_CPU_AVX512_BF16_H_

#if !defined(__clang__)
// GCC 12 takes the deliberately undefined operands in its own header for mistakes.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

namespace mla::cpu {
// Each file has its own copy: code for AVX-512 must not be shared through the linker.
namespace {  // NOLINT(google-build-namespaces)

// AVX-512 is enabled for the functions below only. Nothing of the standard library may be
// instantiated among them: the linker could keep that copy for callers on older machines.
#if defined(__clang__)
#pragma clang attribute push(                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif

using Bf16Bits = uint16_t;

inline __m512bh AsBf16(__m512i v) { return reinterpret_cast<__m512bh>(v); }
inline __m512bh LoadBf16(const Bf16Bits* p) { return AsBf16(_mm512_loadu_si512(p)); }
inline __m512bh LoadBf16(const Bf16Bits* p, __mmask32 mask) {
  return AsBf16(_mm512_maskz_loadu_epi16(mask, p));
}

inline __m512bh BroadcastPair(const Bf16Bits* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return AsBf16(_mm512_set1_epi32(pair));
}

// The first n of 64 lanes; all from 64 on, none from 0 down.
inline __mmask64 FirstOf64(int64_t n) {
  return n >= 64 ? ~__mmask64{0} : n > 0 ? (__mmask64{1} << n) - 1 : 0;
}

// LinearBackend::pack_rows to bf16.
inline void PackRows(const float* x, int64_t x_stride, int64_t rows, int64_t in, bool /*round*/,
                     void* packed, int64_t packed_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * x_stride;
    Bf16Bits* to = static_cast<Bf16Bits*>(packed) + row * packed_stride;
    for (int64_t k = 0; k < packed_stride; k += 16) {
      const int64_t left = in - k;
      const __mmask16 mask = left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
      const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from + k));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + k), reinterpret_cast<__m256i>(rounded));
    }
  }
}

// 16 x 16 transpose of 32-bit lanes.
inline void Transpose16(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    const __m512i b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c);
    t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d);
    t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  // t[4 i + j] holds, in block k, column 4 k + j of rows 4 i to 4 i + 3: a 4 x 4 transpose of
  // blocks over (i, k) remains.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(t[j], t[j + 4], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(t[j], t[j + 4], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(t[j + 8], t[j + 12], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(t[j + 8], t[j + 12], 0xee);
    r[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    r[j + 4] = _mm512_shuffle_i32x4(a, c, 0xdd);
    r[j + 8] = _mm512_shuffle_i32x4(b, d, 0x88);
    r[j + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Lane i of the result is the sum of the lanes of v[i], by the same tree for every i: each step
// adds halves of half as many lanes, packing two inputs into one.
inline __m256 SumLanes(const __m512 (&v)[8]) {
  __m256 half[8], quarter[4], eighth[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    half[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    quarter[i] = _mm256_add_ps(_mm256_blend_ps(half[i], half[i + 4], 0xf0),
                               _mm256_permute2f128_ps(half[i], half[i + 4], 0x21));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    eighth[i] = _mm256_add_ps(_mm256_blend_ps(quarter[i], quarter[i + 2], 0xcc),
                              _mm256_shuffle_ps(quarter[i], quarter[i + 2], 0x4e));
  }
  const __m256 swapped = _mm256_blend_ps(eighth[0], eighth[1], 0x55);
  return _mm256_add_ps(_mm256_blend_ps(eighth[0], eighth[1], 0xaa),
                       _mm256_permute_ps(swapped, 0xb1));
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}  // namespace
}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_AVX512_BF16_H_
