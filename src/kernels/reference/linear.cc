#include "base/threads.h"
#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace mla::reference {
namespace {

double Dot(const ConstTensor& x, int64_t row, const ConstTensor& w, int64_t out) {
  double sum = 0;
  for (int64_t i = 0; i < x.dim(1); ++i) sum += At(x, row, i) * At(w, out, i);
  return sum;
}

}  // namespace

Status Linear(const LinearArgs& args, const Context& context) {
  for (const LinearTarget& target : args.targets) {
    const int64_t outs = target.w.dim(0);
    ParallelFor(context.threads, args.x.dim(0) * outs, [&](int64_t task, int) {
      const int64_t row = task / outs;
      const int64_t out = task % outs;
      double value = Dot(args.x, row, target.w, out);
      if (target.bias.present()) value += At(target.bias, out);
      if (args.accumulate) value += At(target.y, row, out);
      SetAt(target.y, value, row, out);
    });
  }
  return {};
}

Status GroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  for (const GroupedTarget& target : args.targets) {
    for (size_t group = 0; group < target.w.size(); ++group) {
      const int64_t begin = args.offsets[group];
      const int64_t outs = target.w[group].dim(0);
      ParallelFor(context.threads, (args.offsets[group + 1] - begin) * outs,
                  [&](int64_t task, int) {
                    const int64_t row = begin + task / outs;
                    const int64_t out = task % outs;
                    SetAt(target.y, Dot(args.x, row, target.w[group], out), row, out);
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
