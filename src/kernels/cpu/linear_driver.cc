#include "kernels/cpu/linear_driver.h"

#include <algorithm>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"

namespace mla::cpu {
namespace {

// A call with fewer activations packs them on the calling thread.
constexpr int64_t kMinParallelPack = 64 * 1024;
constexpr int64_t kPackTaskElements = 16 * 1024;

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

void RunProducts(const LinearBackend& backend, std::span<Product> products, const PackedX& x,
                 const Context& context, ScopedWorkspace& workspace) {
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
