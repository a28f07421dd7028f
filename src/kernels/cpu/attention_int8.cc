#include "kernels/cpu/attention_int8.h"

#include "kernels/cpu/attention_engine.h"

namespace mla::cpu {
namespace {

// What a thread needs.
struct Int8Buffers {
  Int8Queries queries;
  Int8Keys keys;
  Int8Weights weights;
  float* s;          // [kRowTile, kKeyTile]
  float* o;          // [kRowTile, code_stride], not yet divided by the sum
  float* max;        // [kRowTile]
  float* sum;        // [kRowTile]
  float* alpha;      // [kRowTile]
  int32_t* visible;  // [kRowTile]
  const void** rows;
  // Whose queries are loaded: the items of divided keys follow each other.
  int32_t loaded_seq = -1;
  int64_t loaded_row = 0;
};

Int8Buffers Allocate(const Int8Shape& shape, ScopedWorkspace& workspace) {
  Int8Buffers b;
  b.queries.digits = workspace->Allocate<int8_t>(kQueryDigits * kRowTile * shape.code_stride);
  b.queries.offsets = workspace->Allocate<int32_t>(kRowTile * shape.groups);
  b.queries.scales = workspace->Allocate<float>(kRowTile * shape.groups);
  b.queries.rope = workspace->Allocate<uint16_t>(kRowTile * shape.rope_stride);
  constexpr int64_t kPanels = kKeyTile / Int8Shape::kPanel;
  b.keys.codes = workspace->Allocate<uint8_t>(kPanels * shape.code_steps * Int8Shape::kStepBytes);
  b.keys.rope =
      workspace->Allocate<uint16_t>(kPanels * shape.rope_steps * Int8Shape::kStepBytes / 2);
  b.keys.values = workspace->Allocate<int8_t>(shape.code_stride * kKeyTile);
  b.keys.scales = workspace->Allocate<float>(shape.groups * kKeyTile);
  b.weights.bytes = workspace->Allocate<uint8_t>(int64_t{shape.groups} * kRowTile * kKeyTile);
  b.weights.scales = workspace->Allocate<float>(kRowTile * shape.groups);
  b.s = workspace->Allocate<float>(kRowTile * kKeyTile);
  b.o = workspace->Allocate<float>(kRowTile * shape.code_stride);
  b.max = workspace->Allocate<float>(3 * kRowTile);
  b.sum = b.max + kRowTile;
  b.alpha = b.sum + kRowTile;
  b.visible = workspace->Allocate<int32_t>(kRowTile);
  b.rows = workspace->Allocate<const void*>(kKeyTile);
  return b;
}

class Int8Task {
 public:
  Int8Task(const AttentionProblem& problem, const CacheRows& cache)
      : problem_(problem), cache_(cache), shape_(cache.latent) {}

  Int8Buffers NewBuffers(ScopedWorkspace& workspace) const { return Allocate(shape_, workspace); }

  void Run(const WorkItem& item, const Outputs& outputs, Int8Buffers& b) const {
    const auto rows = static_cast<int32_t>(item.row_end - item.row_begin);
    const SequenceSpan seq = GetSequence(problem_.batch, item.seq);
    const auto limit = [&](int64_t row) {
      return VisibleKeys(seq, static_cast<int32_t>(row / problem_.heads), problem_.causal);
    };
    const int64_t end = std::min<int64_t>(item.key_end, limit(item.row_end - 1));
    PrefetchPart(Gather(item, item.key_begin, end, b), 0, 1);
    LoadQueries(item, rows, b);
    std::fill_n(b.o, rows * shape_.code_stride, 0.0f);
    std::fill_n(b.max, rows, kMinusInf);
    std::fill_n(b.sum, rows, 0.0f);
    for (int64_t key = item.key_begin; key < end; key += kKeyTile) {
      const int32_t keys = Gather(item, key, end, b).num_rows;
      Int8PackKeys(shape_, b.rows, keys, b.keys);
      for (int32_t i = 0; i < rows; ++i) {
        b.visible[i] =
            static_cast<int32_t>(std::clamp<int64_t>(limit(item.row_begin + i) - key, 0, keys));
      }
      const RowsAhead ahead = Gather(item, key + keys, end, b);
      Int8Scores(shape_, b.queries, b.keys, rows, b.s, ahead);
      Int8Softmax(shape_,
                  SoftmaxTile{b.s, b.visible, rows, keys, problem_.scale * kLog2e, b.max, b.sum,
                              b.alpha, nullptr},
                  b.keys, b.weights);
      Int8Outputs(shape_, b.weights, b.keys, rows, b.alpha, b.o, ahead);
    }
    for (int32_t i = 0; i < rows; ++i) {
      const int64_t row = item.row_begin + i;
      FinishRow(b.o + i * shape_.code_stride, problem_.d_v, b.max[i], b.sum[i],
                outputs.At(item, row / problem_.heads, row % problem_.heads));
    }
  }

 private:
  // Points b.rows to the tile of keys at `key`.
  RowsAhead Gather(const WorkItem& item, int64_t key, int64_t end, const Int8Buffers& b) const {
    const int64_t keys = std::clamp<int64_t>(end - key, 0, kKeyTile);
    GatherRows(cache_, problem_.batch, item.seq, 0, key, key + keys, b.rows);
    return RowsAhead{b.rows, static_cast<int32_t>(keys),
                     static_cast<int32_t>(shape_.layout.bytes())};
  }

  void LoadQueries(const WorkItem& item, int32_t rows, Int8Buffers& b) const {
    if (b.loaded_seq == item.seq && b.loaded_row == item.row_begin) return;
    b.loaded_seq = item.seq;
    b.loaded_row = item.row_begin;
    const ConstTensor& q = problem_.q;
    for (int32_t i = 0; i < rows; ++i) {
      const int64_t row = item.row_begin + i;
      const int64_t token = problem_.batch.cu_q[item.seq] + row / problem_.heads;
      Int8LoadQuery(shape_,
                    q.as<float>() + token * q.stride(0) + row % problem_.heads * q.stride(1), i,
                    b.queries);
    }
  }

  const AttentionProblem& problem_;
  const CacheRows& cache_;
  const Int8Shape shape_;
};

}  // namespace

void AttendInt8(const AttentionProblem& problem, const CacheRows& cache, const Context& context) {
  ScopedWorkspace workspace(context.workspace);
  const PagedBatch& batch = problem.batch;
  const PlanShape shape{problem.heads, 1, kRowTile, kTargetItems};
  auto* seqs = workspace->Allocate<SequencePlan>(batch.num_seqs);
  const AttentionPlan plan =
      PlanAttention(shape, batch, {seqs, static_cast<size_t>(batch.num_seqs)});
  const Outputs outputs(problem, plan, workspace);
  const Int8Task task(problem, cache);
  const int num_threads = NumThreads(context.threads);
  auto* buffers = workspace->Allocate<Int8Buffers>(num_threads);
  for (int t = 0; t < num_threads; ++t) buffers[t] = task.NewBuffers(workspace);
  RunItems(plan, outputs, context.threads, [&](int64_t index, int thread) {
    task.Run(GetWorkItem(shape, batch, plan, index), outputs, buffers[thread]);
  });
}

}  // namespace mla::cpu
