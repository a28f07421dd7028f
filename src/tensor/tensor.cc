#include "mla/tensor.h"

#include <iterator>

#include "base/check.h"
#include "mla/context.h"
#include "tensor/quant_blocks.h"

namespace mla {

namespace {

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  int64_t block_elements, block_bytes;
};

// In the order of the enum.
constexpr DTypeInfo kDTypes[] = {
    {DType::kF32, "f32", 1, 4},
    {DType::kF16, "f16", 1, 2},
    {DType::kBF16, "bf16", 1, 2},
    {DType::kI32, "i32", 1, 4},
    {DType::kI8, "i8", 1, 1},
    {DType::kF8E4M3, "f8_e4m3", 1, 1},
    {DType::kQ8_0, "q8_0", Q8_0Block::kElements, sizeof(Q8_0Block)},
    {DType::kQ4_0, "q4_0", Q4_0Block::kElements, sizeof(Q4_0Block)},
    {DType::kQ5_0, "q5_0", Q5_0Block::kElements, sizeof(Q5_0Block)},
    {DType::kQ4_K, "q4_K", Q4_KBlock::kElements, sizeof(Q4_KBlock)},
    {DType::kQ5_K, "q5_K", Q5_KBlock::kElements, sizeof(Q5_KBlock)},
    {DType::kQ6_K, "q6_K", Q6_KBlock::kElements, sizeof(Q6_KBlock)},
};

const DTypeInfo& InfoOf(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  MLA_CHECK(index < std::size(kDTypes) && kDTypes[index].dtype == dtype, "dtype ", index);
  return kDTypes[index];
}

}  // namespace

size_t SizeOf(DType dtype) {
  const DTypeInfo& info = InfoOf(dtype);
  return info.block_elements == 1 ? static_cast<size_t>(info.block_bytes) : 0;
}

std::string_view DTypeName(DType dtype) { return InfoOf(dtype).name; }

int64_t BlockElements(DType dtype) { return InfoOf(dtype).block_elements; }

int64_t BlockBytes(DType dtype) { return InfoOf(dtype).block_bytes; }

int64_t RowBytes(DType dtype, int64_t elements) {
  const DTypeInfo& info = InfoOf(dtype);
  MLA_CHECK(elements % info.block_elements == 0, elements, " elements are no whole blocks of ",
            info.block_elements, " of ", info.name);
  return elements / info.block_elements * info.block_bytes;
}

std::string_view ComputeModeName(ComputeMode mode) {
  return mode == ComputeMode::kF32 ? "f32" : "bf16";
}

}  // namespace mla
