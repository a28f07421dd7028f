// F8E4M3 codes as bf16 numbers, which hold them exactly. For x86-64 only; call these from functions
// that are compiled for the same instructions.
#ifndef MLA_KERNELS_CPU_F8_CODES_H_
#define MLA_KERNELS_CPU_F8_CODES_H_

#include "kernels/cpu/avx512_bf16.h"

namespace mla::cpu {
// Each file has its own copy: code for AVX-512 must not be shared through the linker.
namespace {  // NOLINT(google-build-namespaces)

// The upper and lower bytes of the bf16 number that each code without its sign stands for.
struct F8Table {
  alignas(64) uint8_t upper[128] = {}, lower[128] = {};
  constexpr F8Table() {
    for (int code = 0; code < 128; ++code) {
      const int exponent = code >> 3, mantissa = code & 7;
      int bits = (exponent + 120) << 7 | mantissa << 4;
      if (exponent == 0) {  // mantissa times 2^-9
        int top = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;
        bits = mantissa == 0 ? 0 : (top + 118) << 7 | ((mantissa << (7 - top)) & 0x7f);
      }
      if (code == 0x7f) bits = 0x7fc0;
      upper[code] = static_cast<uint8_t>(bits >> 8);
      lower[code] = static_cast<uint8_t>(bits);
    }
  }
};
inline constexpr F8Table kF8Table;

#if defined(__clang__)
#pragma clang attribute push(                                                                \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,fma")
#endif

struct F8Decoder {
  __m512i upper[2], lower[2];
  F8Decoder() {
    for (int i = 0; i < 2; ++i) {
      upper[i] = _mm512_load_si512(kF8Table.upper + 64 * i);
      lower[i] = _mm512_load_si512(kF8Table.lower + 64 * i);
    }
  }
  // 64 codes as bf16.
  void operator()(__m512i codes, __m512bh& first, __m512bh& second) const {
    // Unpacking takes eight bytes of each 16: those of the first half, then of the second.
    codes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), codes);
    __m512i high = _mm512_permutex2var_epi8(upper[0], codes, upper[1]);
    const __m512i low = _mm512_permutex2var_epi8(lower[0], codes, lower[1]);
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
    first = AsBf16(_mm512_unpacklo_epi8(low, high));
    second = AsBf16(_mm512_unpackhi_epi8(low, high));
  }
};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}  // namespace
}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_F8_CODES_H_
