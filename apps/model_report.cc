#include "apps/model_report.h"

#include <algorithm>
#include <functional>
#include <variant>

namespace mla {
namespace {

// Hands every weight of the model to `visit`.
using Visit = std::function<void(const ConstTensor& weight)>;

void VisitLinear(const LinearWeight& linear, const Visit& visit) {
  visit(linear.w);
  visit(linear.bias);
}

void VisitMla(const MlaWeights& w, const Visit& visit) {
  VisitLinear(w.q, visit);
  VisitLinear(w.q_a, visit);
  VisitLinear(w.q_b, visit);
  VisitLinear(w.kv_a, visit);
  visit(w.w_uk);
  visit(w.w_uv);
  VisitLinear(w.o, visit);
  visit(w.q_a_norm);
  visit(w.kv_a_norm);
}

void VisitGqa(const GqaWeights& w, const Visit& visit) {
  VisitLinear(w.q, visit);
  VisitLinear(w.k, visit);
  VisitLinear(w.v, visit);
  VisitLinear(w.o, visit);
}

void VisitDense(const DenseMlpWeights& w, const Visit& visit) {
  for (const LinearWeight* linear : {&w.gate, &w.up, &w.down}) VisitLinear(*linear, visit);
}

void VisitMoe(const MoeWeights& w, const Visit& visit) {
  visit(w.router);
  visit(w.correction_bias);
  for (const auto* experts : {&w.gate, &w.up, &w.down}) {
    for (const ConstTensor& expert : *experts) visit(expert);
  }
  if (w.shared) VisitDense(*w.shared, visit);
}

void VisitWeights(const Model& model, const Visit& visit_any) {
  const Visit visit = [&](const ConstTensor& weight) {
    if (weight.present()) visit_any(weight);
  };
  const ModelWeights& weights = model.weights();
  visit(weights.embedding);
  for (const LayerWeights& layer : weights.layers) {
    if (const auto* mla = std::get_if<MlaWeights>(&layer.attention)) VisitMla(*mla, visit);
    if (const auto* gqa = std::get_if<GqaWeights>(&layer.attention)) VisitGqa(*gqa, visit);
    if (const auto* dense = std::get_if<DenseMlpWeights>(&layer.mlp)) {
      VisitDense(*dense, visit);
    } else {
      VisitMoe(std::get<MoeWeights>(layer.mlp), visit);
    }
    visit(layer.attention_norm);
    visit(layer.mlp_norm);
  }
  visit(weights.final_norm);
  visit(weights.lm_head);
}

// A tensor as its file has it.
struct StoredPart {
  std::string_view name, type;
  int64_t numbers = 0, bytes = 0;
  bool quantised = false;
};

// Of a GGUF file the file's own tensors, stacked as they are and before any conversion.
void VisitStored(const Checkpoint& checkpoint,
                 const std::function<void(const StoredPart&)>& visit) {
  if (const GgufFile* gguf = checkpoint.gguf()) {
    for (const GgufTensor& tensor : gguf->tensors()) {
      int64_t numbers = 1;
      for (const int64_t dim : tensor.shape) numbers *= dim;
      visit({tensor.name, tensor.type->name, numbers, std::ssize(tensor.data),
             tensor.type->block_elements > 1});
    }
    return;
  }
  for (const StoredTensor* tensor : checkpoint.tensors()) {
    visit({tensor->name, StoredDTypeName(tensor->dtype), NumElements(*tensor),
           std::ssize(tensor->data), tensor->dtype == StoredDType::kF8E4M3});
  }
}

// "model.layers.3.mlp.experts.17.up_proj.weight" -> "mlp.experts.*.up_proj", and
// "blk.3.ffn_up_exps.weight" -> "ffn_up_exps".
std::string KindOf(std::string_view name) {
  std::string kind;
  while (!name.empty()) {
    const size_t dot = std::min(name.find('.'), name.size());
    std::string_view part = name.substr(0, dot);
    name.remove_prefix(std::min(dot + 1, name.size()));
    const bool number = part.find_first_not_of("0123456789") == std::string_view::npos;
    if (part == "model" || part == "weight") continue;
    if (number && (kind == "layers" || kind == "blk")) {
      kind.clear();
      continue;
    }
    if (part == "weight_scale_inv") part = "scales";
    kind += Concat(kind.empty() ? "" : ".", number ? "*" : part);
  }
  return kind;
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

std::map<std::string, StoredKind> CountStored(const Checkpoint& checkpoint) {
  std::map<std::string, StoredKind> kinds;
  VisitStored(checkpoint, [&](const StoredPart& part) {
    StoredKind& kind = kinds[std::string(part.type)];
    ++kind.tensors;
    kind.numbers += part.numbers;
    kind.bytes += part.bytes;
  });
  return kinds;
}

std::map<std::string, std::map<std::string, int64_t>> QuantisedKinds(const Checkpoint& checkpoint) {
  std::map<std::string, std::map<std::string, int64_t>> kinds;
  bool quantised = false;
  VisitStored(checkpoint, [&](const StoredPart& part) {
    ++kinds[KindOf(part.name)][std::string(part.type)];
    quantised = quantised || part.quantised;
  });
  if (!quantised) kinds.clear();
  return kinds;
}

std::vector<const StoredTensor*> UnusedTensors(const Model& model) {
  std::vector<const std::byte*> used;  // where the weights' views begin
  VisitWeights(model, [&](const ConstTensor& weight) {
    used.push_back(static_cast<const std::byte*>(weight.data()));
  });
  for (const ConvertedWeight& converted : model.weights().converted) {
    used.push_back(static_cast<const std::byte*>(converted.stored));
  }
  std::sort(used.begin(), used.end(), std::less<>());
  std::vector<const StoredTensor*> unused;
  for (const StoredTensor* tensor : model.checkpoint().tensors()) {
    const std::byte* begin = tensor->data.data();
    const auto first = std::lower_bound(used.begin(), used.end(), begin, std::less<>());
    if (first == used.end() || !std::less<>()(*first, begin + tensor->data.size())) {
      unused.push_back(tensor);
    }
  }
  // Block scales go with their weight.
  const std::vector<const StoredTensor*> all = unused;
  std::erase_if(unused, [&](const StoredTensor* tensor) {
    constexpr std::string_view kSuffix = "_scale_inv";
    std::string_view name = tensor->name;
    if (!name.ends_with(kSuffix)) return false;
    name.remove_suffix(kSuffix.size());
    const StoredTensor* weight = model.checkpoint().Find(name);
    return weight != nullptr && std::find(all.begin(), all.end(), weight) == all.end();
  });
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
