#include "mla/tensor.h"

#include "mla/context.h"

namespace mla {

size_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32: return 4;
    case DType::kF16: return 2;
    case DType::kBF16: return 2;
    case DType::kI32: return 4;
  }
  return 0;
}

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "f32";
    case DType::kF16: return "f16";
    case DType::kBF16: return "bf16";
    case DType::kI32: return "i32";
  }
  return "unknown";
}

std::string_view ComputeModeName(ComputeMode mode) {
  return mode == ComputeMode::kF32 ? "f32" : "bf16";
}

}  // namespace mla
