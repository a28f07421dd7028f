#include "kernels/cpu/linear_plan.h"

#include <algorithm>

#include "base/check.h"
#include "base/numeric.h"

namespace mla::cpu {
namespace {

// Below this many multiply-adds a call is over before a second thread has woken.
constexpr int64_t kMinTaskMacs = 32 * 1024;
constexpr int64_t kTasksPerThread = 8;
// Threads end a call up to a task apart: long tasks are cut further, but to no fewer
// multiply-adds than these, about ten microseconds of streaming weights.
constexpr int64_t kLongTaskMacs = 128 * 1024, kMostTasksPerThread = 64;
// Blocks differ in their rows (experts) and number: dealt out singly they balance better, as long
// as they are not much smaller than a task should be.
constexpr int64_t kMaxTasksPerWanted = 4;
constexpr int64_t kOutQuantum = 32;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

const char* At(const void* data, int64_t index, int64_t element_size) {
  return static_cast<const char*>(data) + index * element_size;
}

}  // namespace

std::span<Product> LinearProducts(const LinearArgs& args, const PackedX& x,
                                  ScopedWorkspace& workspace) {
  const int64_t rows = args.x.dim(0);
  if (rows == 0) return {};
  const int64_t count = static_cast<int64_t>(args.targets.size());
  auto* products = workspace->Allocate<Product>(count);
  for (int64_t i = 0; i < count; ++i) {
    const LinearTarget& target = args.targets[i];
    products[i] = Product{.x = x.data,
                          .w = target.w.data(),
                          .bias = target.bias.data(),
                          .y = target.y.as<float>(),
                          .x_stride = x.stride,
                          .w_stride = target.w.stride(0),
                          .y_stride = target.y.stride(0),
                          .rows = rows,
                          .in = args.x.dim(1),
                          .out = target.w.dim(0),
                          .w_dtype = target.w.dtype(),
                          .bias_dtype = target.bias.dtype(),
                          .w_scales = target.w.scales(),
                          .accumulate = args.accumulate};
  }
  return {products, static_cast<size_t>(count)};
}

std::span<Product> GroupedLinearProducts(const GroupedLinearArgs& args, const PackedX& x,
                                         ScopedWorkspace& workspace) {
  const int64_t groups = static_cast<int64_t>(args.offsets.size()) - 1;
  const int64_t limit = groups * static_cast<int64_t>(args.targets.size());
  auto* products = workspace->Allocate<Product>(limit);
  size_t count = 0;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t begin = args.offsets[group];
    const int64_t rows = args.offsets[group + 1] - begin;
    if (rows == 0) continue;
    for (const GroupedTarget& target : args.targets) {
      const ConstTensor& w = target.w[group];
      products[count++] = Product{.x = At(x.data, begin * x.stride, x.element_size),
                                  .w = w.data(),
                                  .y = target.y.as<float>() + begin * target.y.stride(0),
                                  .x_stride = x.stride,
                                  .w_stride = w.stride(0),
                                  .y_stride = target.y.stride(0),
                                  .rows = rows,
                                  .in = args.x.dim(1),
                                  .out = w.dim(0),
                                  .w_dtype = w.dtype(),
                                  .w_scales = w.scales()};
    }
  }
  return {products, count};
}

std::span<Product> HeadLinearProducts(const HeadLinearArgs& args, const PackedX& x,
                                      ScopedWorkspace& workspace) {
  const int64_t rows = args.x.dim(0);
  const int64_t heads = args.x.dim(1);
  if (rows == 0) return {};
  // An axis of one element has no stride to speak of.
  const bool out_unit = args.w.stride(2) != 1 && args.w.dim(2) != 1;
  const auto w_size = static_cast<int64_t>(SizeOf(args.w.dtype()));
  auto* products = workspace->Allocate<Product>(heads);
  for (int64_t head = 0; head < heads; ++head) {
    products[head] = Product{.x = At(x.data, head * rows * x.stride, x.element_size),
                             .w = At(args.w.data(), head * args.w.stride(0), w_size),
                             .y = args.y.as<float>() + head * args.y.stride(1),
                             .x_stride = x.stride,
                             .w_stride = out_unit ? args.w.stride(2) : args.w.stride(1),
                             .y_stride = args.y.stride(0),
                             .rows = rows,
                             .in = args.x.dim(2),
                             .out = args.w.dim(1),
                             .w_dtype = args.w.dtype(),
                             .w_out_unit = out_unit};
  }
  return {products, static_cast<size_t>(heads)};
}

LinearPlan::LinearPlan(std::span<Product> products, int64_t x_row_bytes, int num_threads)
    : products_(products) {
  int64_t macs = 0, max_rows = 0, max_out = 0;
  for (const Product& p : products) {
    macs += p.rows * p.in * p.out;
    max_rows = std::max(max_rows, p.rows);
    max_out = std::max(max_out, p.out);
  }
  if (products.empty()) return;
  const int64_t most_tasks = std::clamp(macs / kLongTaskMacs, kTasksPerThread * num_threads,
                                        kMostTasksPerThread * num_threads);
  const int64_t wanted_tasks =
      num_threads == 1 ? 1 : std::clamp<int64_t>(macs / kMinTaskMacs, 1, most_tasks);
  const int64_t x_rows = kXBlockBytes / std::max<int64_t>(x_row_bytes, 1);
  const int64_t most_rows =
      std::clamp<int64_t>(x_rows / kRowQuantum * kRowQuantum, kRowQuantum, kMaxBlockRows);
  // Blocks of the longest product are of nearly equal heights.
  row_block_ = max_rows <= most_rows
                   ? max_rows
                   : RoundUp(CeilDiv(max_rows, CeilDiv(max_rows, most_rows)), kRowQuantum);
  // Blocks as there would be if every product were one block wide, then cut further as needed.
  int64_t row_blocks = 0;
  for (const Product& p : products) row_blocks += CeilDiv(p.rows, row_block_);
  const int64_t out_blocks = CeilDiv(wanted_tasks, row_blocks);
  out_block_ = RoundUp(std::max<int64_t>(CeilDiv(max_out, out_blocks), 1), kOutQuantum);
  for (Product& p : products_) {
    p.first_block = num_blocks_;
    num_blocks_ += NumBlocks(p);
  }
  const int64_t max_tasks = num_threads == 1 ? 1 : kMaxTasksPerWanted * wanted_tasks;
  num_tasks_ = std::min(max_tasks, num_blocks_);  // none if no product has outputs
}

const Product* LinearPlan::ProductOf(int64_t block) const {
  const auto after = std::upper_bound(
      products_.begin(), products_.end(), block,
      [](int64_t index, const Product& product) { return index < product.first_block; });
  return &*after - 1;
}

ProductBlock LinearPlan::BlockAt(const Product& product, int64_t index) const {
  const int64_t out_blocks = OutBlocks(product);
  const int64_t row = index / out_blocks * row_block_;
  const int64_t out = index % out_blocks * out_block_;
  return {&product, row, std::min(row + row_block_, product.rows), out,
          std::min(out + out_block_, product.out)};
}

float BiasAt(const Product& product, int64_t o) {
  switch (product.bias_dtype) {
    case DType::kF32: return static_cast<const float*>(product.bias)[o];
    case DType::kF16: return F16ToF32(static_cast<const uint16_t*>(product.bias)[o]);
    case DType::kBF16: return Bf16ToF32(static_cast<const uint16_t*>(product.bias)[o]);
    default: break;
  }
  MLA_CHECK(false, "bias of dtype ", DTypeName(product.bias_dtype));
}

}  // namespace mla::cpu
