// What the attention kernels in AVX-512 intrinsics share. For x86-64 only; call these from
// functions that are compiled for the same instructions.
#ifndef MLA_KERNELS_CPU_ATTENTION_AVX512_H_
#define MLA_KERNELS_CPU_ATTENTION_AVX512_H_

#include "kernels/cpu/avx512_bf16.h"
// After avx512_bf16.h.
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/attention_tile.h"

namespace mla::cpu {
// Each file has its own copy: code for AVX-512 must not be shared through the linker.
namespace {  // NOLINT(google-build-namespaces)

// Nothing of the standard library may be instantiated between push and pop: the linker could keep
// that copy of it for code that runs on other machines.
#if defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

inline constexpr int kLanes = 16;                 // of 32 bits
inline constexpr int kPanel = 32;                 // columns: two vectors of pairs
inline constexpr int kStepElements = 2 * kPanel;  // bf16 of a panel step
inline constexpr int kRows = 12;                  // rows of C in registers, two vectors each
inline constexpr float kLowest = -__builtin_inff();

inline __mmask32 FirstOf32(int64_t n) {
  return n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1u;
}
inline __mmask16 FirstOf16(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u);
}

inline void RoundRow(const float* src, int32_t n, void* dst) {
  auto* to = static_cast<uint16_t*>(dst);
  const int32_t padded = (n + 1) & ~1;
  for (int32_t i = 0; i < padded; i += kLanes) {
    const __m512 x = _mm512_maskz_loadu_ps(FirstOf16(n - i), src + i);
    const __m256i y = (__m256i)_mm512_cvtneps_pbh(x);
    _mm256_mask_storeu_epi16(to + i, FirstOf16(padded - i), y);
  }
}

inline void PackTransposed(const SourceRows& src, const Panels& dst, float*) {
  const int32_t columns = (src.num_rows + kPanel - 1) / kPanel * kPanel;
  const int64_t steps = (src.dim + 1) / 2;
  for (int32_t first = 0; first < columns; first += kLanes) {
    uint16_t* panel = static_cast<uint16_t*>(dst.data) +
                      (first / kPanel * int64_t{dst.steps} + dst.offset) * kStepElements +
                      first % kPanel * 2;
    for (int64_t step = 0; step < steps; step += kLanes) {
      const __mmask32 mask = FirstOf32(src.dim - 2 * step);
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        r[i] = first + i < src.num_rows
                   ? _mm512_maskz_loadu_epi16(
                         mask, static_cast<const uint16_t*>(src.rows[first + i]) + 2 * step)
                   : _mm512_setzero_si512();
      }
      Transpose16(r);
      const int64_t n = steps - step;
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (i < n) _mm512_store_si512(panel + (step + i) * kStepElements, r[i]);
      }
    }
  }
}

// 2^x for x <= 0, to about 3e-7.
inline __m512 Exp2(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.54035304e-4f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240226507f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693147181f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}  // namespace
}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ATTENTION_AVX512_H_
