#include "model/weights.h"

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace mla {
namespace {

// Looks tensors up and collects what is wrong with them, so that one error can list everything.
class Binder {
 public:
  explicit Binder(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  bool Has(std::string_view name) const { return checkpoint_.Find(name) != nullptr; }

  ConstTensor Get(const std::string& name, std::initializer_list<int64_t> shape) {
    const StoredTensor* stored = checkpoint_.Find(name);
    if (stored == nullptr) return Problem(Concat(name, " is missing"));
    if (!std::equal(shape.begin(), shape.end(), stored->shape.begin(), stored->shape.end())) {
      return Problem(Concat(name, " has shape ", ShapeString(stored->shape), ", want ",
                            ShapeString({shape.begin(), shape.size()})));
    }
    Result<ConstTensor> tensor = ToTensor(*stored);
    if (!tensor.ok()) return Problem(std::string(tensor.message()));
    if (tensor->dtype() == DType::kI32) return Problem(Concat(name, " holds integers"));
    return *tensor;
  }

  LinearWeight GetLinear(const std::string& name, int64_t out, int64_t in, bool bias) {
    LinearWeight linear;
    linear.w = Get(name + ".weight", {out, in});
    if (bias) linear.bias = Get(name + ".bias", {out});
    return linear;
  }

  // True once there are more problems than an error should list: binding can stop.
  bool hopeless() const { return problems_ > kListed; }

  Status Finish() const {
    if (problems_ == 0) return {};
    return CorruptFile("the checkpoint does not fit its config.json: ", text_,
                       hopeless() ? "; and more" : "");
  }

 private:
  static constexpr int kListed = 64;

  ConstTensor Problem(const std::string& problem) {
    if (++problems_ <= kListed) text_ += (text_.empty() ? "" : "; ") + problem;
    return {};
  }

  const Checkpoint& checkpoint_;
  std::string text_;
  int problems_ = 0;
};

// Rows [begin, begin + count) of each head's `rows_per_head` rows of a [heads * rows, rank] weight.
ConstTensor HeadRows(const ConstTensor& w, int64_t heads, int64_t rows_per_head, int64_t begin,
                     int64_t count) {
  if (!w.present()) return {};
  const int64_t rank = w.dim(1);
  const ConstTensor all(w.data(), w.dtype(), {heads, rows_per_head, rank}, w.device());
  return all.Slice(1, begin, begin + count);
}

void BindKvB(const MlaShape& s, const std::string& prefix, Binder& binder, MlaWeights& weights) {
  const int64_t heads = s.heads;
  const int64_t d_n = s.qk_nope_head_dim;
  const int64_t d_v = s.v_head_dim;
  if (binder.Has(prefix + "k_b_proj.weight")) {
    const ConstTensor k_b = binder.Get(prefix + "k_b_proj.weight", {heads * d_n, s.kv_lora_rank});
    const ConstTensor v_b = binder.Get(prefix + "v_b_proj.weight", {heads * d_v, s.kv_lora_rank});
    weights.w_uk = HeadRows(k_b, heads, d_n, 0, d_n);
    weights.w_uv = HeadRows(v_b, heads, d_v, 0, d_v);
    return;
  }
  const ConstTensor kv_b =
      binder.Get(prefix + "kv_b_proj.weight", {heads * (d_n + d_v), s.kv_lora_rank});
  weights.w_uk = HeadRows(kv_b, heads, d_n + d_v, 0, d_n);
  weights.w_uv = HeadRows(kv_b, heads, d_n + d_v, d_n, d_v);
}

MlaWeights BindMla(const MlaSpec& spec, int64_t hidden, const std::string& prefix, Binder& binder) {
  const MlaShape& s = spec.shape;
  const int64_t q_dim = int64_t{s.heads} * (s.qk_nope_head_dim + s.qk_rope_head_dim);
  MlaWeights weights;
  if (spec.q_lora_rank > 0) {
    weights.q_a = binder.GetLinear(prefix + "q_a_proj", spec.q_lora_rank, hidden, spec.bias);
    weights.q_a_norm = binder.Get(prefix + "q_a_layernorm.weight", {spec.q_lora_rank});
    weights.q_b = binder.GetLinear(prefix + "q_b_proj", q_dim, spec.q_lora_rank, false);
  } else {
    weights.q = binder.GetLinear(prefix + "q_proj", q_dim, hidden, false);
  }
  weights.kv_a = binder.GetLinear(prefix + "kv_a_proj_with_mqa",
                                  s.kv_lora_rank + s.qk_rope_head_dim, hidden, spec.bias);
  weights.kv_a_norm = binder.Get(prefix + "kv_a_layernorm.weight", {s.kv_lora_rank});
  BindKvB(s, prefix, binder, weights);
  weights.o =
      binder.GetLinear(prefix + "o_proj", hidden, int64_t{s.heads} * s.v_head_dim, spec.bias);
  return weights;
}

GqaWeights BindGqa(const GqaSpec& spec, int64_t hidden, const std::string& prefix, Binder& binder) {
  const int64_t q_dim = int64_t{spec.heads} * spec.head_dim;
  const int64_t kv_dim = int64_t{spec.kv_heads} * spec.head_dim;
  GqaWeights weights;
  weights.q = binder.GetLinear(prefix + "q_proj", q_dim, hidden, spec.qkv_bias);
  weights.k = binder.GetLinear(prefix + "k_proj", kv_dim, hidden, spec.qkv_bias);
  weights.v = binder.GetLinear(prefix + "v_proj", kv_dim, hidden, spec.qkv_bias);
  weights.o = binder.GetLinear(prefix + "o_proj", hidden, q_dim, spec.o_bias);
  return weights;
}

DenseMlpWeights BindDense(int64_t intermediate, bool bias, int64_t hidden,
                          const std::string& prefix, Binder& binder) {
  DenseMlpWeights weights;
  weights.gate = binder.GetLinear(prefix + "gate_proj", intermediate, hidden, bias);
  weights.up = binder.GetLinear(prefix + "up_proj", intermediate, hidden, bias);
  weights.down = binder.GetLinear(prefix + "down_proj", hidden, intermediate, bias);
  return weights;
}

MoeWeights BindMoe(const MoeSpec& spec, int64_t hidden, const std::string& prefix, Binder& binder) {
  MoeWeights weights;
  weights.router = binder.Get(prefix + "gate.weight", {spec.num_experts, hidden});
  if (spec.correction_bias) {
    weights.correction_bias =
        binder.Get(prefix + "gate.e_score_correction_bias", {spec.num_experts});
  }
  for (int32_t e = 0; e < spec.num_experts && !binder.hopeless(); ++e) {
    const std::string expert = Concat(prefix, "experts.", e, ".");
    weights.gate.push_back(binder.Get(expert + "gate_proj.weight", {spec.intermediate, hidden}));
    weights.up.push_back(binder.Get(expert + "up_proj.weight", {spec.intermediate, hidden}));
    weights.down.push_back(binder.Get(expert + "down_proj.weight", {hidden, spec.intermediate}));
  }
  if (spec.shared_intermediate > 0) {
    weights.shared =
        BindDense(spec.shared_intermediate, false, hidden, prefix + "shared_experts.", binder);
  }
  return weights;
}

LayerWeights BindLayer(const LayerSpec& layer, int64_t hidden, const std::string& prefix,
                       Binder& binder) {
  LayerWeights weights;
  weights.attention_norm = binder.Get(prefix + "input_layernorm.weight", {hidden});
  weights.mlp_norm = binder.Get(prefix + "post_attention_layernorm.weight", {hidden});
  if (const auto* mla = std::get_if<MlaSpec>(&layer.attention)) {
    weights.attention = BindMla(*mla, hidden, prefix + "self_attn.", binder);
  } else {
    weights.attention =
        BindGqa(std::get<GqaSpec>(layer.attention), hidden, prefix + "self_attn.", binder);
  }
  if (const auto* dense = std::get_if<DenseMlpSpec>(&layer.mlp)) {
    weights.mlp = BindDense(dense->intermediate, dense->bias, hidden, prefix + "mlp.", binder);
  } else {
    weights.mlp = BindMoe(std::get<MoeSpec>(layer.mlp), hidden, prefix + "mlp.", binder);
  }
  return weights;
}

}  // namespace

Result<ModelWeights> BindWeights(const ModelSpec& spec, const Checkpoint& checkpoint) {
  Binder binder(checkpoint);
  ModelWeights weights;
  weights.embedding = binder.Get("model.embed_tokens.weight", {spec.vocab_size, spec.hidden_size});
  weights.final_norm = binder.Get("model.norm.weight", {spec.hidden_size});
  weights.lm_head = spec.tie_embeddings
                        ? weights.embedding
                        : binder.Get("lm_head.weight", {spec.vocab_size, spec.hidden_size});
  for (size_t i = 0; i < spec.layers.size() && !binder.hopeless(); ++i) {
    weights.layers.push_back(
        BindLayer(spec.layers[i], spec.hidden_size, Concat("model.layers.", i, "."), binder));
  }
  MLA_RETURN_IF_ERROR(binder.Finish());
  return weights;
}

}  // namespace mla
