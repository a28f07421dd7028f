// The expanded form: keys and values are projected from the latent, a chunk at a time.
#include <cstring>

#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/attention_engine.h"

namespace mla::cpu {
namespace {

// One head's projection weights as packed rows.
struct HeadWeights {
  const char* uk;
  const char* uv;
  int64_t uk_stride;  // elements
  int64_t uv_stride;
};

// What a thread needs beside TileBuffers to project a chunk and to attend to it.
struct ExpandedBuffers {
  TileBuffers tile;
  char* latent;      // panels of one key tile of c_kv
  float* projected;  // [max(d_n, d_v), kKeyTile]
  char* rounded;     // the same, packed
  char* weights;     // one head's w_uk and w_uv, where they cannot be used in place
  float* row;        // [kv_lora_rank]
  float* max;        // [q_len]: the state of the rows that are not loaded
  float* sum;        // [q_len]
};

class ExpandedTask {
 public:
  ExpandedTask(const TileKernels& kernels, const AttentionProblem& problem,
               const LatentProjection& projection)
      : kernels_(kernels),
        problem_(problem),
        projection_(projection),
        d_nope_(problem.d_k - projection.qk_rope_head_dim),
        weight_stride_(RoundUp(projection.kv_lora_rank, 32)),
        engine_(kernels, problem, d_nope_, projection.qk_rope_head_dim) {}

  ExpandedBuffers Allocate(ScopedWorkspace& workspace, int64_t max_q_len) const {
    const int64_t wide = std::max(d_nope_, problem_.d_v);
    ExpandedBuffers b;
    b.tile = engine_.Allocate(workspace, kChunkKeys / kKeyTile, wide,
                              std::max<int64_t>(projection_.kv_lora_rank,
                                                std::max(kKeyTile, projection_.qk_rope_head_dim)),
                              projection_.latent.latent_dim());
    b.latent = workspace->Allocate<char>(kKeyTile * LatentSteps() * engine_.step_bytes());
    b.projected = workspace->Allocate<float>(wide * kKeyTile);
    b.rounded = workspace->Allocate<char>(wide * kKeyTile * kernels_.element_bytes);
    const bool in_place = InPlace(projection_.w_uk) && InPlace(projection_.w_uv);
    b.weights = in_place ? nullptr
                         : workspace->Allocate<char>((d_nope_ + problem_.d_v) * weight_stride_ *
                                                     kernels_.element_bytes);
    b.row = workspace->Allocate<float>(projection_.kv_lora_rank);
    b.max = workspace->Allocate<float>(max_q_len);
    b.sum = workspace->Allocate<float>(max_q_len);
    return b;
  }

  void Run(const WorkItem& item, const Outputs& outputs, const ExpandedBuffers& b) const {
    const HeadWeights weights = LoadWeights(item.kv_head, b);
    const int64_t rows = item.row_end;
    std::fill_n(b.max, rows, kMinusInf);
    std::fill_n(b.sum, rows, 0.0f);
    const int64_t end = std::min(item.key_end, engine_.Limit(item.seq, rows - 1));
    if (end <= item.key_begin) {
      for (int64_t row = 0; row < rows; row += kRowTile) {
        AttendChunk(item, outputs, row, item.key_begin, item.key_begin, true, true, b);
      }
    }
    for (int64_t begin = item.key_begin; begin < end; begin += kChunkKeys) {
      const int64_t chunk_end = std::min<int64_t>(begin + kChunkKeys, end);
      for (int64_t key = begin; key < chunk_end; key += kKeyTile) {
        const int64_t tile = (key - begin) / kKeyTile;
        ProjectTile(item, key, std::min<int64_t>(kKeyTile, chunk_end - key), weights,
                    b.tile.k + tile * engine_.k_panel_bytes(),
                    b.tile.v + tile * engine_.v_panel_bytes(), b);
      }
      for (int64_t row = 0; row < rows; row += kRowTile) {
        AttendChunk(item, outputs, row, begin, chunk_end, begin == item.key_begin, chunk_end == end,
                    b);
      }
    }
  }

 private:
  int64_t LatentSteps() const { return CeilDiv(projection_.kv_lora_rank, kernels_.step); }

  // The product reads weights as packed elements, whole steps of them.
  bool InPlace(const ConstTensor& w) const {
    return w.dtype() == kernels_.element && w.stride(2) == 1 &&
           projection_.kv_lora_rank % kernels_.step == 0;
  }

  void CopyWeights(const ConstTensor& w, int64_t head, float* row, char* to) const {
    const int64_t r = projection_.kv_lora_rank;
    for (int64_t i = 0; i < w.dim(1); ++i) {
      const int64_t at = head * w.stride(0) + i * w.stride(1);
      for (int64_t j = 0; j < r; ++j) {
        const int64_t index = at + j * w.stride(2);
        switch (w.dtype()) {
          case DType::kF16: row[j] = F16ToF32(w.as<uint16_t>()[index]); break;
          case DType::kBF16: row[j] = Bf16ToF32(w.as<uint16_t>()[index]); break;
          default: row[j] = w.as<float>()[index]; break;
        }
      }
      char* dst = to + i * weight_stride_ * kernels_.element_bytes;
      if (kernels_.element == DType::kF32) {
        std::memcpy(dst, row, r * sizeof(float));  // weights are not rounded
      } else {
        kernels_.round_row(row, static_cast<int32_t>(r), dst);
      }
    }
  }

  HeadWeights LoadWeights(int64_t head, const ExpandedBuffers& b) const {
    const ConstTensor &uk = projection_.w_uk, &uv = projection_.w_uv;
    HeadWeights weights{b.weights, b.weights, weight_stride_, weight_stride_};
    if (InPlace(uk)) {
      weights.uk = uk.as<char>() + head * uk.stride(0) * kernels_.element_bytes;
      weights.uk_stride = uk.stride(1);
    } else {
      CopyWeights(uk, head, b.row, b.weights);
    }
    if (InPlace(uv)) {
      weights.uv = uv.as<char>() + head * uv.stride(0) * kernels_.element_bytes;
      weights.uv_stride = uv.stride(1);
    } else {
      char* to = b.weights + d_nope_ * weight_stride_ * kernels_.element_bytes;
      CopyWeights(uv, head, b.row, to);
      weights.uv = to;
    }
    return weights;
  }

  // rounded[i, :] = row i of W times the latent tile, for `rows` rows of W; b.tile.rows points to
  // them.
  void Project(const char* w, int64_t stride, int32_t rows, int32_t keys,
               const ExpandedBuffers& b) const {
    const auto steps = static_cast<int32_t>(LatentSteps());
    kernels_.multiply(Product{w, stride, Panels{b.latent, steps, 0}, b.projected, kKeyTile, rows,
                              keys, steps, nullptr});
    for (int32_t i = 0; i < rows; ++i) {
      char* to = b.rounded + int64_t{i} * kKeyTile * kernels_.element_bytes;
      kernels_.round_row(b.projected + i * kKeyTile, keys, to);
      b.tile.rows[i] = to;
    }
  }

  // Packs the keys and values of one head for one tile of cached tokens.
  void ProjectTile(const WorkItem& item, int64_t key, int64_t num_keys, const HeadWeights& weights,
                   char* k_panels, char* v_panels, const ExpandedBuffers& b) const {
    const auto keys = static_cast<int32_t>(num_keys);
    const CacheRows& latent = projection_.latent;
    const int32_t r = projection_.kv_lora_rank;
    const DType type = engine_.GatherNumbers(latent, item.seq, 0, key, key + keys, b.tile);
    kernels_.pack_transposed({b.tile.rows, keys, r, type},
                             Panels{b.latent, static_cast<int32_t>(LatentSteps()), 0},
                             b.tile.scratch);
    if (projection_.qk_rope_head_dim > 0) {
      const int64_t skip = int64_t{r} * static_cast<int64_t>(SizeOf(type));
      for (int32_t i = 0; i < keys; ++i) {
        b.tile.rows[i] = static_cast<const char*>(b.tile.rows[i]) + skip;
      }
      kernels_.pack_transposed({b.tile.rows, keys, projection_.qk_rope_head_dim, type},
                               engine_.KPanels(k_panels, engine_.first_steps()), b.tile.scratch);
    }
    if (d_nope_ > 0) {
      Project(weights.uk, weights.uk_stride, d_nope_, keys, b);
      kernels_.pack_straight({b.tile.rows, d_nope_, keys, kernels_.element},
                             engine_.KPanels(k_panels, 0));
    }
    Project(weights.uv, weights.uv_stride, problem_.d_v, keys, b);
    kernels_.pack_transposed({b.tile.rows, problem_.d_v, keys, kernels_.element},
                             engine_.VPanels(v_panels), b.tile.scratch);
  }

  // Attends with one tile of rows to the packed chunk. Between chunks the outputs wait, not yet
  // divided, where the results will go.
  void AttendChunk(const WorkItem& item, const Outputs& outputs, int64_t row_begin,
                   int64_t key_begin, int64_t key_end, bool first, bool last,
                   const ExpandedBuffers& b) const {
    const auto rows = static_cast<int32_t>(std::min<int64_t>(kRowTile, item.row_end - row_begin));
    const int64_t end = std::min(key_end, engine_.Limit(item.seq, row_begin + rows - 1));
    if (end <= key_begin && !first && !last) return;
    Destination to[kRowTile];
    for (int32_t i = 0; i < rows; ++i) to[i] = outputs.At(item, row_begin + i, item.kv_head);

    engine_.ClearOutputs(rows, b.tile);
    if (!first) {
      std::copy_n(b.max + row_begin, rows, b.tile.max);
      std::copy_n(b.sum + row_begin, rows, b.tile.sum);
      for (int32_t i = 0; i < rows; ++i) {
        std::copy_n(to[i].out, problem_.d_v, b.tile.o + i * engine_.o_stride());
      }
    }
    if (end > key_begin) engine_.LoadQueries(item.seq, item.kv_head, row_begin, rows, b.tile);
    for (int64_t key = key_begin; key < end; key += kKeyTile) {
      const int64_t tile = (key - key_begin) / kKeyTile;
      // The tile's packed keys, not fewer: the panels are padded only from there on.
      const auto keys = static_cast<int32_t>(std::min<int64_t>(kKeyTile, key_end - key));
      engine_.Attend(item.seq, row_begin, rows, key, keys,
                     b.tile.k + tile * engine_.k_panel_bytes(),
                     b.tile.v + tile * engine_.v_panel_bytes(), b.tile);
    }
    if (last) {
      engine_.Finish(rows, b.tile, to);
      return;
    }
    std::copy_n(b.tile.max, rows, b.max + row_begin);
    std::copy_n(b.tile.sum, rows, b.sum + row_begin);
    for (int32_t i = 0; i < rows; ++i) {
      std::copy_n(b.tile.o + i * engine_.o_stride(), problem_.d_v, to[i].out);
    }
  }

  const TileKernels& kernels_;
  const AttentionProblem& problem_;
  const LatentProjection& projection_;
  const int32_t d_nope_;
  const int64_t weight_stride_;  // elements
  const TileEngine engine_;
};

}  // namespace

void AttendExpanded(const TileKernels& kernels, const AttentionProblem& problem,
                    const LatentProjection& projection, const Context& context) {
  if (problem.heads == 0) return;
  ScopedWorkspace workspace(context.workspace);
  const PagedBatch& batch = problem.batch;
  const PlanShape shape{problem.heads, problem.heads, 0, kExpandedItems};
  auto* seqs = workspace->Allocate<SequencePlan>(batch.num_seqs);
  const AttentionPlan plan =
      PlanAttention(shape, batch, {seqs, static_cast<size_t>(batch.num_seqs)});
  const Outputs outputs(problem, plan, workspace);
  int64_t max_q_len = 0;
  for (int32_t s = 0; s < batch.num_seqs; ++s) {
    max_q_len = std::max<int64_t>(max_q_len, GetSequence(batch, s).q_len);
  }
  const ExpandedTask task(kernels, problem, projection);
  const int num_threads = NumThreads(context.threads);
  auto* buffers = workspace->Allocate<ExpandedBuffers>(num_threads);
  for (int t = 0; t < num_threads; ++t) buffers[t] = task.Allocate(workspace, max_q_len);

  RunItems(plan, outputs, context.threads, [&](int64_t index, int thread) {
    task.Run(GetWorkItem(shape, batch, plan, index), outputs, buffers[thread]);
  });
}

}  // namespace mla::cpu
