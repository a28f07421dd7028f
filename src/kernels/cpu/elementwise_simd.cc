// RmsNorm and SiluMul through Highway.
#include <algorithm>
#include <cmath>

#include "base/numeric.h"
#include "base/threads.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise_simd.cc"
// clang-format off
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mla::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D kD;
constexpr int64_t kLanes = hn::MaxLanes(kD);

float SumOfSquares(const float* x, int64_t dim) {
  // Four chains, so that one addition need not wait for the last.
  V sum0 = hn::Zero(kD), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= dim; i += 4 * kLanes) {
    const V x0 = hn::LoadU(kD, x + i);
    const V x1 = hn::LoadU(kD, x + i + kLanes);
    const V x2 = hn::LoadU(kD, x + i + 2 * kLanes);
    const V x3 = hn::LoadU(kD, x + i + 3 * kLanes);
    sum0 = hn::MulAdd(x0, x0, sum0);
    sum1 = hn::MulAdd(x1, x1, sum1);
    sum2 = hn::MulAdd(x2, x2, sum2);
    sum3 = hn::MulAdd(x3, x3, sum3);
  }
  for (; i < dim; i += kLanes) {
    const V xi = i + kLanes <= dim ? hn::LoadU(kD, x + i) : LoadF32N(kD, x + i, dim - i);
    sum0 = hn::MulAdd(xi, xi, sum0);
  }
  return hn::GetLane(hn::SumOfLanes(kD, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

template <typename W>
void RmsNormRow(const float* x, const W* w, int64_t dim, float eps, float* y) {
  const float mean = SumOfSquares(x, dim) / static_cast<float>(dim);
  const V scale = hn::Set(kD, 1.0f / sqrtf(mean + eps));
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    const V normalized = hn::Mul(hn::LoadU(kD, x + i), scale);
    hn::StoreU(hn::Mul(normalized, LoadF32(kD, w + i)), kD, y + i);
  }
  if (i < dim) {
    const V normalized = hn::Mul(LoadF32N(kD, x + i, dim - i), scale);
    StoreF32N(kD, hn::Mul(normalized, LoadF32N(kD, w + i, dim - i)), y + i, dim - i);
  }
}

template <typename W>
void RmsNormRowsOf(const RmsNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    RmsNormRow(args.x.as<float>() + row * args.x.stride(0), static_cast<const W*>(args.w.data()),
               args.x.dim(1), args.eps, args.y.as<float>() + row * args.y.stride(0));
  }
}

V Silu(V x) {
  // exp of what is never positive cannot overflow: sigmoid(x) is e / (1 + e) left of zero.
  const V one = hn::Set(kD, 1.0f);
  // A NaN comes back in through the product; exp would convert it to an integer.
  const V e = hn::Exp(kD, hn::IfThenZeroElse(hn::IsNaN(x), hn::Neg(hn::Abs(x))));
  const V numerator = hn::IfThenElse(hn::Lt(x, hn::Zero(kD)), e, one);
  return hn::Mul(x, hn::Div(numerator, hn::Add(one, e)));
}

void SiluMulRange(const float* gate, const float* up, int64_t dim, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    hn::StoreU(hn::Mul(Silu(hn::LoadU(kD, gate + i)), hn::LoadU(kD, up + i)), kD, y + i);
  }
  if (i < dim) {
    const V gated = Silu(LoadF32N(kD, gate + i, dim - i));
    StoreF32N(kD, hn::Mul(gated, LoadF32N(kD, up + i, dim - i)), y + i, dim - i);
  }
}

}  // namespace

void RmsNormRows(const RmsNormArgs& args, int64_t begin, int64_t end) {
  switch (args.w.dtype()) {
    case DType::kF32: return RmsNormRowsOf<float>(args, begin, end);
    case DType::kF16: return RmsNormRowsOf<F16Bits>(args, begin, end);
    case DType::kBF16: return RmsNormRowsOf<Bf16Bits>(args, begin, end);
    default: break;  // validation refuses it
  }
}

// Columns [column, column + width) of rows [begin, end).
void SiluMulTile(const SiluMulArgs& args, int64_t begin, int64_t end, int64_t column,
                 int64_t width) {
  for (int64_t row = begin; row < end; ++row) {
    SiluMulRange(args.gate.as<float>() + row * args.gate.stride(0) + column,
                 args.up.as<float>() + row * args.up.stride(0) + column, width,
                 args.y.as<float>() + row * args.y.stride(0) + column);
  }
}

}  // namespace mla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace mla::cpu {
namespace {

HWY_EXPORT(RmsNormRows);
HWY_EXPORT(SiluMulTile);

// Elements of one task, a few microseconds of work; what is less than two tasks stays on the
// calling thread.
constexpr int64_t kRmsNormTask = 16 * 1024;
constexpr int64_t kSiluMulTask = 8 * 1024;

}  // namespace

std::string_view SimdRefusesRmsNorm(const RmsNormArgs&, const Context&) { return {}; }
std::string_view SimdRefusesSiluMul(const SiluMulArgs&, const Context&) { return {}; }

Status RunSimdRmsNorm(const RmsNormArgs& args, const Context& context) {
  const int64_t rows = args.x.dim(0);
  const auto run = HWY_DYNAMIC_DISPATCH(RmsNormRows);
  const int64_t task_rows =
      std::max<int64_t>(kRmsNormTask / std::max<int64_t>(args.x.dim(1), 1), 1);
  ParallelFor(context.threads, CeilDiv(rows, task_rows), [&](int64_t task, int) {
    run(args, task * task_rows, std::min((task + 1) * task_rows, rows));
  });
  return {};
}

Status RunSimdSiluMul(const SiluMulArgs& args, const Context& context) {
  const int64_t rows = args.gate.dim(0);
  const int64_t dim = args.gate.dim(1);
  if (dim == 0) return {};
  const auto run = HWY_DYNAMIC_DISPATCH(SiluMulTile);
  // Whole rows, or parts of a long one.
  const int64_t width = std::min(dim, kSiluMulTask);
  const int64_t task_rows = kSiluMulTask / width;
  const int64_t strips = CeilDiv(dim, width);
  ParallelFor(context.threads, CeilDiv(rows, task_rows) * strips, [&](int64_t task, int) {
    const int64_t row = task / strips * task_rows;
    const int64_t column = task % strips * width;
    run(args, row, std::min(row + task_rows, rows), column, std::min(width, dim - column));
  });
  return {};
}

}  // namespace mla::cpu

#endif  // HWY_ONCE
