// FP8 codes (e4m3) as operands of matrix instructions.
//
// Values: a code, its sign moved to the top and the rest to the exponent's lower end, is a number
// of bf16 times 2^-120, exactly, subnormal ones too. That takes three instructions for two codes.
// What it is multiplied by is raised to meet it.
//
// Keys: fp16, to which there is an instruction from compute capability 8.9 on; before that a code's
// bits are a number of fp16 times 2^-8. Q becomes fp16 after a power of two for each row, so that
// nothing of it is lost. A code of NaN is NaN from 8.9 on, and else reads as 480.
#ifndef MLA_KERNELS_CUDA_FP8_CODES_CUH_
#define MLA_KERNELS_CUDA_FP8_CODES_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace mla::cuda {

// Codes as numbers of T: T(code) * 2^(-kBelow).
template <typename T>
struct CodeFormat;
template <>
struct CodeFormat<__nv_bfloat16> {
  static constexpr int kShift = 4, kBelow = 120;
  static constexpr uint32_t kMask = 0x87f087f0u;
};
template <>
struct CodeFormat<__half> {
  static constexpr int kShift = 7, kBelow = 8;
  static constexpr uint32_t kMask = 0xbf80bf80u;
};

// 2^exponent, of a normal number.
constexpr float PowerOfTwo(int exponent) {
  float power = 1;
  for (; exponent > 0; --exponent) power *= 2;
  for (; exponent < 0; ++exponent) power /= 2;
  return power;
}

// Two bytes of (low, high), 0 to 7, of which kFirst becomes the first. The byte above each is made
// copies of its sign, from where the shift takes one to the top.
template <typename T, int kFirst, int kSecond>
__device__ __forceinline__ uint32_t CodePair(uint32_t low, uint32_t high) {
  constexpr uint32_t kSelect = kFirst | (kFirst + 8) << 4 | kSecond << 8 | (kSecond + 8) << 12;
  uint32_t bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "n"(kSelect));
  return bytes << CodeFormat<T>::kShift & CodeFormat<T>::kMask;
}

// Four codes as two pairs of fp16, below their values by kKeysBelow.
#if __CUDA_ARCH__ >= 890
inline constexpr int kKeysBelow = 0;
__device__ __forceinline__ void KeyPairs(uint32_t codes, uint32_t (&pairs)[2]) {
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n"
      "}\n"
      : "=r"(pairs[0]), "=r"(pairs[1])
      : "r"(codes));
}
#else
inline constexpr int kKeysBelow = CodeFormat<__half>::kBelow;
__device__ __forceinline__ void KeyPairs(uint32_t codes, uint32_t (&pairs)[2]) {
  pairs[0] = CodePair<__half, 0, 1>(codes, codes);
  pairs[1] = CodePair<__half, 2, 3>(codes, codes);
}
#endif

template <typename T>
__device__ __forceinline__ float2 UnpackPair(uint32_t pair) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
  } else {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  }
}

// The greater of the magnitudes of two numbers of T.
template <typename T>
__device__ __forceinline__ float MostOfPair(uint32_t pair) {
  const float2 v = UnpackPair<T>(pair);
  return fmaxf(fabsf(v.x), fabsf(v.y));
}

// The power of two that makes fp16 of a row of Q, the largest magnitude of which is `most`, and
// what products with codes are then to be multiplied by.
struct QueryFactors {
  float up, down;

  __device__ __forceinline__ explicit QueryFactors(float most) {
    constexpr int kLargest = 14;  // numbers of fp16 are made less than 2^(this + 1)
    // Of fp32 numbers: exponents of both powers stay normal.
    constexpr int kBias = 127, kLeast = 20, kGreatest = 254;
    const int exponent = min(max(__float_as_int(most) >> 23, kLeast), kGreatest);
    up = __int_as_float((kLargest + 2 * kBias - exponent) << 23);
    down = __int_as_float((exponent - kLargest + kKeysBelow) << 23);
  }
};

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_FP8_CODES_CUH_
