#include "kernels/cpu/linear_driver.h"

#include <algorithm>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"

namespace mla::cpu {
namespace {

// A call with fewer activations packs them on the calling thread.
constexpr int64_t kMinParallelPack = 64 * 1024;
constexpr int64_t kPackTaskElements = 16 * 1024;
// Outputs of a call from which on they are written past the caches (Product::y_streams): more than
// the second-level caches of a few cores hold.
constexpr int64_t kMinStreamedOutputs = 1024 * 1024;

// Packs x, [rows, in] per batch; batches (heads) lie batch_stride apart in x and one after another
// in the result.
PackedX Pack(const LinearBackend& backend, const ConstTensor& x, int64_t batches,
             int64_t batch_stride, int64_t in, const Context& context, ScopedWorkspace& workspace) {
  const int64_t rows = x.dim(0);
  PackedX packed;
  packed.element_size = backend.element_size;
  packed.stride = CeilDiv(in, kPackedQuantum) * kPackedQuantum;
  const int64_t row_bytes = packed.stride * packed.element_size;
  packed.data = workspace->Allocate<char>(batches * rows * row_bytes);
  const bool round = context.compute == ComputeMode::kBF16;

  const int64_t task_rows = std::clamp<int64_t>(kPackTaskElements / std::max<int64_t>(in, 1), 1,
                                                std::max<int64_t>(rows, 1));
  const int64_t row_tasks = CeilDiv(rows, task_rows);
  const auto pack_task = [&](int64_t task, int) {
    const int64_t batch = task / row_tasks;
    const int64_t row = task % row_tasks * task_rows;
    backend.pack_rows(x.as<float>() + batch * batch_stride + row * x.stride(0), x.stride(0),
                      std::min(task_rows, rows - row), in, round,
                      packed.data + (batch * rows + row) * row_bytes, packed.stride);
  };
  const bool parallel = batches * rows * in >= kMinParallelPack;
  ParallelFor(parallel ? context.threads : nullptr, batches * row_tasks, pack_task);
  return packed;
}

// Rows of x as tiles, and the first of their tiles in the order of all that a call packs.
struct TiledRows {
  const Product* product;  // one of those that share them
  char* to;
  int64_t first_tile;
};

void PackTiles(const LinearBackend& backend, std::span<Product> products, const PackedX& x,
               const Context& context, ScopedWorkspace& workspace) {
  if (backend.wants_tiles == nullptr) return;
  const int64_t tile_bytes = backend.tile_rows * x.stride * x.element_size;
  std::vector<TiledRows> packed;
  int64_t tiles = 0;
  for (Product& p : products) {
    if (!backend.wants_tiles(p)) continue;
    // Targets with the same rows are neighbours.
    if (packed.empty() || packed.back().product->x != p.x) {
      const int64_t count = CeilDiv(p.rows, backend.tile_rows);
      packed.push_back({&p, workspace->Allocate<char>(count * tile_bytes), tiles});
      tiles += count;
    }
    p.x_tiles = packed.back().to;
  }
  const bool parallel = tiles * backend.tile_rows * x.stride >= kMinParallelPack;
  ParallelFor(parallel ? context.threads : nullptr, tiles, [&](int64_t tile, int) {
    const auto after = std::upper_bound(
        packed.begin(), packed.end(), tile,
        [](int64_t index, const TiledRows& rows) { return index < rows.first_tile; });
    const TiledRows& rows = *(after - 1);
    const int64_t index = tile - rows.first_tile;
    backend.pack_tile(*rows.product, index, rows.to + index * tile_bytes);
  });
}

void RunProducts(const LinearBackend& backend, std::span<Product> products, const PackedX& x,
                 const Context& context, ScopedWorkspace& workspace) {
  PackTiles(backend, products, x, context, workspace);
  int64_t outputs = 0;
  for (const Product& p : products) outputs += p.rows * p.out;
  for (Product& p : products) p.y_streams = outputs >= kMinStreamedOutputs;
  const int num_threads = NumThreads(context.threads);
  const int64_t panel_bytes = std::min(x.stride, backend.panel) * x.element_size;
  const LinearPlan plan(products, panel_bytes, num_threads);
  constexpr int64_t kLineFloats = 16;  // each thread's begins with a cache line
  const int64_t scratch_size =
      CeilDiv(backend.scratch_floats(x.stride, plan.block_rows()), kLineFloats) * kLineFloats;
  float* scratch = workspace->Allocate<float>(scratch_size * num_threads);
  ParallelFor(context.threads, plan.num_tasks(), [&](int64_t task, int thread) {
    plan.ForEachBlock(task, [&](const ProductBlock& block) {
      backend.run_block(block, scratch + thread * scratch_size);
    });
  });
}

}  // namespace

Status RunLinear(const LinearBackend& backend, const LinearArgs& args, const Context& context) {
  ScopedWorkspace workspace(context.workspace);
  const PackedX x = Pack(backend, args.x, 1, 0, args.x.dim(1), context, workspace);
  RunProducts(backend, LinearProducts(args, x, workspace), x, context, workspace);
  return {};
}

Status RunGroupedLinear(const LinearBackend& backend, const GroupedLinearArgs& args,
                        const Context& context) {
  ScopedWorkspace workspace(context.workspace);
  const PackedX x = Pack(backend, args.x, 1, 0, args.x.dim(1), context, workspace);
  RunProducts(backend, GroupedLinearProducts(args, x, workspace), x, context, workspace);
  return {};
}

Status RunHeadLinear(const LinearBackend& backend, const HeadLinearArgs& args,
                     const Context& context) {
  ScopedWorkspace workspace(context.workspace);
  const PackedX x =
      Pack(backend, args.x, args.x.dim(1), args.x.stride(1), args.x.dim(2), context, workspace);
  RunProducts(backend, HeadLinearProducts(args, x, workspace), x, context, workspace);
  return {};
}

}  // namespace mla::cpu
