// Which Highway targets the CPU kernels are compiled for. Include before any header of Highway, in
// every file that does, so that all of them agree.
#ifndef MLA_KERNELS_CPU_SIMD_TARGETS_H_
#define MLA_KERNELS_CPU_SIMD_TARGETS_H_

// Each target costs compile time and code size. SSSE3-only and SVE machines fall back to the
// baseline (scalar, NEON); AVX3_DL adds nothing over AVX3 that these kernels would use.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

#endif  // MLA_KERNELS_CPU_SIMD_TARGETS_H_
