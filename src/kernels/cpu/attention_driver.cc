#include "kernels/cpu/attention_driver.h"

#include "kernels/cpu/attention_engine.h"

namespace mla::cpu {

CacheRows MakeLatentRows(const ConstTensor& cache, int64_t kv_lora_rank, int64_t qk_rope_head_dim) {
  const auto size = static_cast<int64_t>(SizeOf(cache.dtype()));
  CacheRows rows{cache.as<char>(), cache.stride(0) * size, cache.stride(1) * size, 0,
                 cache.dtype()};
  rows.latent = {static_cast<int32_t>(kv_lora_rank), static_cast<int32_t>(qk_rope_head_dim)};
  return rows;
}

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
    buffers[t] = engine.Allocate(workspace, 1, kKeyTile, problem.d_k, k.latent_dim());
  }
  const auto k_row_bytes = static_cast<int32_t>(
      k.dtype == DType::kI8 ? k.latent.bytes() : problem.d_k * SizeOf(k.dtype));
  const bool shared = k.data == v.data;  // values are the head of the keys: one set of pointers

  const int64_t shares = SharesOfItem(shape, batch, plan, num_threads);
  const auto run_share = [&](int64_t index, int thread) {
    const TileBuffers& b = buffers[thread];
    const WorkItem whole = GetWorkItem(shape, batch, plan, index / shares);
    const WorkItem item = ShareOfItem(whole, index % shares, shares);
    const auto rows = static_cast<int32_t>(item.row_end - item.row_begin);
    if (rows == 0) return;
    const int64_t end = std::min(item.key_end, engine.Limit(item.seq, whole.row_end - 1));
    const auto ahead = [&](int64_t key) {  // the tile of keys at `key`
      const int64_t keys = std::clamp<int64_t>(end - key, 0, kKeyTile);
      GatherRows(k, batch, item.seq, item.kv_head, key, key + keys, b.rows);
      return RowsAhead{b.rows, static_cast<int32_t>(keys), k_row_bytes};
    };
    PrefetchPart(ahead(item.key_begin), 0, 1);
    engine.LoadQueries(item.seq, item.kv_head, item.row_begin, rows, b);
    engine.ClearOutputs(rows, b);
    for (int64_t key = item.key_begin; key < end; key += kKeyTile) {
      const auto keys = static_cast<int32_t>(std::min<int64_t>(kKeyTile, end - key));
      const DType type = engine.GatherNumbers(k, item.seq, item.kv_head, key, key + keys, b);
      kernels.pack_transposed({b.rows, keys, problem.d_k, type}, engine.KPanels(b.k, 0), b.scratch);
      if (!shared) GatherRows(v, batch, item.seq, item.kv_head, key, key + keys, b.rows);
      kernels.pack_straight({b.rows, keys, problem.d_v, type}, engine.VPanels(b.v));
      engine.Attend(item.seq, item.row_begin, rows, key, keys, b.k, b.v, b, ahead(key + keys));
    }
    Destination to[kRowTile];
    for (int32_t i = 0; i < rows; ++i) {
      const int64_t row = item.row_begin + i;
      to[i] = outputs.At(item, row / engine.group(),
                         item.kv_head * engine.group() + row % engine.group());
    }
    engine.Finish(rows, b, to);
  };
  RunItems(plan, outputs, context.threads, run_share, shares);
}

}  // namespace mla::cpu
