#include "io/stored_tensor.h"

#include <algorithm>

#include "base/check.h"
#include "base/numeric.h"
#include "io/json.h"

namespace mla {
namespace {

struct DTypeInfo {
  StoredDType dtype;
  std::string_view name;
  size_t size;
  std::optional<DType> computed;  // what operators call it
};

// In the order of the enum.
constexpr DTypeInfo kDTypes[] = {
    {StoredDType::kF64, "F64", 8, {}},
    {StoredDType::kF32, "F32", 4, DType::kF32},
    {StoredDType::kF16, "F16", 2, DType::kF16},
    {StoredDType::kBF16, "BF16", 2, DType::kBF16},
    {StoredDType::kF8E4M3, "F8_E4M3", 1, DType::kF8E4M3},
    {StoredDType::kF8E5M2, "F8_E5M2", 1, {}},
    {StoredDType::kI64, "I64", 8, {}},
    {StoredDType::kI32, "I32", 4, DType::kI32},
    {StoredDType::kI16, "I16", 2, {}},
    {StoredDType::kI8, "I8", 1, {}},
    {StoredDType::kU64, "U64", 8, {}},
    {StoredDType::kU32, "U32", 4, {}},
    {StoredDType::kU16, "U16", 2, {}},
    {StoredDType::kU8, "U8", 1, {}},
    {StoredDType::kBool, "BOOL", 1, {}},
    {StoredDType::kQ8_0, "Q8_0", 0, DType::kQ8_0},
    {StoredDType::kQ4_0, "Q4_0", 0, DType::kQ4_0},
    {StoredDType::kQ5_0, "Q5_0", 0, DType::kQ5_0},
    {StoredDType::kQ4_K, "Q4_K", 0, DType::kQ4_K},
    {StoredDType::kQ5_K, "Q5_K", 0, DType::kQ5_K},
    {StoredDType::kQ6_K, "Q6_K", 0, DType::kQ6_K},
};

const DTypeInfo& InfoOf(StoredDType dtype) {
  const DTypeInfo& info = kDTypes[static_cast<size_t>(dtype)];
  MLA_CHECK(info.dtype == dtype);
  return info;
}

}  // namespace

size_t SizeOf(StoredDType dtype) { return InfoOf(dtype).size; }

std::string_view StoredDTypeName(StoredDType dtype) { return InfoOf(dtype).name; }

std::optional<StoredDType> ParseStoredDType(std::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name && info.size > 0) return info.dtype;
  }
  return std::nullopt;
}

std::string StoredDTypeNames() {
  std::string names;
  for (const DTypeInfo& info : kDTypes) {
    if (info.size > 0) names += Concat(names.empty() ? "" : ", ", info.name);
  }
  return names;
}

StoredDType ToStoredDType(DType dtype) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.computed == dtype) return info.dtype;
  }
  MLA_CHECK(false, "dtype ", DTypeName(dtype), " has no stored form");
}

std::optional<int64_t> ByteSize(StoredDType dtype, std::span<const int64_t> shape) {
  const DTypeInfo& info = InfoOf(dtype);
  const bool blocks = info.size == 0;
  const int64_t block_elements = blocks ? BlockElements(*info.computed) : 1;
  if (blocks && (shape.empty() || shape.back() % block_elements != 0)) return std::nullopt;
  std::optional<int64_t> bytes = blocks ? 1 : static_cast<int64_t>(info.size);
  bool empty = false;
  for (const int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    empty = empty || dim == 0;
    bytes = CheckedMul(*bytes, std::max<int64_t>(dim, 1));
    if (!bytes.has_value()) return std::nullopt;
  }
  if (blocks) bytes = CheckedMul(*bytes / block_elements, BlockBytes(*info.computed));
  return empty ? 0 : bytes;
}

int64_t NumElements(const StoredTensor& tensor) {
  int64_t elements = 1;
  for (const int64_t dim : tensor.shape) elements *= dim;
  return elements;
}

std::string ShapeString(std::span<const int64_t> shape) {
  constexpr size_t kMaxShown = 8;
  std::string text = "[";
  for (size_t i = 0; i < shape.size() && i < kMaxShown; ++i) {
    text += Concat(i > 0 ? ", " : "", shape[i]);
  }
  if (shape.size() > kMaxShown) text += Concat(", ... ", shape.size(), " dimensions");
  return text + "]";
}

Result<ConstTensor> ToTensor(const StoredTensor& tensor) {
  const std::optional<DType> dtype = InfoOf(tensor.dtype).computed;
  const std::span<const int64_t> d = tensor.shape;
  if (!dtype.has_value()) {
    return Unsupported("tensor ", Quote(tensor.name), " is ", StoredDTypeName(tensor.dtype),
                       ", want F32, F16, BF16, F8_E4M3 or I32");
  }
  const void* data = tensor.data.data();
  switch (d.size()) {
    case 0: return ConstTensor(data, *dtype, {});
    case 1: return ConstTensor(data, *dtype, {d[0]});
    case 2: return ConstTensor(data, *dtype, {d[0], d[1]});
    case 3: return ConstTensor(data, *dtype, {d[0], d[1], d[2]});
    case kMaxRank: return ConstTensor(data, *dtype, {d[0], d[1], d[2], d[3]});
  }
  return Unsupported("tensor ", Quote(tensor.name), " has ", d.size(), " dimensions ",
                     ShapeString(d), ", want at most ", kMaxRank);
}

}  // namespace mla
