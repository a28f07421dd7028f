// The types of GGUF: of metadata values and of tensors.
#ifndef MLA_IO_GGUF_TYPES_H_
#define MLA_IO_GGUF_TYPES_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "io/stored_tensor.h"

namespace mla {

// Numbered as in the file.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

size_t GgufTypeSize(GgufType type);            // bytes of a scalar; 0: string, array, unknown
std::string_view GgufTypeName(GgufType type);  // "u32", "str"; "unknown"
inline bool IsKnown(GgufType type) { return static_cast<uint32_t>(type) <= 12; }

// How a tensor's elements lie in a file.
struct GgufTensorType {
  uint32_t id;  // in the file
  std::string_view name;
  int64_t block_elements;  // of one row
  int64_t block_bytes;     // 0: nothing here decodes it
  // What it is computed as. Without: decoded to f16 when a model is loaded.
  std::optional<StoredDType> stored;
};

const GgufTensorType* FindGgufTensorType(uint32_t id);       // null: unknown
const GgufTensorType& GgufTensorTypeOf(StoredDType stored);  // must be one of GGUF's
std::string_view ReadableGgufTensorTypes();                  // "F32, F16, ..."

// Decodes `count` elements, whole blocks, of any type that can be decoded.
void DecodeGgufRow(const GgufTensorType& type, const void* from, int64_t count, float* to);

}  // namespace mla

#endif  // MLA_IO_GGUF_TYPES_H_
