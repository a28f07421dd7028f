#include "ops/shape_checks.h"

#include <string>

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

Status CheckShapeAnyStride(const ConstTensor& tensor, std::string_view what,
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
  if (reinterpret_cast<uintptr_t>(tensor.data()) % SizeOf(tensor.dtype()) != 0) {
    return InvalidArgument(what, " is not aligned to its ", SizeOf(tensor.dtype()),
                           "-byte elements");
  }
  return {};
}

Status CheckShape(const ConstTensor& tensor, std::string_view what,
                  std::initializer_list<int64_t> dims) {
  MLA_RETURN_IF_ERROR(CheckShapeAnyStride(tensor, what, dims));
  const int last = tensor.rank() - 1;
  if (last >= 0 && tensor.dim(last) > 1 && tensor.stride(last) != 1) {
    return InvalidArgument(what, " has innermost stride ", tensor.stride(last), ", want 1");
  }
  return {};
}

Status CheckDType(const ConstTensor& tensor, std::string_view what,
                  std::initializer_list<DType> allowed) {
  std::string names;
  for (DType dtype : allowed) {
    if (tensor.dtype() == dtype) return {};
    if (!names.empty()) names += ", ";
    names += DTypeName(dtype);
  }
  return InvalidArgument(what, " is ", DTypeName(tensor.dtype()), ", want ", names);
}

}  // namespace mla
