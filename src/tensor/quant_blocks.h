// The block types: what a block holds, and plain conversion of rows. Layouts are those of GGUF.
//
// A value is defined as an fp32 number: the product of code and scales is exact in fp32, and where
// a minimum is subtracted that difference is rounded once. Every kernel computes from these values.
#ifndef MLA_TENSOR_QUANT_BLOCKS_H_
#define MLA_TENSOR_QUANT_BLOCKS_H_

#include <bit>
#include <cstdint>

#include "base/numeric.h"
#include "mla/tensor.h"

namespace mla {

// Blocks of 32 elements with one f16 scale d. In Q4_0 and Q5_0 the low halves of the bytes are
// elements 0 to 15, the high halves 16 to 31.
struct Q8_0Block {  // d * code
  static constexpr int64_t kElements = 32;
  uint16_t d;
  int8_t codes[32];
};
struct Q4_0Block {  // d * (code - 8)
  static constexpr int64_t kElements = 32;
  uint16_t d;
  uint8_t codes[16];
};
struct Q5_0Block {  // d * (code - 16); bit i of `high` is bit 4 of element i's code
  static constexpr int64_t kElements = 32;
  uint16_t d;
  uint8_t high[4];
  uint8_t codes[16];
};

// Blocks of 256 elements in runs of 32 (Q6_K: 16), each with its own small integer scale, and in
// Q4_K and Q5_K a minimum: d * scale * code - d_min * min. Bytes 32 c to 32 c + 31 of `codes` hold
// elements 64 c to 64 c + 31 in their low halves and the next 32 in their high halves.
struct Q4_KBlock {
  static constexpr int64_t kElements = 256;
  uint16_t d, d_min;   // f16
  uint8_t scales[12];  // 8 scales and 8 minima of 6 bits: see KScales
  uint8_t codes[128];
};
struct Q5_KBlock {
  static constexpr int64_t kElements = 256;
  uint16_t d, d_min;
  uint8_t scales[12];
  uint8_t high[32];  // bit r of byte i is bit 4 of the code of element 32 r + i
  uint8_t codes[128];
};
// d * scale * (code - 32). Each half of the block has four runs of 32 elements. Runs 0 and 1 are
// the low halves of bytes 0 to 31 and 32 to 63 of its part of `low`, runs 2 and 3 the high halves;
// bits 2 r and 2 r + 1 of byte i of its part of `high` are bits 4 and 5 of element i of run r.
struct Q6_KBlock {
  static constexpr int64_t kElements = 256;
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];  // of 16 elements each
  uint16_t d;         // f16
};
static_assert(sizeof(Q8_0Block) == 34 && sizeof(Q4_0Block) == 18 && sizeof(Q5_0Block) == 22);
static_assert(sizeof(Q4_KBlock) == 144 && sizeof(Q5_KBlock) == 176 && sizeof(Q6_KBlock) == 210);

// The packed scales and minima of Q4_K and Q5_K. Of runs 0 to 3 they are the low six bits of bytes
// r and r + 4; of runs 4 to 7 the halves of byte r + 4, with their upper two bits in the upper bits
// of bytes r - 4 and r.
struct KScales {
  uint8_t scale[8], min[8];
};
inline KScales UnpackKScales(const uint8_t* packed) {
  KScales s;
  for (int r = 0; r < 4; ++r) {
    s.scale[r] = packed[r] & 63;
    s.min[r] = packed[r + 4] & 63;
    s.scale[r + 4] = static_cast<uint8_t>((packed[r + 8] & 15) | (packed[r] >> 6 << 4));
    s.min[r + 4] = static_cast<uint8_t>((packed[r + 8] >> 4) | (packed[r + 4] >> 6 << 4));
  }
  return s;
}

// OCP 8-bit floating point, e4m3 without infinities: bias 7, 0x7f and 0xff are NaN.
inline float F8E4M3ToF32(uint8_t bits) {
  if ((bits & 0x7f) == 0x7f)
    return std::bit_cast<float>(0x7fc00000u | uint32_t{bits & 0x80u} << 24);
  // As the top bits of an fp32 it is too small by 2^(127 - 7), subnormals included.
  const uint32_t sign = uint32_t{bits & 0x80u} << 24;
  const float magnitude = std::bit_cast<float>(uint32_t{bits & 0x7fu} << 20) * 0x1p120f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}
// Round to nearest even; beyond 448, the largest, the result is 448 with the sign. NaN stays NaN.
uint8_t F32ToF8E4M3(float value);

// Decoding of one block, to be inlined into kernels, where it is vectorised for their target.
#define MLA_INLINE [[gnu::always_inline]] inline
MLA_INLINE void DecodeBlock(const Q8_0Block& b, float* to) {
  const float d = F16ToF32(b.d);
  for (int i = 0; i < 32; ++i) to[i] = d * static_cast<float>(b.codes[i]);
}
MLA_INLINE void DecodeBlock(const Q4_0Block& b, float* to) {
  const float d = F16ToF32(b.d);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * static_cast<float>((b.codes[i] & 15) - 8);
    to[i + 16] = d * static_cast<float>((b.codes[i] >> 4) - 8);
  }
}
MLA_INLINE void DecodeBlock(const Q5_0Block& b, float* to) {
  const float d = F16ToF32(b.d);
  const uint32_t high =
      b.high[0] | uint32_t{b.high[1]} << 8 | uint32_t{b.high[2]} << 16 | uint32_t{b.high[3]} << 24;
  for (int i = 0; i < 16; ++i) {
    const uint32_t first = (b.codes[i] & 15u) | (high >> i & 1u) << 4;
    const uint32_t second = (b.codes[i] >> 4) | (high >> (i + 16) & 1u) << 4;
    to[i] = d * static_cast<float>(static_cast<int>(first) - 16);
    to[i + 16] = d * static_cast<float>(static_cast<int>(second) - 16);
  }
}
MLA_INLINE void DecodeBlock(const Q4_KBlock& b, float* to) {
  const float d = F16ToF32(b.d), d_min = F16ToF32(b.d_min);
  const KScales s = UnpackKScales(b.scales);
  for (int r = 0; r < 8; ++r) {
    const float scale = d * s.scale[r], min = d_min * s.min[r];
    const uint8_t* codes = b.codes + r / 2 * 32;
    const int shift = r % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      to[r * 32 + i] = scale * static_cast<float>(codes[i] >> shift & 15) - min;
    }
  }
}
MLA_INLINE void DecodeBlock(const Q5_KBlock& b, float* to) {
  const float d = F16ToF32(b.d), d_min = F16ToF32(b.d_min);
  const KScales s = UnpackKScales(b.scales);
  for (int r = 0; r < 8; ++r) {
    const float scale = d * s.scale[r], min = d_min * s.min[r];
    const uint8_t* codes = b.codes + r / 2 * 32;
    const int shift = r % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int code = (codes[i] >> shift & 15) | (b.high[i] >> r & 1) << 4;
      to[r * 32 + i] = scale * static_cast<float>(code) - min;
    }
  }
}
MLA_INLINE void DecodeBlock(const Q6_KBlock& b, float* to) {
  const float d = F16ToF32(b.d);
  for (int r = 0; r < 8; ++r) {
    const uint8_t* low = b.low + r / 4 * 64 + r % 2 * 32;
    const uint8_t* high = b.high + r / 4 * 32;
    const int low_shift = r % 4 / 2 * 4, high_shift = r % 4 * 2;
    for (int i = 0; i < 32; ++i) {
      const int code = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
      const int8_t scale = b.scales[2 * r + i / 16];
      to[r * 32 + i] = d * scale * static_cast<float>(code - 32);
    }
  }
}
#undef MLA_INLINE

// `count` elements, whole blocks of a block type; of F8E4M3 the codes, without scales. Plain types
// are converted. kI32 is no weight: it stops the program.
void DequantiseRow(DType dtype, const void* from, int64_t count, float* to);
// The reverse. Scales of the block types are searched for the least weighted squared error. A block
// that holds a NaN or an infinity gets values of no meaning; nothing worse happens.
void QuantiseRow(DType dtype, const float* from, int64_t count, void* to);

// Elements [col, col + count) of row `row` of a matrix of any weight type, scales applied. In a
// block type `col` and `count` are whole blocks. The matrix's innermost stride is 1.
void DequantiseMatrixRow(const ConstTensor& w, int64_t row, int64_t col, int64_t count, float* to);

}  // namespace mla

#endif  // MLA_TENSOR_QUANT_BLOCKS_H_
