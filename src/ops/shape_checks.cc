#include "ops/shape_checks.h"

#include <algorithm>
#include <string>

#include "mla/int8_latent.h"

namespace mla {
namespace {

std::string Wanted(std::initializer_list<int64_t> dims) {
  std::string text = "[";
  for (int64_t d : dims) {
    if (text.size() > 1) text += ", ";
    text += d == kAny ? std::string("any") : std::to_string(d);
  }
  return text + "]";
}

}  // namespace

Status CheckShapeAnyStride(const ConstTensor& tensor, const ArgName& what,
                           std::initializer_list<int64_t> dims) {
  if (tensor.rank() != static_cast<int>(dims.size())) {
    return InvalidArgument(what, " has rank ", tensor.rank(), ", want ", dims.size(), " ",
                           Wanted(dims));
  }
  bool empty = false;
  int axis = 0;
  for (int64_t want : dims) {
    const int64_t have = tensor.dim(axis);
    if (have < 0 || (want != kAny && have != want)) {
      return InvalidArgument(what, " has shape ", tensor.ShapeString(), ", want ", Wanted(dims));
    }
    if (tensor.stride(axis) < 0) {
      return InvalidArgument(what, " has stride ", tensor.stride(axis), " on axis ", axis,
                             ", want 0 or more");
    }
    empty |= have == 0;
    ++axis;
  }
  if (!empty && !tensor.present()) return InvalidArgument(what, " is null");
  // A block begins with, or ends in, 16-bit numbers.
  const size_t alignment = IsBlockType(tensor.dtype()) ? 2 : SizeOf(tensor.dtype());
  if (reinterpret_cast<uintptr_t>(tensor.data()) % alignment != 0) {
    return InvalidArgument(what, " is not aligned to its ", alignment, "-byte elements");
  }
  return {};
}

Status CheckShape(const ConstTensor& tensor, const ArgName& what,
                  std::initializer_list<int64_t> dims) {
  MLA_RETURN_IF_ERROR(CheckShapeAnyStride(tensor, what, dims));
  const int last = tensor.rank() - 1;
  if (last >= 0 && tensor.dim(last) > 1 && tensor.stride(last) != 1) {
    return InvalidArgument(what, " has innermost stride ", tensor.stride(last), ", want 1");
  }
  return {};
}

Status CheckDType(const ConstTensor& tensor, const ArgName& what,
                  std::initializer_list<DType> allowed) {
  if (std::find(allowed.begin(), allowed.end(), tensor.dtype()) != allowed.end()) return {};
  std::string names;
  for (DType dtype : allowed) {
    if (!names.empty()) names += ", ";
    names += DTypeName(dtype);
  }
  return InvalidArgument(what, " is ", DTypeName(tensor.dtype()), ", want ", names);
}

Status CheckInt8LatentRows(const ConstTensor& cache, const ArgName& what) {
  constexpr int64_t kAlignment = Int8LatentLayout::kAlignment;
  if (reinterpret_cast<uintptr_t>(cache.data()) % kAlignment != 0) {
    return InvalidArgument(what, " is not aligned to ", kAlignment, " bytes, as int8 latents are");
  }
  for (int axis = 0; axis + 1 < cache.rank(); ++axis) {
    if (cache.dim(axis) > 1 && cache.stride(axis) % kAlignment != 0) {
      return InvalidArgument(what, " has stride ", cache.stride(axis), " on axis ", axis,
                             ", int8 latents begin at multiples of ", kAlignment, " bytes");
    }
  }
  return {};
}

namespace {

Status CheckBlocks(const ConstTensor& w, const ArgName& what) {
  const int64_t block = BlockElements(w.dtype());
  if (w.dim(1) % block != 0) {
    return InvalidArgument(what, " has rows of ", w.dim(1), " elements, want a multiple of the ",
                           block, " of a block of ", DTypeName(w.dtype()));
  }
  if (w.dim(0) > 1 && w.stride(0) % block != 0) {
    return InvalidArgument(what, " has row stride ", w.stride(0), ", want a multiple of the ",
                           block, " elements of a block of ", DTypeName(w.dtype()));
  }
  return {};
}

Status CheckScales(const ConstTensor& w, const ArgName& what) {
  const BlockScales& s = w.scales();
  if (s.data == nullptr) {
    return InvalidArgument(what, " is ", DTypeName(w.dtype()), " without block scales");
  }
  if (s.rows < 1 || s.cols < 1) {
    return InvalidArgument(what, " has scales of blocks of ", s.rows, " x ", s.cols,
                           ", want 1 or more");
  }
  if (s.row0 < 0 || s.col0 < 0) {
    return InvalidArgument(what, " begins at element (", s.row0, ", ", s.col0,
                           ") of its scales, want 0 or more");
  }
  const int64_t columns = w.dim(1) == 0 ? 0 : (s.col0 + w.dim(1) - 1) / s.cols + 1;
  if (s.stride < columns && (s.row0 + w.dim(0) - 1) / s.rows > 0) {
    return InvalidArgument(what, " has scales with row stride ", s.stride, ", want at least the ",
                           columns, " blocks of a row");
  }
  return {};
}

}  // namespace

Status CheckWeightMatrix(const ConstTensor& w, const ArgName& what,
                         std::initializer_list<int64_t> dims) {
  MLA_RETURN_IF_ERROR(CheckShape(w, what, dims));
  if (IsBlockType(w.dtype())) return CheckBlocks(w, what);
  if (w.dtype() == DType::kF8E4M3) return CheckScales(w, what);
  if (w.dtype() != DType::kI32 && w.dtype() != DType::kI8) return {};
  return InvalidArgument(what, " is ", DTypeName(w.dtype()),
                         ", want f32, f16, bf16 or a quantised type");
}

}  // namespace mla
