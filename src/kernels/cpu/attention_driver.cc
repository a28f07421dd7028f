#include "kernels/cpu/attention_driver.h"

#include "kernels/cpu/attention_engine.h"

namespace mla::cpu {

void AttendPaged(const TileKernels& kernels, const AttentionProblem& problem, const CacheRows& k,
                 const CacheRows& v, const Context& context) {
  ScopedWorkspace workspace(context.workspace);
  const PagedBatch& batch = problem.batch;
  const PlanShape shape{problem.heads, problem.kv_heads, kRowTile, kTargetItems};
  auto* seqs = workspace->Allocate<SequencePlan>(batch.num_seqs);
  const AttentionPlan plan =
      PlanAttention(shape, batch, {seqs, static_cast<size_t>(batch.num_seqs)});
  const Outputs outputs(problem, plan, workspace);
  const TileEngine engine(kernels, problem, problem.d_k, 0);
  const int num_threads = NumThreads(context.threads);
  auto* buffers = workspace->Allocate<TileBuffers>(num_threads);
  for (int t = 0; t < num_threads; ++t) {
    buffers[t] = engine.Allocate(workspace, 1, kKeyTile, problem.d_k);
  }
  const auto k_row_bytes = static_cast<int32_t>(problem.d_k * SizeOf(k.dtype));
  const bool shared = k.data == v.data;  // values are the head of the keys: one set of pointers

  RunItems(plan, outputs, context.threads, [&](int64_t index, int thread) {
    const TileBuffers& b = buffers[thread];
    const WorkItem item = GetWorkItem(shape, batch, plan, index);
    const auto rows = static_cast<int32_t>(item.row_end - item.row_begin);
    engine.LoadQueries(item.seq, item.kv_head, item.row_begin, rows, b);
    engine.ClearOutputs(rows, b);
    const int64_t end = std::min(item.key_end, engine.Limit(item.seq, item.row_end - 1));
    for (int64_t key = item.key_begin; key < end; key += kKeyTile) {
      const auto keys = static_cast<int32_t>(std::min<int64_t>(kKeyTile, end - key));
      GatherRows(k, batch, item.seq, item.kv_head, key, key + keys, b.rows);
      kernels.pack_transposed({b.rows, keys, problem.d_k, k.dtype}, engine.KPanels(b.k, 0),
                              b.scratch);
      if (!shared) GatherRows(v, batch, item.seq, item.kv_head, key, key + keys, b.rows);
      kernels.pack_straight({b.rows, keys, problem.d_v, v.dtype}, engine.VPanels(b.v));
      const auto next = static_cast<int32_t>(std::min<int64_t>(kKeyTile, end - key - keys));
      GatherRows(k, batch, item.seq, item.kv_head, key + keys, key + keys + next, b.rows);
      engine.Attend(item.seq, item.row_begin, rows, key, keys, b.k, b.v, b,
                    RowsAhead{b.rows, next, k_row_bytes});
    }
    Destination to[kRowTile];
    for (int32_t i = 0; i < rows; ++i) {
      const int64_t row = item.row_begin + i;
      to[i] = outputs.At(item, row / engine.group(),
                         item.kv_head * engine.group() + row % engine.group());
    }
    engine.Finish(rows, b, to);
  });
}

}  // namespace mla::cpu
