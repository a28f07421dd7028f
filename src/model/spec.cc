#include "model/spec.h"

#include <algorithm>

namespace mla {
namespace {

// Heads, and the numbers that one head's key and value take per token.
struct HeadCost {
  int64_t heads, numbers;
};
HeadCost CostOf(const AttentionSpec& attention) {
  if (const auto* mla = std::get_if<MlaSpec>(&attention)) {
    const MlaShape& shape = mla->shape;
    return {shape.heads, shape.qk_nope_head_dim + shape.qk_rope_head_dim + shape.v_head_dim};
  }
  const auto& gqa = std::get<GqaSpec>(attention);
  return {gqa.heads, 2 * gqa.head_dim};
}

}  // namespace

std::vector<LayerCacheSpec> CacheSpecs(const ModelSpec& spec, bool full_heads) {
  std::vector<LayerCacheSpec> layers;
  for (const LayerSpec& layer : spec.layers) {
    if (const auto* mla = std::get_if<MlaSpec>(&layer.attention)) {
      const MlaShape& s = mla->shape;
      if (full_heads) {
        layers.push_back({{"k", int64_t{s.heads} * (s.qk_nope_head_dim + s.qk_rope_head_dim)},
                          {"v", int64_t{s.heads} * s.v_head_dim}});
      } else {
        layers.push_back({{"latent", s.kv_lora_rank + s.qk_rope_head_dim, s.kv_lora_rank}});
      }
      if (mla->indexer && !mla->indexer->reuse) {
        layers.back().push_back({"index_k", mla->indexer->head_dim});
      }
    } else {
      const auto& gqa = std::get<GqaSpec>(layer.attention);
      const int64_t row = int64_t{gqa.kv_heads} * gqa.head_dim;
      layers.push_back({{"k", row}, {"v", row}});
    }
  }
  return layers;
}

CacheComparison CompareCaches(const ModelSpec& spec) {
  CacheComparison total;
  for (const LayerCacheSpec& layer : CacheSpecs(spec)) {
    for (const CacheComponent& component : layer) total.model += component.row;
  }
  for (const LayerSpec& layer : spec.layers) {
    const HeadCost cost = CostOf(layer.attention);
    total.mha += cost.heads * cost.numbers;
    total.gqa8 += std::min<int64_t>(cost.heads, 8) * cost.numbers;
    total.mqa += cost.numbers;
  }
  return total;
}

}  // namespace mla
