#include "kernels/cpu/attention_latents.h"

#include "kernels/cpu/attention_engine.h"

namespace mla::cpu {
namespace {

// What a thread needs.
struct LatentBuffers {
  LatentTile tile;
  const void** latents;  // [keys_ahead], of which the first kKeyTile are attended to
  const void** ahead;    // [keys_ahead]: those that follow
  // Whose queries are loaded, and up to which key the latents are on their way: the items of
  // divided keys follow each other.
  int32_t seq = -1;
  int64_t row_begin = 0;
  int64_t asked = -1;
};

class LatentTask {
 public:
  LatentTask(const LatentKernels& kernels, const AttentionProblem& problem, const CacheRows& cache)
      : kernels_(kernels),
        problem_(problem),
        cache_(cache),
        query_bytes_(kernels.query_bytes(cache.latent)),
        weight_bytes_(kernels.weight_bytes(cache.latent)) {}

  LatentBuffers NewBuffers(ScopedWorkspace& workspace) const {
    LatentBuffers b;
    LatentTile& t = b.tile;
    t.rows = 0;
    t.queries = workspace->Allocate<char>(kTileGroups * query_bytes_);
    t.scores = workspace->Allocate<float>(kRowTile * kKeyTile);
    t.weights = workspace->Allocate<char>(kTileGroups * weight_bytes_);
    t.scratch = workspace->Allocate<char>(
        kernels_.scratch_bytes == nullptr ? 0 : kernels_.scratch_bytes(cache_.latent));
    // Rows a power of 2 apart would share a few sets of the first-level cache.
    t.output_stride = RoundUp(problem_.d_v, kernels_.output_pad) + 32;
    t.outputs = workspace->Allocate<float>(kRowTile * t.output_stride);
    t.max = workspace->Allocate<float>(3 * kRowTile);
    t.sum = t.max + kRowTile;
    t.alpha = t.sum + kRowTile;
    t.visible = workspace->Allocate<int32_t>(kRowTile);
    b.latents = workspace->Allocate<const void*>(kernels_.keys_ahead);
    b.ahead = workspace->Allocate<const void*>(kernels_.keys_ahead);
    return b;
  }

  // `whole`: the item of which `item` is a share.
  void Run(const WorkItem& whole, const WorkItem& item, const Outputs& outputs,
           LatentBuffers& b) const {
    const int64_t limit = Limit(item.seq, whole.row_end - 1);  // the next item goes on there
    const int64_t end = std::min(item.key_end, limit);
    const RowsAhead first = Gather(item.seq, item.key_begin, limit, b.ahead);
    if (b.seq != item.seq || b.asked != item.key_begin) PrefetchPart(first, 0, 1);
    LoadQueries(item, b);
    const LatentTile& t = b.tile;
    std::fill_n(t.outputs, t.rows * t.output_stride, 0.0f);
    std::fill_n(t.max, kRowTile, kMinusInf);
    std::fill_n(t.sum, kRowTile, 0.0f);
    std::fill_n(t.visible, kRowTile, 0);
    const int64_t seen_by_all = Limit(item.seq, item.row_begin);
    for (int64_t key = item.key_begin; key < end; key += kKeyTile) {
      std::swap(b.latents, b.ahead);
      const auto keys = static_cast<int32_t>(std::min<int64_t>(kKeyTile, end - key));
      if (key + keys <= seen_by_all) {
        std::fill_n(t.visible, t.rows, keys);
      } else {
        for (int32_t i = 0; i < t.rows; ++i) {
          const int64_t seen = Limit(item.seq, item.row_begin + i) - key;
          t.visible[i] = static_cast<int32_t>(std::clamp<int64_t>(seen, 0, keys));
        }
      }
      kernels_.attend(cache_.latent, t, b.latents, keys, problem_.scale * kLog2e,
                      Gather(item.seq, key + keys, limit, b.ahead));
      b.asked = key + keys;
    }
    for (int32_t i = 0; i < t.rows; ++i) {
      const int64_t row = item.row_begin + i;
      const Destination to = outputs.At(item, row / problem_.heads, row % problem_.heads);
      kernels_.write_row(t.outputs + i * t.output_stride, InverseOf(t.max[i], t.sum[i]),
                         problem_.d_v, to.out);
      if (to.lse != nullptr) *to.lse = LseOf(t.max[i], t.sum[i]);
    }
  }

 private:
  // Keys that row `row` of a sequence sees.
  int64_t Limit(int32_t seq, int64_t row) const {
    return VisibleKeys(GetSequence(problem_.batch, seq), static_cast<int32_t>(row / problem_.heads),
                       problem_.causal);
  }

  // Points `latents` to the keys from `key` on.
  RowsAhead Gather(int32_t seq, int64_t key, int64_t end, const void** latents) const {
    const int64_t keys = std::clamp<int64_t>(end - key, 0, kernels_.keys_ahead);
    GatherRows(cache_, problem_.batch, seq, 0, key, key + keys, latents);
    return RowsAhead{latents, static_cast<int32_t>(keys),
                     static_cast<int32_t>(kernels_.row_bytes(cache_.latent))};
  }

  void LoadQueries(const WorkItem& item, LatentBuffers& b) const {
    const auto rows = static_cast<int32_t>(item.row_end - item.row_begin);
    if (b.seq == item.seq && b.row_begin == item.row_begin && b.tile.rows == rows) return;
    b.seq = item.seq;
    b.row_begin = item.row_begin;
    b.tile.rows = rows;
    const ConstTensor& q = problem_.q;
    for (int32_t group = 0; group < b.tile.groups(); ++group) {
      const int32_t count = std::min(kGroupRows, rows - group * kGroupRows);
      const float* from[kGroupRows];
      for (int32_t i = 0; i < count; ++i) {
        const int64_t row = item.row_begin + group * kGroupRows + i;
        const int64_t token = problem_.batch.cu_q[item.seq] + row / problem_.heads;
        from[i] = q.as<float>() + token * q.stride(0) + row % problem_.heads * q.stride(1);
      }
      kernels_.load_queries(cache_.latent, from, count, b.tile.queries + group * query_bytes_);
    }
  }

  const LatentKernels& kernels_;
  const AttentionProblem& problem_;
  const CacheRows& cache_;
  const int64_t query_bytes_, weight_bytes_;  // of a group
};

}  // namespace

void AttendLatents(const LatentKernels& kernels, const AttentionProblem& problem,
                   const CacheRows& cache, const Context& context) {
  ScopedWorkspace workspace(context.workspace);
  const PagedBatch& batch = problem.batch;
  const PlanShape shape{problem.heads, 1, kRowTile, kTargetItems};
  auto* seqs = workspace->Allocate<SequencePlan>(batch.num_seqs);
  const AttentionPlan plan =
      PlanAttention(shape, batch, {seqs, static_cast<size_t>(batch.num_seqs)});
  const Outputs outputs(problem, plan, workspace);
  const LatentTask task(kernels, problem, cache);
  const int num_threads = NumThreads(context.threads);
  auto* buffers = workspace->Allocate<LatentBuffers>(num_threads);
  for (int t = 0; t < num_threads; ++t) buffers[t] = task.NewBuffers(workspace);
  const int64_t shares = SharesOfItem(shape, batch, plan, num_threads);
  const auto run_share = [&](int64_t index, int thread) {
    const WorkItem whole = GetWorkItem(shape, batch, plan, index / shares);
    const WorkItem item = ShareOfItem(whole, index % shares, shares);
    if (item.row_begin < item.row_end) task.Run(whole, item, outputs, buffers[thread]);
  };
  RunItems(plan, outputs, context.threads, run_share, shares);
}

void AttendLatentsInBf16(const AttentionProblem& problem, const CacheRows& cache,
                         const Context& context) {
  if (cache.dtype == DType::kBF16) {
    AttendLatents(Bf16LatentKernels(), problem, cache, context);
  } else {
    AttendPaged(Avx512Bf16TileKernels(), problem, cache, cache, context);
  }
}

}  // namespace mla::cpu
