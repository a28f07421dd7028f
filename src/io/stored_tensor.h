// A tensor as it lies in a file.
#ifndef MLA_IO_STORED_TENSOR_H_
#define MLA_IO_STORED_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"
#include "mla/tensor.h"

namespace mla {

// What a file may hold. More than DType: not everything stored can be computed with.
// clang-format off
enum class StoredDType : uint8_t {
  kF64, kF32, kF16, kBF16, kF8E4M3, kF8E5M2, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool,
  kQ8_0, kQ4_0, kQ5_0, kQ4_K, kQ5_K, kQ6_K  // block types, in GGUF only
};
// clang-format on

size_t SizeOf(StoredDType dtype);                     // bytes per element; 0 for block types
std::string_view StoredDTypeName(StoredDType dtype);  // as in safetensors: "F32", "F8_E4M3"
std::optional<StoredDType> ParseStoredDType(std::string_view name);  // of safetensors
std::string StoredDTypeNames();  // those of safetensors: "F64, F32, ..."
StoredDType ToStoredDType(DType dtype);

struct StoredTensor {
  std::string name;
  StoredDType dtype = StoredDType::kF32;
  std::vector<int64_t> shape;       // empty: a scalar
  std::span<const std::byte> data;  // ByteSize(dtype, shape) bytes; little-endian, row-major
};

// Bytes of a tensor. Empty if a dimension is negative, if the product of the dimensions overflows
// an int64_t, zeros left out (then strides overflow too), or if rows are not whole blocks.
std::optional<int64_t> ByteSize(StoredDType dtype, std::span<const int64_t> shape);

int64_t NumElements(const StoredTensor& tensor);  // requires a size that ByteSize accepts

std::string ShapeString(std::span<const int64_t> shape);  // "[2, 3]"; long ones are cut

// The view that operators take; it points at `tensor.data`, which must be aligned to the element
// size. kUnsupported, with the tensor's name, if there is no such DType or the rank is over
// kMaxRank.
Result<ConstTensor> ToTensor(const StoredTensor& tensor);

}  // namespace mla

#endif  // MLA_IO_STORED_TENSOR_H_
