#include "io/gguf_types.h"

#include <cstring>

#include "base/check.h"
#include "base/numeric.h"
#include "tensor/quant_blocks.h"

namespace mla {
namespace {

constexpr uint32_t kQ4_1 = 3, kQ5_1 = 7;

constexpr GgufTensorType kTensorTypes[] = {
    {0, "F32", 1, 4, StoredDType::kF32},
    {1, "F16", 1, 2, StoredDType::kF16},
    {2, "Q4_0", 32, 18, StoredDType::kQ4_0},
    {kQ4_1, "Q4_1", 32, 20, {}},
    {6, "Q5_0", 32, 22, StoredDType::kQ5_0},
    {kQ5_1, "Q5_1", 32, 24, {}},
    {8, "Q8_0", 32, 34, StoredDType::kQ8_0},
    {12, "Q4_K", 256, 144, StoredDType::kQ4_K},
    {13, "Q5_K", 256, 176, StoredDType::kQ5_K},
    {14, "Q6_K", 256, 210, StoredDType::kQ6_K},
    {30, "BF16", 1, 2, StoredDType::kBF16},
    // Known by name, to say what a file needs.
    {9, "Q8_1", 32, 0, {}},
    {10, "Q2_K", 256, 0, {}},
    {11, "Q3_K", 256, 0, {}},
    {15, "Q8_K", 256, 0, {}},
    {16, "IQ2_XXS", 256, 0, {}},
    {17, "IQ2_XS", 256, 0, {}},
    {18, "IQ3_XXS", 256, 0, {}},
    {19, "IQ1_S", 256, 0, {}},
    {20, "IQ4_NL", 32, 0, {}},
    {21, "IQ3_S", 256, 0, {}},
    {22, "IQ2_S", 256, 0, {}},
    {23, "IQ4_XS", 256, 0, {}},
    {24, "I8", 1, 0, {}},
    {25, "I16", 1, 0, {}},
    {26, "I32", 1, 0, {}},
    {27, "I64", 1, 0, {}},
    {28, "F64", 1, 0, {}},
    {29, "IQ1_M", 256, 0, {}},
    {34, "TQ1_0", 256, 0, {}},
    {35, "TQ2_0", 256, 0, {}},
    {39, "MXFP4", 32, 0, {}},
};

// Q4_1 and Q5_1: d * code + m. Element i is the low half of byte i, element 16 + i the high half;
// in Q5_1 bit i of the word before the halves is bit 4 of element i.
void DecodeWithMinimum(bool five_bits, const uint8_t* block, float* to) {
  uint16_t d_bits, m_bits;
  uint32_t high = 0;
  std::memcpy(&d_bits, block, 2);
  std::memcpy(&m_bits, block + 2, 2);
  if (five_bits) std::memcpy(&high, block + 4, 4);
  const uint8_t* codes = block + (five_bits ? 8 : 4);
  const float d = F16ToF32(d_bits), m = F16ToF32(m_bits);
  for (int i = 0; i < 32; ++i) {
    const uint32_t low = i < 16 ? codes[i] & 15u : codes[i - 16] >> 4;
    to[i] = d * static_cast<float>(low | ((high >> i & 1u) << 4)) + m;
  }
}

}  // namespace

size_t GgufTypeSize(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool: return 1;
    case GgufType::kU16:
    case GgufType::kI16: return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32: return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64: return 8;
    default: return 0;
  }
}

std::string_view GgufTypeName(GgufType type) {
  constexpr std::string_view kNames[] = {"u8",   "i8",  "u16", "i16", "u32", "i32", "f32",
                                         "bool", "str", "arr", "u64", "i64", "f64"};
  return IsKnown(type) ? kNames[static_cast<uint32_t>(type)] : "unknown";
}

const GgufTensorType* FindGgufTensorType(uint32_t id) {
  for (const GgufTensorType& type : kTensorTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

const GgufTensorType& GgufTensorTypeOf(StoredDType stored) {
  for (const GgufTensorType& type : kTensorTypes) {
    if (type.stored == stored) return type;
  }
  MLA_CHECK(false, StoredDTypeName(stored), " is no tensor type of GGUF");
}

std::string_view ReadableGgufTensorTypes() {
  return "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K";
}

void DecodeGgufRow(const GgufTensorType& type, const void* from, int64_t count, float* to) {
  MLA_CHECK(type.block_bytes > 0 && count % type.block_elements == 0, type.name, " ", count);
  if (type.id == kQ4_1 || type.id == kQ5_1) {
    const auto* block = static_cast<const uint8_t*>(from);
    for (int64_t i = 0; i < count; i += 32, block += type.block_bytes) {
      DecodeWithMinimum(type.id == kQ5_1, block, to + i);
    }
    return;
  }
  switch (*type.stored) {
    case StoredDType::kF32: std::memcpy(to, from, count * sizeof(float)); return;
    case StoredDType::kF16:
      for (int64_t i = 0; i < count; ++i) to[i] = F16ToF32(static_cast<const uint16_t*>(from)[i]);
      return;
    case StoredDType::kBF16:
      for (int64_t i = 0; i < count; ++i) to[i] = Bf16ToF32(static_cast<const uint16_t*>(from)[i]);
      return;
    case StoredDType::kQ8_0: return DequantiseRow(DType::kQ8_0, from, count, to);
    case StoredDType::kQ4_0: return DequantiseRow(DType::kQ4_0, from, count, to);
    case StoredDType::kQ5_0: return DequantiseRow(DType::kQ5_0, from, count, to);
    case StoredDType::kQ4_K: return DequantiseRow(DType::kQ4_K, from, count, to);
    case StoredDType::kQ5_K: return DequantiseRow(DType::kQ5_K, from, count, to);
    case StoredDType::kQ6_K: return DequantiseRow(DType::kQ6_K, from, count, to);
    default: MLA_CHECK(false, type.name);
  }
}

}  // namespace mla
