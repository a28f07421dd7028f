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

inline constexpr int kLanes = 16;  // of 32 bits
inline constexpr float kLowest = -__builtin_inff();

inline __mmask32 FirstOf32(int64_t n) {
  return n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1u;
}
inline __mmask16 FirstOf16(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u);
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
