#include "kernels/cpu/sparse.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/attention_engine.h"
#include "kernels/cpu/attention_latents.h"
#include "kernels/cpu/isa.h"

namespace mla::cpu {
namespace {

CacheRows MakeRows(const ConstTensor& cache) {
  const auto size = static_cast<int64_t>(SizeOf(cache.dtype()));
  return CacheRows{cache.as<char>(), cache.stride(0) * size, cache.stride(1) * size, 0,
                   cache.dtype()};
}

bool IsFloat(const ConstTensor& t) {
  return t.dtype() == DType::kF32 || t.dtype() == DType::kF16 || t.dtype() == DType::kBF16;
}

// ---- mla_sparse

// Each query token becomes a sequence of its own, whose pages are the tokens it has chosen: what
// remains is dense attention with one token per page.
struct ChosenTokens {
  std::vector<int32_t> cu_q, kv_lens;
  std::vector<int32_t> slots;  // [tokens, top_k]: page * page_size + offset

  explicit ChosenTokens(const MlaSparseArgs& args) {
    const PagedBatch& batch = args.batch;
    if (batch.num_seqs == 0) return;
    const int64_t top_k = args.indices.dim(1);
    const int64_t tokens = batch.cu_q[batch.num_seqs] - batch.cu_q[0];
    kv_lens.reserve(tokens);
    slots.reserve(tokens * top_k);
    cu_q.push_back(batch.cu_q[0]);
    for (int32_t s = 0; s < batch.num_seqs; ++s) {
      const SequenceSpan seq = GetSequence(batch, s);
      for (int64_t token = seq.q_begin; token < seq.q_begin + seq.q_len; ++token) {
        const int32_t* row = args.indices.as<int32_t>() + token * args.indices.stride(0);
        const size_t first = slots.size();
        for (int64_t k = 0; k < top_k; ++k) {
          if (row[k] < 0) continue;
          slots.push_back(seq.pages[row[k] / batch.page_size] * batch.page_size +
                          row[k] % batch.page_size);
        }
        kv_lens.push_back(static_cast<int32_t>(slots.size() - first));
        cu_q.push_back(static_cast<int32_t>(token + 1));
        slots.resize(first + top_k, -1);
      }
    }
  }
};

// attend(problem, rows): the dense attention that is left.
template <typename Attend>
Status RunMlaSparse(const MlaSparseArgs& args, const Attend& attend) {
  const ChosenTokens chosen(args);
  AttentionProblem problem;
  problem.q = args.q;
  problem.out = args.out;
  problem.lse = args.lse;
  problem.batch.num_seqs = static_cast<int32_t>(chosen.kv_lens.size());
  problem.batch.cu_q = chosen.cu_q.data();
  problem.batch.kv_lens = chosen.kv_lens.data();
  problem.batch.page_table = chosen.slots.data();
  problem.batch.page_table_stride = args.indices.dim(1);
  problem.batch.page_size = 1;
  problem.heads = static_cast<int32_t>(args.q.dim(1));
  problem.kv_heads = 1;
  problem.d_k = static_cast<int32_t>(args.q.dim(2));
  problem.d_v = args.kv_lora_rank;
  problem.scale = args.scale;
  problem.causal = false;
  CacheRows rows = MakeLatentRows(args.cache, problem.d_v, problem.d_k - problem.d_v);
  rows.page_stride = rows.token_stride;
  attend(problem, rows);
  return {};
}

// ---- mla_index_topk

// Query tokens that share a packed tile of keys.
constexpr int64_t kTokenBlock = 8;
// Keys of one task.
constexpr int64_t kKeyChunk = 1024;
// Scores held at a time: bounds memory, whatever the batch.
constexpr int64_t kMaxScores = int64_t{8} << 20;

// A task's place: query tokens [token, token + count) of one sequence. `scores` is the first's row.
struct TokenBlock {
  SequenceSpan seq;
  int32_t seq_index;
  int32_t first;  // within the sequence
  int32_t count;
  int64_t scores;  // offset of the first token's row of kv_len scores
};

struct IndexBuffers {
  char* keys;      // panels
  float* scratch;  // for transposing
  float* dots;     // [heads, kKeyTile]
  const void** rows;
};

class IndexScorer {
 public:
  IndexScorer(const TileKernels& kernels, const MlaIndexTopkArgs& args)
      : kernels_(kernels),
        args_(args),
        heads_(args.q.dim(1)),
        dim_(static_cast<int32_t>(args.q.dim(2))),
        rows_(MakeRows(args.cache)) {}

  IndexBuffers Allocate(ScopedWorkspace& workspace) const {
    return {workspace->Allocate<char>(kKeyTile * int64_t{dim_} * kernels_.element_bytes),
            workspace->Allocate<float>(TransposeScratchFloats(dim_)),
            workspace->Allocate<float>(heads_ * kKeyTile),
            workspace->Allocate<const void*>(kKeyTile)};
  }

  // The scores of a block's tokens for keys [begin, end).
  void Score(const TokenBlock& block, int64_t begin, int64_t end, const IndexBuffers& b,
             float* scores) const {
    end =
        std::min<int64_t>(end, VisibleKeys(block.seq, block.first + block.count - 1, args_.causal));
    const Panels panels{b.keys, dim_, 0};
    for (int64_t key = begin; key < end; key += kKeyTile) {
      const auto keys = static_cast<int32_t>(std::min<int64_t>(kKeyTile, end - key));
      GatherRows(rows_, args_.batch, block.seq_index, 0, key, key + keys, b.rows);
      kernels_.pack_transposed({b.rows, keys, dim_, rows_.dtype}, panels, b.scratch);
      for (int32_t i = 0; i < block.count; ++i) {
        const int64_t token = block.seq.q_begin + block.first + i;
        kernels_.multiply(Product{args_.q.as<float>() + token * args_.q.stride(0),
                                  args_.q.stride(1), panels, b.dots, kKeyTile,
                                  static_cast<int32_t>(heads_), keys, dim_, nullptr});
        WeighHeads(args_.weights.as<float>() + token * args_.weights.stride(0), b.dots, keys,
                   scores + block.scores + i * int64_t{block.seq.kv_len} + key);
      }
    }
  }

 private:
  void WeighHeads(const float* weights, const float* dots, int32_t keys, float* scores) const {
    float sums[kKeyTile] = {};
    for (int64_t h = 0; h < heads_; ++h) {
      const float* dot = dots + h * kKeyTile;
      for (int32_t j = 0; j < kKeyTile; ++j) sums[j] += weights[h] * std::max(dot[j], 0.0f);
    }
    std::copy_n(sums, keys, scores);
  }

  const TileKernels& kernels_;
  const MlaIndexTopkArgs& args_;
  int64_t heads_;
  int32_t dim_;
  CacheRows rows_;
};

// Writes the positions of the top_k of `count` scores, ascending, then -1. `order` holds count.
void SelectTopk(float* scores, int32_t count, int32_t top_k, int32_t* order, int32_t* indices) {
  const int32_t kept = std::min(count, top_k);
  if (count > top_k) {
    for (int32_t j = 0; j < count; ++j) {
      order[j] = j;
      if (std::isnan(scores[j])) scores[j] = kMinusInf;
    }
    std::nth_element(order, order + kept, order + count, [&](int32_t a, int32_t b) {
      return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
    });
    std::copy_n(order, kept, indices);
    std::sort(indices, indices + kept);
  } else {
    for (int32_t j = 0; j < kept; ++j) indices[j] = j;
  }
  std::fill(indices + kept, indices + top_k, -1);
}

// The blocks of a call, in groups whose scores fit kMaxScores.
std::vector<std::vector<TokenBlock>> MakeGroups(const PagedBatch& batch) {
  std::vector<std::vector<TokenBlock>> groups(1);
  int64_t scores = 0;
  for (int32_t s = 0; s < batch.num_seqs; ++s) {
    const SequenceSpan seq = GetSequence(batch, s);
    for (int32_t first = 0; first < seq.q_len; first += kTokenBlock) {
      const auto count = static_cast<int32_t>(std::min<int64_t>(kTokenBlock, seq.q_len - first));
      const int64_t size = int64_t{count} * seq.kv_len;
      if (scores + size > kMaxScores && !groups.back().empty()) {
        groups.emplace_back();
        scores = 0;
      }
      groups.back().push_back({seq, s, first, count, scores});
      scores += size;
    }
  }
  return groups;
}

void RunGroup(const IndexScorer& scorer, const MlaIndexTopkArgs& args,
              const std::vector<TokenBlock>& group, const Context& context) {
  if (group.empty()) return;
  ScopedWorkspace workspace(context.workspace);
  const TokenBlock& last = group.back();
  float* scores = workspace->Allocate<float>(last.scores + int64_t{last.count} * last.seq.kv_len);
  int64_t longest = 0;
  for (const TokenBlock& block : group) longest = std::max<int64_t>(longest, block.seq.kv_len);
  const int threads = NumThreads(context.threads);
  std::vector<IndexBuffers> buffers;
  std::vector<int32_t*> orders;
  for (int t = 0; t < threads; ++t) {
    buffers.push_back(scorer.Allocate(workspace));
    orders.push_back(workspace->Allocate<int32_t>(longest));
  }
  const int64_t chunks = CeilDiv(longest, kKeyChunk);
  ParallelFor(context.threads, std::ssize(group) * chunks, [&](int64_t task, int thread) {
    const int64_t begin = task % chunks * kKeyChunk;
    scorer.Score(group[task / chunks], begin, begin + kKeyChunk, buffers[thread], scores);
  });
  ParallelFor(context.threads, std::ssize(group), [&](int64_t task, int thread) {
    const TokenBlock& block = group[task];
    for (int32_t i = 0; i < block.count; ++i) {
      const int64_t token = block.seq.q_begin + block.first + i;
      SelectTopk(scores + block.scores + i * int64_t{block.seq.kv_len},
                 VisibleKeys(block.seq, block.first + i, args.causal), args.top_k, orders[thread],
                 args.indices.as<int32_t>() + token * args.indices.stride(0));
    }
  });
}

}  // namespace

std::string_view SimdRefusesMlaIndexTopk(const MlaIndexTopkArgs& args, const Context&) {
  if (args.q.device().type != DeviceType::kCpu) return "tensors must be in CPU memory";
  if (!IsFloat(args.cache)) return "cache must be f32, f16 or bf16";
  if (args.q.dim(1) < 1 || args.q.dim(2) < 1) return "there must be heads and dims";
  return {};
}

Status RunSimdMlaIndexTopk(const MlaIndexTopkArgs& args, const Context& context) {
  // Never rounded: a rounded score could choose another token.
  const TileKernels kernels = SimdTileKernels(false);
  const IndexScorer scorer(kernels, args);
  for (const auto& group : MakeGroups(args.batch)) RunGroup(scorer, args, group, context);
  return {};
}

std::string_view SimdRefusesMlaSparse(const MlaSparseArgs& args, const Context&) {
  if (args.q.device().type != DeviceType::kCpu) return "tensors must be in CPU memory";
  if (args.q.dtype() != DType::kF32) return "q must be f32";
  if (args.out.dtype() != DType::kF32) return "out must be f32";
  if (!IsFloat(args.cache) && args.cache.dtype() != DType::kI8) {
    return "cache must be f32, f16, bf16 or i8";
  }
  if (args.cache.stride(0) != args.cache.dim(1) * args.cache.stride(1)) {
    return "pages must follow each other without gaps";
  }
  if (args.cache.dim(0) * args.cache.dim(1) > std::numeric_limits<int32_t>::max()) {
    return "the cache must hold fewer than 2^31 tokens";
  }
  return {};
}

Status RunSimdMlaSparse(const MlaSparseArgs& args, const Context& context) {
  const TileKernels kernels = SimdTileKernels(context.compute == ComputeMode::kBF16);
  return RunMlaSparse(args, [&](const AttentionProblem& problem, const CacheRows& rows) {
    AttendPaged(kernels, problem, rows, rows, context);
  });
}

std::string_view Avx512Bf16RefusesMlaSparse(const MlaSparseArgs& args, const Context& context) {
  if (!UsesAvx512Bf16()) return "needs AVX512_BF16";
  if (context.compute != ComputeMode::kBF16) return "compute must be bf16";
  if (const auto refusal = SimdRefusesMlaSparse(args, context); !refusal.empty()) return refusal;
  if (args.cache.dtype() != DType::kBF16 && args.cache.dtype() != DType::kI8) {
    return "cache must be bf16 or i8";
  }
  return {};
}

Status RunAvx512Bf16MlaSparse(const MlaSparseArgs& args, const Context& context) {
  return RunMlaSparse(args, [&](const AttentionProblem& problem, const CacheRows& rows) {
    AttendLatentsInBf16(problem, rows, context);
  });
}

std::string_view AmxRefusesMlaSparse(const MlaSparseArgs& args, const Context& context) {
  if (!UsesAmxBf16()) return kNeedsAmxBf16;
  if (context.compute != ComputeMode::kBF16) return "compute must be bf16";
  if (const auto refusal = SimdRefusesMlaSparse(args, context); !refusal.empty()) return refusal;
  if (args.cache.dtype() != DType::kBF16) return "cache must be bf16";
  return {};
}

Status RunAmxMlaSparse(const MlaSparseArgs& args, const Context& context) {
  return RunMlaSparse(args, [&](const AttentionProblem& problem, const CacheRows& rows) {
    AttendLatents(AmxLatentKernels(), problem, rows, context);
  });
}

std::string_view Avx512VnniRefusesMlaSparse(const MlaSparseArgs& args, const Context& context) {
  if (!UsesAvx512Vnni()) return "needs AVX512_VNNI and AVX512_BF16";
  if (context.compute != ComputeMode::kBF16) return "compute must be bf16";
  if (const auto refusal = SimdRefusesMlaSparse(args, context); !refusal.empty()) return refusal;
  if (args.cache.dtype() != DType::kI8) return "cache must be i8";
  return {};
}

Status RunAvx512VnniMlaSparse(const MlaSparseArgs& args, const Context& context) {
  return RunMlaSparse(args, [&](const AttentionProblem& problem, const CacheRows& rows) {
    AttendLatents(Int8LatentKernels(), problem, rows, context);
  });
}

}  // namespace mla::cpu
