// What the two attention drivers share: gathering, the state of a tile of rows, partial results.
#ifndef MLA_KERNELS_CPU_ATTENTION_ENGINE_H_
#define MLA_KERNELS_CPU_ATTENTION_ENGINE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/attention_tile.h"
#include "ops/attention.h"

namespace mla::cpu {

inline constexpr float kLog2e = 1.44269504088896340736f;
inline constexpr float kLn2 = 0.69314718055994530942f;
inline constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

inline int64_t RoundUp(int64_t n, int64_t multiple) { return CeilDiv(n, multiple) * multiple; }

// Pointers to the rows of `dim` elements of keys [begin, end) of a sequence.
inline void GatherRows(const CacheRows& cache, const PagedBatch& batch, int32_t seq,
                       int32_t kv_head, int64_t begin, int64_t end, const void** rows) {
  const int32_t* pages = GetSequence(batch, seq).pages;
  const char* base = cache.data + kv_head * cache.head_stride;
  int64_t page = begin / batch.page_size;
  int64_t offset = begin % batch.page_size;
  for (int64_t key = begin; key < end; ++page, offset = 0) {
    const char* row = base + pages[page] * cache.page_stride + offset * cache.token_stride;
    const int64_t run = std::min(batch.page_size - offset, end - key);
    for (int64_t i = 0; i < run; ++i, row += cache.token_stride) rows[key++ - begin] = row;
  }
}

// Where the results of some rows go: out itself, or this split's partial results.
struct Destination {
  float* out;
  float* lse;  // may be null
};

// The factor of a row's outputs and its lse. `max` is in powers of 2; a row that saw nothing has
// max = -inf and sum = 0.
inline float InverseOf(float max, float sum) { return max == kMinusInf ? 0.0f : 1.0f / sum; }
inline float LseOf(float max, float sum) {
  return max == kMinusInf ? kMinusInf : (max + std::log2(sum)) * kLn2;
}

// Divides by the sum and writes output and lse.
inline void FinishRow(const float* o, int32_t d_v, float max, float sum, const Destination& to) {
  const float inverse = InverseOf(max, sum);
  for (int32_t j = 0; j < d_v; ++j) to.out[j] = o[j] * inverse;
  if (to.lse != nullptr) *to.lse = LseOf(max, sum);
}

// What a thread needs to attend with one tile of rows to one tile of keys.
struct TileBuffers {
  char* q;           // [kRowTile, q_stride] packed
  float* s;          // [kRowTile, kKeyTile]
  char* p;           // [kRowTile, kKeyTile] packed
  float* o;          // [kRowTile, o_stride], not yet divided by the sum
  float* max;        // [kRowTile]
  float* sum;        // [kRowTile]
  float* alpha;      // [kRowTile]
  int32_t* visible;  // [kRowTile]
  float* scratch;    // for transposing
  const void** rows;
  char* decoded;  // [kKeyTile, latent_dim] elements: int8 latents as numbers
  char* k;        // panels
  char* v;
};

// The sizes that follow from a problem and the tile kernels, and the steps common to both drivers.
class TileEngine {
 public:
  // q rows are packed as two segments, each padded to whole steps, so that the parts of a key may
  // come from different places.
  TileEngine(const TileKernels& kernels, const AttentionProblem& problem, int32_t d_first,
             int32_t d_second)
      : kernels_(kernels),
        problem_(problem),
        d_first_(d_first),
        d_second_(d_second),
        first_steps_(CeilDiv(d_first, kernels.step)),
        k_steps_(first_steps_ + CeilDiv(d_second, kernels.step)),
        v_steps_(CeilDiv(kKeyTile, kernels.step)),
        q_stride_(RoundUp(k_steps_ * kernels.step, 32)),
        o_stride_(RoundUp(problem.d_v, kColumnPad)),
        group_(problem.heads / problem.kv_heads) {}

  int64_t first_steps() const { return first_steps_; }
  int64_t k_panel_bytes() const { return kKeyTile * k_steps_ * step_bytes(); }
  int64_t v_panel_bytes() const { return o_stride_ * v_steps_ * step_bytes(); }
  int64_t step_bytes() const { return int64_t{kernels_.step} * kernels_.element_bytes; }
  Panels KPanels(char* data, int64_t offset) const {
    return Panels{data, static_cast<int32_t>(k_steps_), static_cast<int32_t>(offset)};
  }
  Panels VPanels(char* data) const { return Panels{data, static_cast<int32_t>(v_steps_), 0}; }

  // `key_tiles`: how many tiles of packed keys and values are kept. `rows`: row pointers needed.
  // `latent_dim`: numbers of a latent if the cache holds int8 latents, else 0.
  TileBuffers Allocate(ScopedWorkspace& workspace, int64_t key_tiles, int64_t rows,
                       int64_t transposed_dim, int64_t latent_dim) const {
    TileBuffers b;
    b.q = workspace->Allocate<char>(kRowTile * q_stride_ * kernels_.element_bytes);
    b.s = workspace->Allocate<float>(kRowTile * kKeyTile);
    b.p = workspace->Allocate<char>(kRowTile * kKeyTile * kernels_.element_bytes);
    b.o = workspace->Allocate<float>(kRowTile * o_stride_);
    b.max = workspace->Allocate<float>(3 * kRowTile);
    b.sum = b.max + kRowTile;
    b.alpha = b.sum + kRowTile;
    b.visible = workspace->Allocate<int32_t>(kRowTile);
    b.scratch = workspace->Allocate<float>(TransposeScratchFloats(transposed_dim));
    b.rows = workspace->Allocate<const void*>(std::max<int64_t>(rows, kKeyTile));
    b.decoded = workspace->Allocate<char>(kKeyTile * latent_dim * kernels_.element_bytes);
    b.k = workspace->Allocate<char>(key_tiles * k_panel_bytes());
    b.v = workspace->Allocate<char>(key_tiles * v_panel_bytes());
    return b;
  }

  // Keys that row `row` of a sequence sees.
  int64_t Limit(int32_t seq, int64_t row) const {
    return VisibleKeys(GetSequence(problem_.batch, seq), static_cast<int32_t>(row / group_),
                       problem_.causal);
  }

  // Points b.rows to keys [begin, end) of the sequence as rows of numbers, of the dtype returned.
  DType GatherNumbers(const CacheRows& cache, int32_t seq, int32_t kv_head, int64_t begin,
                      int64_t end, const TileBuffers& b) const {
    GatherRows(cache, problem_.batch, seq, kv_head, begin, end, b.rows);
    if (cache.dtype != DType::kI8) return cache.dtype;
    const int64_t stride = cache.latent.kv_lora_rank + cache.latent.qk_rope_head_dim;
    kernels_.decode_latents(b.rows, static_cast<int32_t>(end - begin), cache.latent, b.decoded,
                            stride);
    for (int64_t i = 0; i < end - begin; ++i) {
      b.rows[i] = b.decoded + i * stride * kernels_.element_bytes;
    }
    return kernels_.element;
  }

  void LoadQueries(int32_t seq, int32_t kv_head, int64_t row_begin, int32_t rows,
                   const TileBuffers& b) const {
    const ConstTensor& q = problem_.q;
    for (int32_t i = 0; i < rows; ++i) {
      const int64_t token = problem_.batch.cu_q[seq] + (row_begin + i) / group_;
      const int64_t head = kv_head * group_ + (row_begin + i) % group_;
      const float* src = q.as<float>() + token * q.stride(0) + head * q.stride(1);
      char* dst = b.q + i * q_stride_ * kernels_.element_bytes;
      kernels_.round_row(src, d_first_, dst);
      if (d_second_ > 0) {
        kernels_.round_row(src + d_first_, d_second_, dst + first_steps_ * step_bytes());
      }
    }
  }

  void ClearOutputs(int32_t rows, const TileBuffers& b) const {
    std::fill_n(b.o, rows * o_stride_, 0.0f);
    std::fill_n(b.max, rows, kMinusInf);
    std::fill_n(b.sum, rows, 0.0f);
  }

  // Attends with the loaded rows to one packed tile of `keys` keys that begins at key `begin`.
  void Attend(int32_t seq, int64_t row_begin, int32_t rows, int64_t begin, int32_t keys,
              char* k_panels, char* v_panels, const TileBuffers& b,
              const RowsAhead& ahead = {}) const {
    for (int32_t i = 0; i < rows; ++i) {
      const int64_t limit = Limit(seq, row_begin + i) - begin;
      b.visible[i] = static_cast<int32_t>(std::clamp<int64_t>(limit, 0, keys));
    }
    kernels_.multiply(Product{b.q, q_stride_, KPanels(k_panels, 0), b.s, kKeyTile, rows, keys,
                              static_cast<int32_t>(k_steps_), nullptr});
    kernels_.softmax(SoftmaxTile{b.s, b.visible, rows, keys, problem_.scale * kLog2e, b.max, b.sum,
                                 b.alpha, b.p});
    kernels_.multiply(Product{b.p, kKeyTile, VPanels(v_panels), b.o, o_stride_, rows, problem_.d_v,
                              static_cast<int32_t>(CeilDiv(keys, kernels_.step)), b.alpha, ahead});
  }

  // Divides by the sums and writes outputs and lse.
  void Finish(int32_t rows, const TileBuffers& b, const Destination* destinations) const {
    for (int32_t i = 0; i < rows; ++i) {
      FinishRow(b.o + i * o_stride_, problem_.d_v, b.max[i], b.sum[i], destinations[i]);
    }
  }

  int64_t o_stride() const { return o_stride_; }
  int64_t group() const { return group_; }

 private:
  const TileKernels& kernels_;
  const AttentionProblem& problem_;
  int32_t d_first_, d_second_;
  int64_t first_steps_, k_steps_, v_steps_;
  int64_t q_stride_;  // elements
  int64_t o_stride_;  // floats
  int64_t group_;     // query heads per kv head
};

// The partial results of split sequences, and where each row's result goes.
class Outputs {
 public:
  Outputs(const AttentionProblem& problem, const AttentionPlan& plan, ScopedWorkspace& workspace)
      : problem_(problem), plan_(plan) {
    if (plan.num_part_rows == 0) return;
    part_out_ = workspace->Allocate<float>(plan.num_part_rows * problem.d_v);
    part_lse_ = workspace->Allocate<float>(plan.num_part_rows);
  }

  Destination At(const WorkItem& item, int64_t token, int64_t head) const {
    const SequencePlan& p = plan_.seqs[item.seq];
    if (p.splits == 1) return Final(problem_.batch.cu_q[item.seq] + token, head);
    const int64_t row = PartRow(item.seq, item.split, token * problem_.heads + head);
    return Destination{part_out_ + row * problem_.d_v, part_lse_ + row};
  }

  // Merges the parts of rows [begin, end) of the plan's merge rows.
  void Merge(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      const int32_t seq = FindMergeSequence(plan_, row);
      const int64_t local = row - plan_.seqs[seq].first_merge;
      MergeRow(seq, local,
               Final(problem_.batch.cu_q[seq] + local / problem_.heads, local % problem_.heads));
    }
  }

 private:
  Destination Final(int64_t token, int64_t head) const {
    const Tensor &out = problem_.out, &lse = problem_.lse;
    return Destination{
        out.as<float>() + token * out.stride(0) + head * out.stride(1),
        lse.present() ? lse.as<float>() + token * lse.stride(0) + head * lse.stride(1) : nullptr};
  }

  int64_t PartRow(int32_t seq, int64_t split, int64_t row) const {
    const int64_t rows = int64_t{GetSequence(problem_.batch, seq).q_len} * problem_.heads;
    return plan_.seqs[seq].first_part + split * rows + row;
  }

  void MergeRow(int32_t seq, int64_t row, const Destination& to) const {
    const int32_t splits = plan_.seqs[seq].splits;
    float max = kMinusInf;
    for (int32_t i = 0; i < splits; ++i) {
      const float lse = part_lse_[PartRow(seq, i, row)];
      if (lse > max || std::isnan(lse)) max = lse;  // once NaN it stays so
    }
    static_assert(kExpandedItems <= kTargetItems);
    const float* parts[kTargetItems] = {};
    float weights[kTargetItems] = {};
    int32_t count = 0;
    float sum = 0;
    for (int32_t i = 0; i < splits; ++i) {
      const int64_t part = PartRow(seq, i, row);
      if (part_lse_[part] == kMinusInf) continue;
      parts[count] = part_out_ + part * problem_.d_v;
      weights[count] = std::exp(part_lse_[part] - max);
      sum += weights[count++];
    }
    for (int32_t i = 0; i < count; ++i) weights[i] /= sum;
    WeightedSum(parts, weights, count, problem_.d_v, to.out);
    if (to.lse != nullptr) *to.lse = max == kMinusInf ? kMinusInf : max + std::log(sum);
  }

  const AttentionProblem& problem_;
  const AttentionPlan& plan_;
  float* part_out_ = nullptr;
  float* part_lse_ = nullptr;
};

// Runs run_item(index, thread) for every item of the plan, or for every one of its `shares` shares,
// those of an item being neighbours; then merges the sequences whose keys were split: a second
// parallel region only where there are any.
template <typename Fn>
void RunItems(const AttentionPlan& plan, const Outputs& outputs, ThreadPool* threads,
              const Fn& run_item, int64_t shares = 1) {
  ParallelFor(threads, plan.num_items * shares, run_item);
  if (plan.num_merge_rows == 0) return;
  constexpr int64_t kRows = 2;
  ParallelFor(threads, CeilDiv(plan.num_merge_rows, kRows), [&](int64_t task, int) {
    outputs.Merge(task * kRows, std::min((task + 1) * kRows, plan.num_merge_rows));
  });
}

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ATTENTION_ENGINE_H_
