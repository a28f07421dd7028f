// What the CPU kernels of Linear, GroupedLinear and HeadLinear share: every call becomes a list of
// products, cut into blocks, dealt out as tasks. Plain data and pure functions; no SIMD here.
#ifndef MLA_KERNELS_CPU_LINEAR_PLAN_H_
#define MLA_KERNELS_CPU_LINEAR_PLAN_H_

#include <cstdint>
#include <span>

#include "base/workspace.h"
#include "mla/linear.h"

namespace mla::cpu {

// y[i, o] = sum_k x[i, k] w(o, k), + bias[o], + y[i, o] if accumulate. Strides are in elements.
struct Product {
  const void* x = nullptr;        // [rows, in], packed by the kernel (see PackedX)
  const void* x_tiles = nullptr;  // the same as tiles of rows, if the kernel wants that
  const void* w = nullptr;  // element (o, k) at o * w_stride + k, or o + k * w_stride if w_out_unit
  const void* bias = nullptr;  // [out] of bias_dtype; null: none
  float* y = nullptr;          // [rows, out]
  int64_t x_stride = 0, w_stride = 0, y_stride = 0;
  int64_t rows = 0, in = 0, out = 0;
  DType w_dtype = DType::kF32, bias_dtype = DType::kF32;
  BlockScales w_scales = {};  // of kF8E4M3
  bool w_out_unit = false;
  bool accumulate = false;
  // More outputs than stay in a cache until they are read: kernels may write them past the caches.
  bool y_streams = false;
  int64_t first_block = 0;  // set by LinearPlan
};

// Where a kernel puts its own copy of the activations: padded with zeros to whole vectors, so that
// it never reads past a row and never meets what lies there.
struct PackedX {
  char* data = nullptr;  // HeadLinear: [heads, rows, stride]; else [rows, stride]
  int64_t stride = 0;    // elements
  int64_t element_size = 0;
};

// The products of a call, in memory of `workspace`. Products without rows are left out.
std::span<Product> LinearProducts(const LinearArgs& args, const PackedX& x,
                                  ScopedWorkspace& workspace);
std::span<Product> GroupedLinearProducts(const GroupedLinearArgs& args, const PackedX& x,
                                         ScopedWorkspace& workspace);
std::span<Product> HeadLinearProducts(const HeadLinearArgs& args, const PackedX& x,
                                      ScopedWorkspace& workspace);

// Rows and outputs of one product that are computed together.
struct ProductBlock {
  const Product* product;
  int64_t row_begin, row_end, out_begin, out_end;
};

// The blocks of a call and the tasks they are dealt out in. A task is a run of blocks. Blocks of
// one row range are neighbours: a thread keeps its activations, or as much of them as a kernel
// needs at a time, in its L2 cache while the weights stream past.
class LinearPlan {
 public:
  // `products` must outlive the plan. `x_row_bytes` is what a kernel keeps in cache of a packed
  // row.
  LinearPlan(std::span<Product> products, int64_t x_row_bytes, int num_threads);

  // Multiples of every kernel's tile of rows.
  static constexpr int64_t kRowQuantum = 48, kMaxBlockRows = 11 * kRowQuantum;
  // Half of a 512 KiB L2 cache for the activations of a block; the rest for weights on their way.
  static constexpr int64_t kXBlockBytes = 256 * 1024;
  // What a row may count for at most, if blocks are to have all the rows that they may.
  static constexpr int64_t kMostRowsBytes = kXBlockBytes / kMaxBlockRows;

  int64_t num_tasks() const { return num_tasks_; }
  int64_t block_rows() const { return row_block_; }  // at most

  template <typename Fn>  // fn(const ProductBlock&)
  void ForEachBlock(int64_t task, const Fn& fn) const {
    const int64_t end = num_blocks_ * (task + 1) / num_tasks_;
    int64_t block = num_blocks_ * task / num_tasks_;
    const Product* product = ProductOf(block);
    for (; block < end; ++block) {
      while (block - product->first_block >= NumBlocks(*product)) ++product;
      fn(BlockAt(*product, block - product->first_block));
    }
  }

 private:
  int64_t OutBlocks(const Product& p) const { return (p.out + out_block_ - 1) / out_block_; }
  int64_t NumBlocks(const Product& p) const {
    return (p.rows + row_block_ - 1) / row_block_ * OutBlocks(p);
  }
  const Product* ProductOf(int64_t block) const;
  ProductBlock BlockAt(const Product& product, int64_t index) const;

  std::span<Product> products_;
  int64_t row_block_ = 1, out_block_ = 1;
  int64_t num_blocks_ = 0, num_tasks_ = 0;
};

// bias[o] as f32, of any dtype a bias may have.
float BiasAt(const Product& product, int64_t o);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_LINEAR_PLAN_H_
