// ReadGgufSpec: the metadata are put into the words of config.json, which the families read.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "io/json.h"
#include "model/families/registry.h"
#include "model/gguf_model.h"

namespace mla {
namespace {

using nlohmann::json;

constexpr int64_t kMaxDim = 1 << 20;
constexpr int64_t kMaxCount = 1 << 16;
constexpr int64_t kMaxPositions = 1 << 30;
constexpr double kMaxFactor = 1e6;
constexpr int64_t kSoftmaxGating = 1, kSigmoidGating = 2;

class SpecBuilder {
 public:
  explicit SpecBuilder(const GgufFile& file) : file_(file) {}

  Result<ModelSpec> Build() {
    MLA_ASSIGN_OR_RETURN(const std::string_view arch, file_.GetString("general.architecture"));
    arch_ = arch;
    const bool is_mla = arch_ == "deepseek2";
    if (!is_mla && arch_ != "llama" && arch_ != "qwen2" && arch_ != "qwen3") {
      return Unsupported(file_.path(), ": general.architecture is ", Quote(arch_),
                         ", want one of deepseek2, llama, qwen2, qwen3");
    }
    MLA_RETURN_IF_ERROR(ReadCommon());
    MLA_RETURN_IF_ERROR(is_mla ? ReadDeepseek() : ReadGqa());
    MLA_RETURN_IF_ERROR(ReadRopeScaling());
    Result<ModelSpec> spec = ReadModelSpec(config_);
    if (!spec.ok()) return Renamed(spec.error());
    spec->model_type = arch_;
    if (arch_ == "llama") MLA_RETURN_IF_ERROR(FixLlamaRope(*spec));
    return spec;
  }

 private:
  std::string Key(std::string_view name) const { return Concat(arch_, ".", name); }
  bool Has(std::string_view name) const { return file_.Find(Key(name)) != nullptr; }

  // A family speaks of config.json, which there is none of.
  Error Renamed(const Error& error) const {
    constexpr std::string_view kConfig = "config.json: ";
    std::string_view message = error.message;
    if (message.starts_with(kConfig)) message.remove_prefix(kConfig.size());
    return Error{error.code, Concat(file_.path(), ": ", message)};
  }

  Status SetInt(const char* hf, std::string_view name, int64_t min, int64_t max) {
    MLA_ASSIGN_OR_RETURN(const int64_t value, file_.GetInt(Key(name), min, max));
    config_[hf] = value;
    return {};
  }
  Status SetIntOr(const char* hf, std::string_view name, int64_t fallback, int64_t min,
                  int64_t max) {
    MLA_ASSIGN_OR_RETURN(const int64_t value, file_.GetIntOr(Key(name), fallback, min, max));
    config_[hf] = value;
    return {};
  }

  Status ReadCommon() {
    const GgufTensor* embedding = file_.FindTensor("token_embd.weight");
    if (embedding == nullptr || embedding->shape.size() != 2) {
      return CorruptFile(file_.path(), ": tensor \"token_embd.weight\" is ",
                         embedding == nullptr ? "missing" : ShapeString(embedding->shape),
                         ", want a matrix of tokens");
    }
    config_["vocab_size"] = embedding->shape[0];
    config_["tie_word_embeddings"] = file_.FindTensor("output.weight") == nullptr;
    MLA_RETURN_IF_ERROR(SetInt("hidden_size", "embedding_length", 1, kMaxDim));
    MLA_RETURN_IF_ERROR(SetInt("num_attention_heads", "attention.head_count", 1, kMaxCount));
    MLA_RETURN_IF_ERROR(SetInt("max_position_embeddings", "context_length", 1, kMaxPositions));
    MLA_ASSIGN_OR_RETURN(const double eps,
                         file_.GetFloat(Key("attention.layer_norm_rms_epsilon"), 0, 1));
    config_["rms_norm_eps"] = eps;
    MLA_ASSIGN_OR_RETURN(const double theta,
                         file_.GetFloatOr(Key("rope.freq_base"), 10000, 1.001, 1e12));
    config_["rope_theta"] = theta;
    // Layers that predict further tokens come last and are not used.
    MLA_ASSIGN_OR_RETURN(const int64_t layers, file_.GetInt(Key("block_count"), 1, kMaxCount));
    MLA_ASSIGN_OR_RETURN(const int64_t next_layers,
                         file_.GetIntOr(Key("nextn_predict_layers"), 0, 0, layers - 1));
    config_["num_hidden_layers"] = layers - next_layers;
    return ReadSpecialIds(embedding->shape[0]);
  }

  Status ReadSpecialIds(int64_t vocab_size) {
    constexpr std::string_view kBos = "tokenizer.ggml.bos_token_id";
    if (file_.Find(kBos) != nullptr) {
      MLA_ASSIGN_OR_RETURN(const int64_t bos, file_.GetInt(kBos, 0, vocab_size - 1));
      config_["bos_token_id"] = bos;
    }
    json eos = json::array();
    for (const std::string_view name : {"eos", "eot", "eom"}) {
      const std::string key = Concat("tokenizer.ggml.", name, "_token_id");
      if (file_.Find(key) == nullptr) continue;
      MLA_ASSIGN_OR_RETURN(const int64_t id, file_.GetInt(key, 0, vocab_size - 1));
      if (std::find(eos.begin(), eos.end(), id) == eos.end()) eos.push_back(id);
    }
    config_["eos_token_id"] = std::move(eos);
    return {};
  }

  Status ReadGqa() {
    config_["model_type"] = arch_;
    if (Has("expert_count")) {
      MLA_ASSIGN_OR_RETURN(const int64_t experts, file_.GetInt(Key("expert_count"), 0, kMaxCount));
      if (experts > 0) {
        return Unsupported(file_.path(), ": ", Key("expert_count"), " is ", experts,
                           ", want 0: a mixture of experts in this architecture is not supported");
      }
    }
    MLA_RETURN_IF_ERROR(SetInt("intermediate_size", "feed_forward_length", 1, kMaxDim));
    const auto heads = config_["num_attention_heads"].get<int64_t>();
    MLA_RETURN_IF_ERROR(
        SetIntOr("num_key_value_heads", "attention.head_count_kv", heads, 1, kMaxCount));
    const auto hidden = config_["hidden_size"].get<int64_t>();
    if (!Has("attention.key_length") && hidden % heads != 0) {
      return file_.BadValue(Key("attention.head_count"),
                            Concat("a divisor of ", Key("embedding_length"), ", ", hidden));
    }
    MLA_RETURN_IF_ERROR(SetIntOr("head_dim", "attention.key_length", hidden / heads, 2, kMaxDim));
    const auto head_dim = config_["head_dim"].get<int64_t>();
    for (const char* name : {"attention.value_length", "rope.dimension_count"}) {
      MLA_ASSIGN_OR_RETURN(const int64_t dim, file_.GetIntOr(Key(name), head_dim, 1, kMaxDim));
      if (dim != head_dim) {
        return file_.BadValue(Key(name), Concat(head_dim, ", as many as a head's keys have"));
      }
    }
    // The others' biases are no choice.
    if (arch_ == "llama") {
      config_["attention_bias"] = file_.FindTensor("blk.0.attn_q.bias") != nullptr;
    }
    return {};
  }

  Status ReadDeepseek() {
    // The routing is stated in full, so one family serves all generations.
    config_["model_type"] = "deepseek_v3";
    MLA_RETURN_IF_ERROR(SetInt("kv_lora_rank", "attention.kv_lora_rank", 1, kMaxDim));
    config_["q_lora_rank"] = nullptr;
    if (Has("attention.q_lora_rank")) {
      MLA_ASSIGN_OR_RETURN(const int64_t rank,
                           file_.GetInt(Key("attention.q_lora_rank"), 0, kMaxDim));
      if (rank > 0) config_["q_lora_rank"] = rank;
    }
    // Files made for the absorbed form have the heads' own sizes under *_mla.
    const bool absorbed = Has("attention.key_length_mla");
    const std::string suffix = absorbed ? "_mla" : "";
    MLA_RETURN_IF_ERROR(SetInt("v_head_dim", "attention.value_length" + suffix, 1, kMaxDim));
    MLA_RETURN_IF_ERROR(SetInt("qk_rope_head_dim", "rope.dimension_count", 2, kMaxDim));
    const std::string key_length = Key("attention.key_length" + suffix);
    const auto rope_dim = config_["qk_rope_head_dim"].get<int64_t>();
    MLA_ASSIGN_OR_RETURN(const int64_t key_dim, file_.GetInt(key_length, rope_dim + 1, kMaxDim));
    config_["qk_nope_head_dim"] = key_dim - rope_dim;
    MLA_ASSIGN_OR_RETURN(const int64_t experts,
                         file_.GetIntOr(Key("expert_count"), 0, 0, kMaxCount));
    // Layers that are all mixtures have no dense MLP to state.
    MLA_RETURN_IF_ERROR(SetIntOr("intermediate_size", "feed_forward_length", 1, 1, kMaxDim));
    config_["n_routed_experts"] = nullptr;
    return experts > 0 ? ReadMoe(experts) : Status();
  }

  Status ReadMoe(int64_t experts) {
    config_["n_routed_experts"] = experts;
    MLA_RETURN_IF_ERROR(SetInt("num_experts_per_tok", "expert_used_count", 1, experts));
    MLA_RETURN_IF_ERROR(SetIntOr("n_shared_experts", "expert_shared_count", 0, 0, 1024));
    MLA_RETURN_IF_ERROR(SetInt("moe_intermediate_size", "expert_feed_forward_length", 1, kMaxDim));
    MLA_RETURN_IF_ERROR(
        SetIntOr("first_k_dense_replace", "leading_dense_block_count", 0, 0, kMaxCount));
    MLA_RETURN_IF_ERROR(SetIntOr("n_group", "expert_group_count", 1, 1, experts));
    MLA_RETURN_IF_ERROR(SetIntOr("topk_group", "expert_group_used_count", 1, 1, experts));
    MLA_ASSIGN_OR_RETURN(const bool normalize, file_.GetBoolOr(Key("expert_weights_norm"), false));
    config_["norm_topk_prob"] = normalize;
    MLA_ASSIGN_OR_RETURN(const double scale,
                         file_.GetFloatOr(Key("expert_weights_scale"), 1, 0, kMaxFactor));
    config_["routed_scaling_factor"] = scale == 0 ? 1 : scale;  // 0 stands for none
    MLA_ASSIGN_OR_RETURN(
        const int64_t gating,
        file_.GetIntOr(Key("expert_gating_func"), kSoftmaxGating, kSoftmaxGating, kSigmoidGating));
    config_["scoring_func"] = gating == kSigmoidGating ? "sigmoid" : "softmax";
    const std::string first_moe = std::to_string(config_["first_k_dense_replace"].get<int64_t>());
    const bool bias = file_.FindTensor("blk." + first_moe + ".exp_probs_b.bias") != nullptr;
    const bool groups = config_["n_group"].get<int64_t>() > 1;
    config_["topk_method"] = bias ? "noaux_tc" : groups ? "group_limited_greedy" : "greedy";
    return {};
  }

  Status ReadRopeScaling() {
    MLA_ASSIGN_OR_RETURN(const std::string_view type,
                         file_.GetStringOr(Key("rope.scaling.type"), "none"));
    if (type == "none") return {};
    if (type != "linear" && type != "yarn") {
      return Unsupported(file_.path(), ": ", Key("rope.scaling.type"), " is ", Quote(type),
                         ", want none, linear or yarn");
    }
    json& rope = config_["rope_scaling"];
    rope["rope_type"] = type;
    MLA_ASSIGN_OR_RETURN(const double factor,
                         file_.GetFloatOr(Key("rope.scaling.factor"), 1, 1, kMaxFactor));
    rope["factor"] = factor;
    return type == "yarn" ? ReadYarn(factor, rope) : Status();
  }

  Status ReadYarn(double factor, json& rope) {
    if (Has("rope.scaling.original_context_length")) {
      MLA_ASSIGN_OR_RETURN(
          rope["original_max_position_embeddings"],
          file_.GetInt(Key("rope.scaling.original_context_length"), 1, kMaxPositions));
    }
    for (const auto& [hf, name] : {std::pair("beta_fast", "rope.scaling.yarn_beta_fast"),
                                   std::pair("beta_slow", "rope.scaling.yarn_beta_slow")}) {
      if (!Has(name)) continue;
      MLA_ASSIGN_OR_RETURN(rope[hf], file_.GetFloat(Key(name), 1e-3, kMaxFactor));
    }
    if (arch_ == "deepseek2") {
      // The scale of the scores grows with the context, cos and sin do not.
      MLA_ASSIGN_OR_RETURN(
          const double log_multiplier,
          file_.GetFloatOr(Key("rope.scaling.yarn_log_multiplier"), 0, 0, kMaxFactor / 10));
      const double mscale = RoundToFloat(log_multiplier) * 10;
      rope["mscale"] = mscale;
      rope["mscale_all_dim"] = mscale;
      return {};
    }
    MLA_ASSIGN_OR_RETURN(const double attention,
                         file_.GetFloatOr(Key("rope.scaling.attn_factor"), 1, 1e-6, kMaxFactor));
    rope["attention_factor"] = attention * (0.1 * std::log(factor) + 1);
    return {};
  }

  // The shortest decimal that gives the same f32: 0.1 is stored as 0.100000001490116.
  static double RoundToFloat(double value) {
    char text[32];
    const auto single = static_cast<float>(value);
    for (int digits = 1; digits <= 9; ++digits) {
      std::snprintf(text, sizeof(text), "%.*g", digits, static_cast<double>(single));
      if (std::strtof(text, nullptr) == single) break;
    }
    return std::strtod(text, nullptr);
  }

  // llama's q and k rows are reordered in GGUF so that neighbours are rotated together; and a
  // tensor may hold what each frequency is divided by.
  Status FixLlamaRope(ModelSpec& spec) {
    if (spec.layers.empty()) return {};
    RopeSpec rope = *std::get<GqaSpec>(spec.layers[0].attention).rope;
    rope.pairing = RopePairing::kInterleaved;
    if (const GgufTensor* factors = file_.FindTensor("rope_freqs.weight")) {
      const auto pairs = static_cast<int64_t>(rope.inv_freq.size());
      if (factors->type->name != "F32" || factors->shape != std::vector<int64_t>{pairs} ||
          factors->data.empty()) {
        return CorruptFile(file_.path(), ": tensor \"rope_freqs.weight\" is ",
                           ShapeString(factors->shape), " of ", factors->type->name, ", want [",
                           pairs, "] of F32");
      }
      std::vector<float> divisors(rope.inv_freq.size());
      DecodeGgufRow(*factors->type, factors->data.data(), pairs, divisors.data());
      for (size_t i = 0; i < divisors.size(); ++i) {
        if (!(divisors[i] >= 1e-6f && divisors[i] <= 1e6f)) {
          return CorruptFile(file_.path(), ": tensor \"rope_freqs.weight\" holds ", divisors[i],
                             ", want 1e-6 to 1e6");
        }
        rope.inv_freq[i] /= divisors[i];
      }
    }
    const auto shared = std::make_shared<const RopeSpec>(std::move(rope));
    for (LayerSpec& layer : spec.layers) std::get<GqaSpec>(layer.attention).rope = shared;
    return {};
  }

  const GgufFile& file_;
  std::string arch_;
  json config_ = json::object();
};

}  // namespace

Result<ModelSpec> ReadGgufSpec(const GgufFile& file) { return SpecBuilder(file).Build(); }

}  // namespace mla
