#include "model/weights.h"

#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "base/numeric.h"
#include "model/gguf_names.h"
#include "tensor/quant_blocks.h"

namespace mla {
namespace {

// Looks tensors up and collects what is wrong with them, so that one error can list everything.
class Binder {
 public:
  // Without a checkpoint: binds shapes without memory (WeightShapes), and lists the tensors in
  // `names` if that is given.
  explicit Binder(const Checkpoint* checkpoint, std::vector<NamedShape>* names = nullptr)
      : checkpoint_(checkpoint), names_(names) {}
  Binder(const Checkpoint* checkpoint, DType decoded)
      : checkpoint_(checkpoint), names_(nullptr), decoded_(decoded) {}

  DType decoded() const { return decoded_; }
  bool shapes_only() const { return checkpoint_ == nullptr; }
  bool one_expert_of_many() const { return shapes_only() && names_ == nullptr; }
  bool from_gguf() const { return !shapes_only() && checkpoint_->gguf() != nullptr; }
  bool Has(std::string_view name) const {
    return !shapes_only() && checkpoint_->Find(name) != nullptr;
  }

  ConstTensor Get(const std::string& name, std::initializer_list<int64_t> shape) {
    if (names_ != nullptr) names_->push_back({name, shape});
    if (shapes_only()) return ConstTensor(&kNoMemory, DType::kBF16, shape);
    const StoredTensor* stored = checkpoint_->Find(name);
    if (stored == nullptr) return Problem(Concat(NameInFile(name), " is missing"));
    if (!std::equal(shape.begin(), shape.end(), stored->shape.begin(), stored->shape.end())) {
      return Problem(Concat(NameInFile(name), " has shape ", ShapeString(stored->shape), ", want ",
                            ShapeString({shape.begin(), shape.size()})));
    }
    Result<ConstTensor> tensor = ToTensor(*stored);
    if (!tensor.ok()) return Problem(std::string(tensor.message()));
    if (tensor->dtype() == DType::kI32) return Problem(Concat(NameInFile(name), " holds integers"));
    if (!IsQuantised(tensor->dtype())) return *tensor;
    if (shape.size() != 2) {
      return Problem(Concat(NameInFile(name), " is ", StoredDTypeName(stored->dtype),
                            ", want F32, F16 or BF16"));
    }
    return tensor->dtype() == DType::kF8E4M3 ? WithScales(name, *tensor) : *tensor;
  }

  // The same as plain floats: what is quantised is decoded, in memory of the model's own.
  ConstTensor GetDecoded(const std::string& name, std::initializer_list<int64_t> shape) {
    const ConstTensor tensor = Get(name, shape);
    return tensor.present() && IsQuantised(tensor.dtype()) ? Decode(tensor) : tensor;
  }

  ConstTensor Decode(const ConstTensor& w) { return Decode(w, decoded_); }
  ConstTensor Decode(const ConstTensor& w, DType to) {
    const int64_t rows = w.dim(0), cols = w.dim(1);
    const int64_t bytes = RowBytes(to, rows * cols);
    const auto memory = std::make_shared<uint8_t[]>(bytes);
    std::vector<float> row(cols);
    std::vector<uint16_t> rounded(to == DType::kBF16 ? cols : 0);
    for (int64_t i = 0; i < rows; ++i) {
      DequantiseMatrixRow(w, i, 0, cols, row.data());
      for (size_t j = 0; j < rounded.size(); ++j) rounded[j] = F32ToBf16(row[j]);
      const void* from = rounded.empty() ? static_cast<const void*>(row.data()) : rounded.data();
      std::memcpy(memory.get() + i * RowBytes(to, cols), from, RowBytes(to, cols));
    }
    converted_.push_back({memory, w.data(), bytes});
    return ConstTensor(memory.get(), to, {rows, cols});
  }

  std::vector<ConvertedWeight> TakeConverted() { return std::move(converted_); }

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
    return CorruptFile(from_gguf() ? "the tensors do not fit the file's metadata: "
                                   : "the checkpoint does not fit its config.json: ",
                       text_, hopeless() ? "; and more" : "");
  }

 private:
  static constexpr int kListed = 64;

  std::string NameInFile(const std::string& name) const {
    return from_gguf() ? GgufNameOf(name) : name;
  }

  ConstTensor Problem(const std::string& problem) {
    if (++problems_ <= kListed) text_ += (text_.empty() ? "" : "; ") + problem;
    return {};
  }

  // The block scales of a weight in FP8, as DeepSeek-V3 names and shapes them.
  ConstTensor WithScales(const std::string& name, const ConstTensor& w) {
    BlockScales scales;
    const std::string scale_name = name + "_scale_inv";
    const StoredTensor* stored = checkpoint_->Find(scale_name);
    if (stored == nullptr) {
      return Problem(Concat(name, " is F8_E4M3, but ", scale_name, " is missing"));
    }
    const int64_t want[] = {CeilDiv(w.dim(0), scales.rows), CeilDiv(w.dim(1), scales.cols)};
    if (stored->dtype != StoredDType::kF32 ||
        !std::equal(std::begin(want), std::end(want), stored->shape.begin(), stored->shape.end())) {
      return Problem(Concat(scale_name, " is ", StoredDTypeName(stored->dtype), " ",
                            ShapeString(stored->shape), ", want F32 ", ShapeString(want)));
    }
    scales.data = reinterpret_cast<const float*>(stored->data.data());
    scales.stride = want[1];
    return w.WithScales(scales);
  }

  static constexpr char kNoMemory = 0;  // what views of shapes alone point to

  const Checkpoint* checkpoint_;
  std::vector<NamedShape>* names_;
  DType decoded_ = DType::kF32;
  std::vector<ConvertedWeight> converted_;
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
    ConstTensor k_b = binder.GetDecoded(prefix + "k_b_proj.weight", {heads * d_n, s.kv_lora_rank});
    ConstTensor v_b = binder.GetDecoded(prefix + "v_b_proj.weight", {heads * d_v, s.kv_lora_rank});
    if (k_b.present() && v_b.present() && k_b.dtype() != v_b.dtype()) {
      // Attention takes them as one type.
      const bool exact = k_b.dtype() == DType::kF32 || v_b.dtype() == DType::kF32;
      const DType to = exact ? DType::kF32 : binder.decoded();
      if (k_b.dtype() != to) k_b = binder.Decode(k_b, to);
      if (v_b.dtype() != to) v_b = binder.Decode(v_b, to);
    }
    weights.w_uk = HeadRows(k_b, heads, d_n, 0, d_n);
    weights.w_uv = HeadRows(v_b, heads, d_v, 0, d_v);
    return;
  }
  const ConstTensor kv_b =
      binder.GetDecoded(prefix + "kv_b_proj.weight", {heads * (d_n + d_v), s.kv_lora_rank});
  weights.w_uk = HeadRows(kv_b, heads, d_n + d_v, 0, d_n);
  weights.w_uv = HeadRows(kv_b, heads, d_n + d_v, d_n, d_v);
}

IndexerWeights BindIndexer(const MlaSpec& spec, int64_t hidden, const std::string& prefix,
                           Binder& binder) {
  const IndexerSpec& indexer = *spec.indexer;
  IndexerWeights weights;
  weights.q = binder.GetLinear(prefix + "wq_b", int64_t{indexer.heads} * indexer.head_dim,
                               spec.q_lora_rank, false);
  weights.k = binder.GetLinear(prefix + "wk", indexer.head_dim, hidden, false);
  weights.k_norm = binder.Get(prefix + "k_norm.weight", {indexer.head_dim});
  weights.k_norm_bias = binder.Get(prefix + "k_norm.bias", {indexer.head_dim});
  weights.head_weights = binder.GetLinear(prefix + "weights_proj", indexer.heads, hidden, false);
  return weights;
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
  if (spec.indexer && !spec.indexer->reuse) {
    weights.indexer = BindIndexer(spec, hidden, prefix + "indexer.", binder);
  }
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
  if (spec.qk_norm_eps) {
    weights.q_norm = binder.Get(prefix + "q_norm.weight", {spec.head_dim});
    weights.k_norm = binder.Get(prefix + "k_norm.weight", {spec.head_dim});
  }
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

// Where a mixture's tensors are.
struct MoeNames {
  std::string prefix;  // of its experts
  std::string router, correction_bias;
};

MoeWeights BindMoe(const MoeSpec& spec, int64_t hidden, const MoeNames& names, Binder& binder) {
  const std::string& prefix = names.prefix;
  const int64_t routed = int64_t{spec.num_experts} + spec.identity_experts;
  MoeWeights weights;
  weights.router = binder.Get(names.router, {routed, hidden});
  if (spec.correction_bias) weights.correction_bias = binder.Get(names.correction_bias, {routed});
  const int32_t experts = binder.one_expert_of_many() ? 1 : spec.num_experts;
  for (int32_t e = 0; e < experts && !binder.hopeless(); ++e) {
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

// The layer's own names, or the usual ones of layer `index`.
LayerNames NamesOf(const LayerSpec& layer, size_t index) {
  if (layer.names) return *layer.names;
  const std::string prefix = Concat("model.layers.", index, ".");
  LayerNames names;
  names.attention_norm = prefix + "input_layernorm.weight";
  names.attention = prefix + "self_attn.";
  names.mlp_norm = prefix + "post_attention_layernorm.weight";
  names.mlp = prefix + "mlp.";
  return names;
}

LayerWeights BindLayer(const LayerSpec& layer, size_t index, const ModelSpec& spec,
                       Binder& binder) {
  const LayerNames names = NamesOf(layer, index);
  const std::string& root = spec.tensor_prefix;
  const int64_t hidden = spec.hidden_size;
  LayerWeights weights;
  weights.attention_norm = binder.Get(root + names.attention_norm, {hidden});
  weights.mlp_norm = binder.Get(root + names.mlp_norm, {hidden});
  if (const auto* mla = std::get_if<MlaSpec>(&layer.attention)) {
    weights.attention = BindMla(*mla, hidden, root + names.attention, binder);
  } else {
    weights.attention =
        BindGqa(std::get<GqaSpec>(layer.attention), hidden, root + names.attention, binder);
  }
  const std::string mlp = root + names.mlp;
  if (const auto* dense = std::get_if<DenseMlpSpec>(&layer.mlp)) {
    weights.mlp = BindDense(dense->intermediate, dense->bias, hidden, mlp, binder);
  } else {
    weights.mlp = BindMoe(std::get<MoeSpec>(layer.mlp), hidden,
                          {mlp, mlp + "gate.weight", mlp + "gate.e_score_correction_bias"}, binder);
  }
  if (layer.branch) {
    weights.branch = BindMoe(
        layer.branch->moe, hidden,
        {root + names.branch, root + names.branch_router, root + names.branch_router_bias}, binder);
  }
  return weights;
}

ModelWeights BindModel(const ModelSpec& spec, Binder& binder) {
  const std::string& root = spec.tensor_prefix;
  const int64_t hidden = spec.hidden_size;
  ModelWeights weights;
  weights.embedding = binder.Get(root + "model.embed_tokens.weight", {spec.vocab_size, hidden});
  weights.final_norm = binder.Get(root + "model.norm.weight", {hidden});
  weights.lm_head = spec.tie_embeddings
                        ? weights.embedding
                        : binder.Get(root + "lm_head.weight", {spec.vocab_size, hidden});
  for (size_t i = 0; i < spec.layers.size() && !binder.hopeless(); ++i) {
    weights.layers.push_back(BindLayer(spec.layers[i], i, spec, binder));
  }
  return weights;
}

}  // namespace

Result<ModelWeights> BindWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                 DType decoded) {
  Binder binder(&checkpoint, decoded);
  ModelWeights weights = BindModel(spec, binder);
  MLA_RETURN_IF_ERROR(binder.Finish());
  weights.converted = binder.TakeConverted();
  if (!weights.converted.empty()) weights.decoded_to = decoded;
  return weights;
}

std::vector<NamedShape> ListTensors(const ModelSpec& spec) {
  std::vector<NamedShape> names;
  Binder binder(nullptr, &names);
  BindModel(spec, binder);
  return names;
}

ModelWeights WeightShapes(const ModelSpec& spec) {
  Binder binder(nullptr);
  return BindModel(spec, binder);
}

}  // namespace mla
