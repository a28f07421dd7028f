#include "ops/linear.h"

#include <string>

#include "ops/shape_checks.h"

namespace mla {
namespace {

Status CheckActivation(const ConstTensor& x, std::string_view what) {
  MLA_RETURN_IF_ERROR(CheckShape(x, what, {kAny, kAny}));
  return CheckDType(x, what, {DType::kF32});
}

Status CheckOutput(const Tensor& y, std::string_view what, int64_t rows, int64_t out) {
  MLA_RETURN_IF_ERROR(CheckShape(y, what, {rows, out}));
  return CheckDType(y, what, {DType::kF32});
}

Status CheckWeight(const ConstTensor& w, std::string_view what, int64_t in) {
  return CheckWeightMatrix(w, what, {kAny, in});
}

}  // namespace

Status Validate(const LinearArgs& args) {
  MLA_RETURN_IF_ERROR(CheckActivation(args.x, "linear: x"));
  for (const LinearTarget& target : args.targets) {
    MLA_RETURN_IF_ERROR(CheckWeight(target.w, "linear: w", args.x.dim(1)));
    MLA_RETURN_IF_ERROR(CheckOutput(target.y, "linear: y", args.x.dim(0), target.w.dim(0)));
    if (!target.bias.present()) continue;
    MLA_RETURN_IF_ERROR(CheckShape(target.bias, "linear: bias", {target.w.dim(0)}));
    MLA_RETURN_IF_ERROR(CheckDType(target.bias, "linear: bias", kFloatTypes));
  }
  return {};
}

Status Validate(const GroupedLinearArgs& args) {
  MLA_RETURN_IF_ERROR(CheckActivation(args.x, "grouped_linear: x"));
  const int64_t rows = args.x.dim(0);
  if (args.offsets.empty() || args.offsets.front() != 0 || args.offsets.back() != rows) {
    return InvalidArgument("grouped_linear: offsets must run from 0 to the ", rows, " rows of x");
  }
  for (size_t i = 1; i < args.offsets.size(); ++i) {
    if (args.offsets[i] < args.offsets[i - 1]) {
      return InvalidArgument("grouped_linear: offsets[", i, "] is ", args.offsets[i],
                             ", less than the one before it, ", args.offsets[i - 1]);
    }
  }
  const size_t groups = args.offsets.size() - 1;
  for (const GroupedTarget& target : args.targets) {
    if (target.w.size() != groups || groups == 0) {
      return InvalidArgument("grouped_linear: ", target.w.size(), " weights for ", groups,
                             " groups");
    }
    for (const ConstTensor& w : target.w) {
      MLA_RETURN_IF_ERROR(CheckWeight(w, "grouped_linear: w", args.x.dim(1)));
      if (w.dim(0) != target.w[0].dim(0) || w.dtype() != target.w[0].dtype()) {
        return InvalidArgument("grouped_linear: the weights of a target differ: ", w.ShapeString(),
                               " ", DTypeName(w.dtype()), " and ", target.w[0].ShapeString(), " ",
                               DTypeName(target.w[0].dtype()));
      }
    }
    MLA_RETURN_IF_ERROR(CheckOutput(target.y, "grouped_linear: y", rows, target.w[0].dim(0)));
  }
  return {};
}

Status Validate(const HeadLinearArgs& args) {
  MLA_RETURN_IF_ERROR(CheckShape(args.x, "head_linear: x", {kAny, kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.x, "head_linear: x", {DType::kF32}));
  const int64_t heads = args.x.dim(1);
  MLA_RETURN_IF_ERROR(CheckShapeAnyStride(args.w, "head_linear: w", {heads, kAny, args.x.dim(2)}));
  MLA_RETURN_IF_ERROR(CheckDType(args.w, "head_linear: w", kFloatTypes));
  if (args.w.stride(1) != 1 && args.w.stride(2) != 1) {
    return InvalidArgument("head_linear: w has inner strides ", args.w.stride(1), " and ",
                           args.w.stride(2), ", want one of them 1");
  }
  MLA_RETURN_IF_ERROR(CheckShape(args.y, "head_linear: y", {args.x.dim(0), heads, args.w.dim(1)}));
  return CheckDType(args.y, "head_linear: y", {DType::kF32});
}

}  // namespace mla
