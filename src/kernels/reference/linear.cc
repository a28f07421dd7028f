#include "base/threads.h"
#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace mla::reference {
namespace {

std::vector<std::vector<double>> RowsOf(const ConstTensor& x) {
  std::vector<std::vector<double>> rows;
  for (int64_t row = 0; row < x.dim(0); ++row) rows.push_back(RowAt(x, row));
  return rows;
}

}  // namespace

Status Linear(const LinearArgs& args, const Context& context) {
  const std::vector<std::vector<double>> x = RowsOf(args.x);
  for (const LinearTarget& target : args.targets) {
    ParallelFor(context.threads, target.w.dim(0), [&](int64_t out, int) {
      const std::vector<double> w = WeightRow(target.w, out);
      for (int64_t row = 0; row < args.x.dim(0); ++row) {
        double value = Dot(x[row], w);
        if (target.bias.present()) value += At(target.bias, out);
        if (args.accumulate) value += At(target.y, row, out);
        SetAt(target.y, value, row, out);
      }
    });
  }
  return {};
}

Status GroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  const std::vector<std::vector<double>> x = RowsOf(args.x);
  for (const GroupedTarget& target : args.targets) {
    for (size_t group = 0; group < target.w.size(); ++group) {
      const ConstTensor& weight = target.w[group];
      ParallelFor(context.threads, weight.dim(0), [&](int64_t out, int) {
        const std::vector<double> w = WeightRow(weight, out);
        for (int64_t row = args.offsets[group]; row < args.offsets[group + 1]; ++row) {
          SetAt(target.y, Dot(x[row], w), row, out);
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
    const std::vector<double> x = RowAt(args.x, row, head);
    for (int64_t out = 0; out < args.w.dim(1); ++out) {
      SetAt(args.y, Dot(x, RowAt(args.w, head, out)), row, head, out);
    }
  });
  return {};
}

}  // namespace mla::reference
