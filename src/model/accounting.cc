#include "model/accounting.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <variant>

#include "base/numeric.h"
#include "mla/int8_latent.h"

namespace mla {
namespace {

using Wide = __int128;  // products of dimensions pass 64 bits before the sum is checked

Result<int64_t> Narrow(Wide value, std::string_view what) {
  if (value > std::numeric_limits<int64_t>::max()) {
    return InvalidArgument(what, " come to more than 2^63 - 1: the dimensions are too large");
  }
  return static_cast<int64_t>(value);
}

// Collects weights of the same kind and shape into groups.
class Lister {
 public:
  void Matrix(const char* kind, int64_t rows, int64_t cols, int64_t copies = 1, int32_t choices = 1,
              int32_t chosen = 1) {
    if (rows == 0 || cols == 0) return;
    for (WeightGroup& group : groups_) {
      if (group.kind == kind && group.rows == rows && group.cols == cols &&
          group.choices == choices && group.chosen == chosen) {
        group.copies += copies;
        return;
      }
    }
    groups_.push_back({kind, rows, cols, copies, choices, chosen});
  }
  void Tensor(const char* kind, const ConstTensor& w) {
    if (!w.present()) return;
    const int64_t cols = w.dim(w.rank() - 1);
    Matrix(kind, w.num_elements() / cols, cols);
  }
  void Linear(const char* kind, const LinearWeight& linear) {
    Tensor(kind, linear.w);
    Tensor(kind, linear.bias);
  }

  std::vector<WeightGroup> Take() { return std::move(groups_); }

 private:
  std::vector<WeightGroup> groups_;
};

void ListAttention(const MlaWeights& w, Lister& lister) {
  lister.Linear("attention q", w.q);
  lister.Linear("attention q_a", w.q_a);
  lister.Linear("attention q_b", w.q_b);
  lister.Linear("attention kv_a", w.kv_a);
  lister.Matrix("attention kv_b", w.w_uk.dim(0) * (w.w_uk.dim(1) + w.w_uv.dim(1)), w.w_uk.dim(2));
  lister.Linear("attention o", w.o);
  lister.Tensor("norms", w.q_a_norm);
  lister.Tensor("norms", w.kv_a_norm);
  if (!w.indexer) return;
  for (const LinearWeight* linear : {&w.indexer->q, &w.indexer->k, &w.indexer->head_weights}) {
    lister.Linear("indexer", *linear);
  }
  lister.Tensor("norms", w.indexer->k_norm);
  lister.Tensor("norms", w.indexer->k_norm_bias);
}

void ListAttention(const GqaWeights& w, Lister& lister) {
  lister.Linear("attention q", w.q);
  lister.Linear("attention k", w.k);
  lister.Linear("attention v", w.v);
  lister.Linear("attention o", w.o);
  lister.Tensor("norms", w.q_norm);
  lister.Tensor("norms", w.k_norm);
}

void ListDense(const char* kind, const DenseMlpWeights& w, Lister& lister) {
  for (const LinearWeight* linear : {&w.gate, &w.up, &w.down}) lister.Linear(kind, *linear);
}

void ListMoe(const MoeSpec& spec, const MoeWeights& w, Lister& lister) {
  lister.Tensor("router", w.router);
  lister.Tensor("router", w.correction_bias);
  for (const auto* experts : {&w.gate, &w.up, &w.down}) {
    // Experts are alike; there may be one alone (WeightShapes).
    const int64_t copies = spec.num_experts / std::ssize(*experts);
    for (const ConstTensor& expert : *experts) {
      lister.Matrix("routed experts", expert.dim(0), expert.dim(1), copies,
                    spec.num_experts + spec.identity_experts, spec.top_k);
    }
  }
  if (w.shared) ListDense("shared experts", *w.shared, lister);
}

void ListLayer(const LayerSpec& spec, const LayerWeights& w, Lister& lister) {
  std::visit([&](const auto& attention) { ListAttention(attention, lister); }, w.attention);
  if (const auto* dense = std::get_if<DenseMlpWeights>(&w.mlp)) {
    ListDense("dense MLP", *dense, lister);
  } else {
    ListMoe(std::get<MoeSpec>(spec.mlp), std::get<MoeWeights>(w.mlp), lister);
  }
  if (w.branch) ListMoe(spec.branch->moe, *w.branch, lister);
  lister.Tensor("norms", w.attention_norm);
  lister.Tensor("norms", w.mlp_norm);
}

Wide Numbers(const WeightGroup& group) { return Wide{group.rows} * group.cols * group.copies; }

bool IsLinear(const WeightGroup& group) {
  return group.rows > 1 && group.kind != "embedding" && group.kind != "head" &&
         group.kind != "router";
}

// Vectors that a token's cache row of one layer is made of.
struct CacheVectors {
  enum Kind { kHeads, kLatent, kRope, kIndex } kind;
  int64_t count, dim;
};

int64_t VectorBytes(const CacheVectors& v, CacheFormat format) {
  switch (format) {
    case CacheFormat::kF16: return 2 * v.count * v.dim;
    case CacheFormat::kInt8:
      if (v.kind == CacheVectors::kHeads) return v.count * (v.dim + 4);
      if (v.kind == CacheVectors::kIndex) return 2 * v.count * v.dim;
      return v.kind == CacheVectors::kLatent
                 ? Int8LatentLayout{static_cast<int32_t>(v.dim), 0}.bytes()
                 : Int8LatentLayout{0, static_cast<int32_t>(v.dim)}.bytes();
    case CacheFormat::kFp8: break;
  }
  if (v.kind == CacheVectors::kRope) return 2 * v.count * v.dim;
  if (v.kind != CacheVectors::kHeads) return v.count * (v.dim + 4 * CeilDiv(v.dim, 128));
  return v.count * v.dim;
}

// What the model's own attention caches, by the components of its cache.
std::vector<CacheVectors> OwnVectors(const AttentionSpec& attention, const LayerCacheSpec& cache) {
  std::vector<CacheVectors> vectors;
  for (const CacheComponent& component : cache) {
    if (component.name == "latent") {
      const MlaShape& s = std::get<MlaSpec>(attention).shape;
      vectors.push_back({CacheVectors::kLatent, 1, component.row - s.qk_rope_head_dim});
      vectors.push_back({CacheVectors::kRope, 1, s.qk_rope_head_dim});
    } else if (const auto* gqa = std::get_if<GqaSpec>(&attention)) {
      vectors.push_back({CacheVectors::kHeads, gqa->kv_heads, component.row / gqa->kv_heads});
    } else {
      vectors.push_back({CacheVectors::kIndex, 1, component.row});
    }
  }
  return vectors;
}

// Expanded keys and values of `kv_heads` of the layer's heads, or of all if it has fewer.
std::vector<CacheVectors> HeadVectors(const AttentionSpec& attention, int64_t kv_heads) {
  if (const auto* mla = std::get_if<MlaSpec>(&attention)) {
    const MlaShape& s = mla->shape;
    const int64_t heads = std::min<int64_t>(s.heads, kv_heads);
    return {{CacheVectors::kHeads, heads, s.qk_nope_head_dim + s.qk_rope_head_dim},
            {CacheVectors::kHeads, heads, s.v_head_dim}};
  }
  const auto& gqa = std::get<GqaSpec>(attention);
  const int64_t heads = std::min<int64_t>(gqa.heads, kv_heads);
  return {{CacheVectors::kHeads, heads, gqa.head_dim}, {CacheVectors::kHeads, heads, gqa.head_dim}};
}

// Sum over q causal queries, the last of which sees kv keys, of the keys seen, at most `limit`
// each.
double SeenKeys(int64_t q, int64_t kv, int64_t limit) {
  const auto sum_to = [](double n) { return n * (n + 1) / 2; };
  const auto before = static_cast<double>(kv - q);
  const auto all = static_cast<double>(kv);
  const double most = std::clamp(static_cast<double>(limit), before, all);
  return sum_to(most) - sum_to(before) + (all - most) * static_cast<double>(std::min(limit, kv));
}

// What sparse attention changes: the scores of the indexer, and the pairs that it leaves out.
double SparseFlops(const MlaSpec& mla, AttentionForm form, int64_t q, int64_t kv) {
  const IndexerSpec& indexer = *mla.indexer;
  const double pairs = SeenKeys(q, kv, kv);
  const double scores = indexer.reuse ? 0 : 2.0 * indexer.heads * indexer.head_dim * pairs;
  MlaShape no_latent = mla.shape;
  no_latent.kv_lora_rank = 0;
  const double each = form == AttentionForm::kAbsorbed
                          ? MlaFlops(MlaForm::kAbsorbed, mla.shape, 1, 2) -
                                MlaFlops(MlaForm::kAbsorbed, mla.shape, 1, 1)
                          : MlaFlops(MlaForm::kExpanded, no_latent, 1, 1);
  return scores - each * (pairs - SeenKeys(q, kv, indexer.top_k));
}

double AttentionFlops(const AttentionSpec& attention, AttentionForm form, int64_t q, int64_t kv) {
  const auto* mla = std::get_if<MlaSpec>(&attention);
  if (mla == nullptr) {
    // MHA's products alone: the expanded form of a latent without width.
    const auto& gqa = std::get<GqaSpec>(attention);
    return MlaFlops(MlaForm::kExpanded, {gqa.heads, 0, gqa.head_dim, 0, gqa.head_dim}, q, kv);
  }
  const auto sparse = [&](AttentionForm f) {
    return mla->indexer ? SparseFlops(*mla, f, q, kv) : 0;
  };
  const double expanded =
      MlaFlops(MlaForm::kExpanded, mla->shape, q, kv) + sparse(AttentionForm::kExpanded);
  const double absorbed =
      MlaFlops(MlaForm::kAbsorbed, mla->shape, q, kv) + sparse(AttentionForm::kAbsorbed);
  switch (form) {
    case AttentionForm::kAbsorbed: return absorbed;
    case AttentionForm::kExpanded: return expanded;
    case AttentionForm::kAuto: return std::min(absorbed, expanded);
    case AttentionForm::kMha: break;
  }
  // Full attention; only the new tokens are expanded, the others' keys and values are cached.
  MlaShape no_heads = mla->shape;
  no_heads.kv_lora_rank = 0;
  const double products = MlaFlops(MlaForm::kExpanded, no_heads, q, kv);
  const double expansion = MlaFlops(MlaForm::kExpanded, mla->shape, q, kv) - products;
  return products + expansion * static_cast<double>(q) / static_cast<double>(kv);
}

}  // namespace

double WeightGroup::UsedCopies(double tokens) const {
  const double share = static_cast<double>(chosen) / choices;
  return static_cast<double>(copies) * (1 - std::pow(1 - share, tokens));
}

Result<std::vector<WeightGroup>> ListWeights(const ModelSpec& spec, const ModelWeights& weights) {
  Lister lister;
  lister.Tensor("embedding", weights.embedding);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    ListLayer(spec.layers[i], weights.layers[i], lister);
  }
  lister.Tensor("norms", weights.final_norm);
  if (!spec.tie_embeddings) lister.Tensor("head", weights.lm_head);
  std::vector<WeightGroup> groups = lister.Take();
  Wide total = 0;
  for (const WeightGroup& group : groups) total += Numbers(group);
  // With room for the bytes of the widest format.
  MLA_RETURN_IF_ERROR(Narrow(8 * total, "the parameters"));
  return groups;
}

std::vector<ParameterKind> CountParameters(const std::vector<WeightGroup>& groups) {
  std::vector<ParameterKind> kinds;
  for (const WeightGroup& group : groups) {
    auto kind = std::find_if(kinds.begin(), kinds.end(),
                             [&](const ParameterKind& k) { return k.name == group.kind; });
    if (kind == kinds.end()) kind = kinds.insert(kinds.end(), {group.kind});
    const auto numbers = static_cast<int64_t>(Numbers(group));
    kind->total += numbers;
    kind->active += group.choices == group.chosen
                        ? numbers
                        : std::llround(static_cast<double>(numbers) * group.chosen / group.choices);
  }
  return kinds;
}

ParameterKind SumParameters(const std::vector<ParameterKind>& kinds) {
  ParameterKind sum{"all"};
  for (const ParameterKind& kind : kinds) {
    sum.total += kind.total;
    sum.active += kind.active;
  }
  return sum;
}

Result<int64_t> ExtraPredictionParameters(const ModelSpec& spec) {
  Lister lister;
  ListLayer(spec.layers.back(), WeightShapes(spec).layers.back(), lister);
  lister.Matrix("extra projection", spec.hidden_size, int64_t{2} * spec.hidden_size);
  lister.Matrix("norms", 1, spec.hidden_size, 3);
  Wide total = 0;
  for (const WeightGroup& group : lister.Take()) total += Numbers(group);
  return Narrow(total, "the parameters of an extra prediction layer");
}

std::string_view WeightFormatName(WeightFormat format) {
  constexpr std::string_view kNames[] = {"bf16", "fp8", "q8", "q4"};
  return kNames[static_cast<size_t>(format)];
}

std::string_view CacheFormatName(CacheFormat format) {
  constexpr std::string_view kNames[] = {"f16", "fp8", "int8"};
  return kNames[static_cast<size_t>(format)];
}

std::string_view CacheLayoutName(CacheLayout layout) {
  constexpr std::string_view kNames[] = {"model", "mha", "gqa8", "mqa"};
  return kNames[static_cast<size_t>(layout)];
}

int64_t CopyBytes(const WeightGroup& group, WeightFormat format) {
  const int64_t numbers = group.rows * group.cols;
  switch (format) {
    case WeightFormat::kBf16: return 2 * numbers;
    case WeightFormat::kFp8:
      return IsLinear(group) ? numbers + 4 * CeilDiv(group.rows, 128) * CeilDiv(group.cols, 128)
                             : 2 * numbers;
    case WeightFormat::kQ8:
    case WeightFormat::kQ4: break;
  }
  if (group.rows == 1 || group.kind == "router") return 4 * numbers;
  return group.rows * CeilDiv(group.cols, 32) * (format == WeightFormat::kQ8 ? 34 : 18);
}

Result<int64_t> WeightBytes(const std::vector<WeightGroup>& groups, WeightFormat format) {
  Wide bytes = 0;
  for (const WeightGroup& group : groups) bytes += Wide{CopyBytes(group, format)} * group.copies;
  return Narrow(bytes, "the weights' bytes");
}

int64_t CacheBytesPerToken(const ModelSpec& spec, CacheLayout layout, CacheFormat format) {
  const std::vector<LayerCacheSpec> own = CacheSpecs(spec);
  int64_t bytes = 0;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const AttentionSpec& attention = spec.layers[i].attention;
    std::vector<CacheVectors> vectors;
    switch (layout) {
      case CacheLayout::kModel: vectors = OwnVectors(attention, own[i]); break;
      case CacheLayout::kMha: vectors = HeadVectors(attention, INT32_MAX); break;
      case CacheLayout::kGqa8: vectors = HeadVectors(attention, 8); break;
      case CacheLayout::kMqa: vectors = HeadVectors(attention, 1); break;
    }
    for (const CacheVectors& v : vectors) bytes += VectorBytes(v, format);
  }
  return bytes;
}

double CacheTraffic(const ModelSpec& spec, const StepShape& step, CacheLayout layout,
                    CacheFormat format) {
  const auto sequences = static_cast<double>(step.batch);
  const int64_t kv = step.cached + step.new_tokens;
  const auto row = static_cast<double>(CacheBytesPerToken(spec, layout, format));
  double bytes = sequences * row * static_cast<double>(kv + step.new_tokens);
  if (layout != CacheLayout::kModel) return bytes;
  const std::vector<LayerCacheSpec> own = CacheSpecs(spec);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const auto* mla = std::get_if<MlaSpec>(&spec.layers[i].attention);
    if (mla == nullptr || !mla->indexer) continue;
    // At most top_k latents for each query are read, and each of them once.
    const auto limit = CheckedMul(step.new_tokens, mla->indexer->top_k);
    const auto unread = static_cast<double>(kv - std::min(kv, limit.value_or(kv)));
    for (const CacheVectors& v : OwnVectors(spec.layers[i].attention, own[i])) {
      if (v.kind == CacheVectors::kIndex) continue;
      bytes -= sequences * unread * static_cast<double>(VectorBytes(v, format));
    }
  }
  return bytes;
}

StepCost CostOfStep(const ModelSpec& spec, const std::vector<WeightGroup>& groups,
                    const StepShape& step, AttentionForm form, WeightFormat weights,
                    CacheFormat cache) {
  const auto sequences = static_cast<double>(step.batch);
  const double tokens = sequences * static_cast<double>(step.new_tokens);
  StepCost cost;
  for (const WeightGroup& group : groups) {
    const auto bytes = static_cast<double>(CopyBytes(group, weights));
    // Of the embedding one row per token is read; as a tied head, all of it.
    const bool is_embedding = group.kind == "embedding";
    if (is_embedding) cost.weight_bytes += tokens * bytes / static_cast<double>(group.rows);
    if (is_embedding && !spec.tie_embeddings) continue;
    cost.weight_bytes += group.UsedCopies(tokens) * bytes;
    if (group.rows == 1 || group.kind == "attention kv_b") continue;  // kv_b: in AttentionFlops
    const bool is_head = is_embedding || group.kind == "head";
    cost.linear_flops += 2.0 * static_cast<double>(group.rows) * static_cast<double>(group.cols) *
                         group.UsedCopies(1) * (is_head ? sequences : tokens);
  }
  for (const LayerSpec& layer : spec.layers) {
    cost.attention_flops += sequences * AttentionFlops(layer.attention, form, step.new_tokens,
                                                       step.cached + step.new_tokens);
  }
  const CacheLayout layout = form == AttentionForm::kMha ? CacheLayout::kMha : CacheLayout::kModel;
  cost.cache_bytes = CacheTraffic(spec, step, layout, cache);
  return cost;
}

Result<int64_t> CheckedBytes(int64_t count, int64_t each, std::string_view what) {
  if (const auto bytes = CheckedMul(count, each)) return *bytes;
  return InvalidArgument(what, ": ", count, " times ", each, " is more than 2^63 - 1, want less");
}

}  // namespace mla
