#include "base/threads.h"
#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace mla::reference {
namespace {

double Dot(const ConstTensor& x, int64_t row, const std::vector<double>& w) {
  double sum = 0;
  for (int64_t i = 0; i < x.dim(1); ++i) sum += At(x, row, i) * w[i];
  return sum;
}

}  // namespace

Status Linear(const LinearArgs& args, const Context& context) {
  for (const LinearTarget& target : args.targets) {
    ParallelFor(context.threads, target.w.dim(0), [&](int64_t out, int) {
      const std::vector<double> w = WeightRow(target.w, out);
      for (int64_t row = 0; row < args.x.dim(0); ++row) {
        double value = Dot(args.x, row, w);
        if (target.bias.present()) value += At(target.bias, out);
        if (args.accumulate) value += At(target.y, row, out);
        SetAt(target.y, value, row, out);
      }
    });
  }
  return {};
}

Status GroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  for (const GroupedTarget& target : args.targets) {
    for (size_t group = 0; group < target.w.size(); ++group) {
      const ConstTensor& weight = target.w[group];
      ParallelFor(context.threads, weight.dim(0), [&](int64_t out, int) {
        const std::vector<double> w = WeightRow(weight, out);
        for (int64_t row = args.offsets[group]; row < args.offsets[group + 1]; ++row) {
          SetAt(target.y, Dot(args.x, row, w), row, out);
        }
      });
    }
  }
  return {};
}

Status HeadLinear(const HeadLinearArgs& args, const Context& context) {
  const int64_t heads = args.x.dim(1);
  ParallelFor(context.threads, args.x.dim(0) * heads, [&](int64_t task, int) {
    const int64_t row = task / heads;
    const int64_t head = task % heads;
    for (int64_t out = 0; out < args.w.dim(1); ++out) {
      double sum = 0;
      for (int64_t i = 0; i < args.x.dim(2); ++i) {
        sum += At(args.x, row, head, i) * At(args.w, head, out, i);
      }
      SetAt(args.y, sum, row, head, out);
    }
  });
  return {};
}

}  // namespace mla::reference
