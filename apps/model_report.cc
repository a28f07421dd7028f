#include "apps/model_report.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <variant>

namespace mla {
namespace {

// Hands every weight of the model to `visit` with its kind; `share` is the part of it that one
// token uses.
using Visit = std::function<void(const char* kind, const ConstTensor& weight, double share)>;

void VisitLinear(const char* kind, const LinearWeight& linear, const Visit& visit) {
  visit(kind, linear.w, 1);
  visit(kind, linear.bias, 1);
}

void VisitMla(const MlaWeights& w, const Visit& visit) {
  VisitLinear("attention q", w.q, visit);
  VisitLinear("attention q_a", w.q_a, visit);
  VisitLinear("attention q_b", w.q_b, visit);
  VisitLinear("attention kv_a", w.kv_a, visit);
  visit("attention kv_b", w.w_uk, 1);
  visit("attention kv_b", w.w_uv, 1);
  VisitLinear("attention o", w.o, visit);
  visit("norms", w.q_a_norm, 1);
  visit("norms", w.kv_a_norm, 1);
}

void VisitGqa(const GqaWeights& w, const Visit& visit) {
  VisitLinear("attention q", w.q, visit);
  VisitLinear("attention k", w.k, visit);
  VisitLinear("attention v", w.v, visit);
  VisitLinear("attention o", w.o, visit);
}

void VisitDense(const char* kind, const DenseMlpWeights& w, const Visit& visit) {
  for (const LinearWeight* linear : {&w.gate, &w.up, &w.down}) VisitLinear(kind, *linear, visit);
}

void VisitMoe(const MoeSpec& spec, const MoeWeights& w, const Visit& visit) {
  visit("router", w.router, 1);
  visit("router", w.correction_bias, 1);
  const double share = static_cast<double>(spec.top_k) / spec.num_experts;
  for (const auto* experts : {&w.gate, &w.up, &w.down}) {
    for (const ConstTensor& expert : *experts) visit("routed experts", expert, share);
  }
  if (w.shared) VisitDense("shared experts", *w.shared, visit);
}

void VisitWeights(const Model& model, const Visit& visit_any) {
  const Visit visit = [&](const char* kind, const ConstTensor& weight, double share) {
    if (weight.present()) visit_any(kind, weight, share);
  };
  const ModelWeights& weights = model.weights();
  visit("embedding", weights.embedding, 1);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& layer = weights.layers[i];
    if (const auto* mla = std::get_if<MlaWeights>(&layer.attention)) VisitMla(*mla, visit);
    if (const auto* gqa = std::get_if<GqaWeights>(&layer.attention)) VisitGqa(*gqa, visit);
    if (const auto* dense = std::get_if<DenseMlpWeights>(&layer.mlp)) {
      VisitDense("dense MLP", *dense, visit);
    } else {
      VisitMoe(std::get<MoeSpec>(model.spec().layers[i].mlp), std::get<MoeWeights>(layer.mlp),
               visit);
    }
    visit("norms", layer.attention_norm, 1);
    visit("norms", layer.mlp_norm, 1);
  }
  visit("norms", weights.final_norm, 1);
  if (weights.lm_head.data() != weights.embedding.data()) visit("head", weights.lm_head, 1);
}

std::string Describe(const AttentionSpec& attention) {
  if (const auto* mla = std::get_if<MlaSpec>(&attention)) {
    const MlaShape& s = mla->shape;
    return Concat("MLA, ", s.heads, " heads, q_lora_rank ",
                  mla->q_lora_rank > 0 ? std::to_string(mla->q_lora_rank) : "none",
                  ", kv_lora_rank ", s.kv_lora_rank, ", qk_nope_head_dim ", s.qk_nope_head_dim,
                  ", qk_rope_head_dim ", s.qk_rope_head_dim, ", v_head_dim ", s.v_head_dim);
  }
  const auto& gqa = std::get<GqaSpec>(attention);
  const char* kind = gqa.kv_heads == gqa.heads ? "MHA" : gqa.kv_heads == 1 ? "MQA" : "GQA";
  return Concat(kind, ", ", gqa.heads, " heads, ", gqa.kv_heads, " KV heads, head_dim ",
                gqa.head_dim);
}

std::string Describe(const MlpSpec& mlp) {
  if (const auto* dense = std::get_if<DenseMlpSpec>(&mlp)) {
    return Concat("dense, intermediate ", dense->intermediate);
  }
  const auto& moe = std::get<MoeSpec>(mlp);
  std::string text =
      Concat("MoE, ", moe.num_experts, " experts of ", moe.intermediate, ", ", moe.top_k,
             " per token, ", moe.scoring == RouterScoring::kSigmoid ? "sigmoid" : "softmax");
  if (moe.num_groups > 1) {
    text += Concat(", ", moe.topk_groups, " of ", moe.num_groups, " groups");
  }
  if (moe.shared_intermediate > 0) text += Concat(", shared ", moe.shared_intermediate);
  return text;
}

}  // namespace

std::vector<ParameterKind> CountParameters(const Model& model) {
  std::vector<ParameterKind> kinds;
  std::vector<double> active;
  VisitWeights(model, [&](const char* name, const ConstTensor& weight, double share) {
    auto kind = std::find_if(kinds.begin(), kinds.end(),
                             [&](const ParameterKind& k) { return k.name == name; });
    if (kind == kinds.end()) {
      kind = kinds.insert(kinds.end(), {name});
      active.push_back(0);
    }
    kind->total += weight.num_elements();
    active[kind - kinds.begin()] += share * static_cast<double>(weight.num_elements());
  });
  for (size_t i = 0; i < kinds.size(); ++i) kinds[i].active = std::llround(active[i]);
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

std::map<std::string, StoredKind> CountStored(const Model& model) {
  std::map<std::string, StoredKind> kinds;
  for (const StoredTensor* tensor : model.checkpoint().tensors()) {
    StoredKind& kind = kinds[std::string(StoredDTypeName(tensor->dtype))];
    ++kind.tensors;
    kind.numbers += std::ssize(tensor->data) / static_cast<int64_t>(SizeOf(tensor->dtype));
    kind.bytes += std::ssize(tensor->data);
  }
  return kinds;
}

std::vector<const StoredTensor*> UnusedTensors(const Model& model) {
  std::vector<const std::byte*> used;  // where the weights' views begin
  VisitWeights(model, [&](const char*, const ConstTensor& weight, double) {
    used.push_back(static_cast<const std::byte*>(weight.data()));
  });
  std::sort(used.begin(), used.end(), std::less<>());
  std::vector<const StoredTensor*> unused;
  for (const StoredTensor* tensor : model.checkpoint().tensors()) {
    const std::byte* begin = tensor->data.data();
    const auto first = std::lower_bound(used.begin(), used.end(), begin, std::less<>());
    if (first == used.end() || !std::less<>()(*first, begin + tensor->data.size())) {
      unused.push_back(tensor);
    }
  }
  return unused;
}

std::vector<LayerRange> DescribeLayers(const ModelSpec& spec) {
  std::vector<LayerRange> ranges;
  size_t first = 0;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    LayerRange range{std::to_string(i), Describe(spec.layers[i].attention),
                     Describe(spec.layers[i].mlp)};
    if (ranges.empty() || ranges.back().attention != range.attention ||
        ranges.back().mlp != range.mlp) {
      first = i;
      ranges.push_back(std::move(range));
    } else {
      ranges.back().layers = Concat(first, "-", i);
    }
  }
  return ranges;
}

}  // namespace mla
