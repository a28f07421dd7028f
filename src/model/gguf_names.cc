#include "model/gguf_names.h"

#include <algorithm>
#include <charconv>
#include <span>

#include "mla/result.h"

namespace mla {
namespace {

struct NamePair {
  std::string_view gguf, hf;
};

constexpr NamePair kOutside[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

constexpr NamePair kInLayer[] = {
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
};

constexpr std::string_view kGgufLayer = "blk.", kHfLayer = "model.layers.";

std::span<const NamePair> Pairs(bool in_layer) {
  if (in_layer) return kInLayer;
  return kOutside;
}

std::optional<TensorPlace> Parse(std::string_view name, std::string_view layer_prefix) {
  TensorPlace place;
  if (name.starts_with(layer_prefix)) {
    name.remove_prefix(layer_prefix.size());
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), place.layer);
    const auto digits = static_cast<size_t>(end - name.data());
    const bool plain = error == std::errc() && place.layer >= 0 && name[0] != '-' &&
                       (digits == 1 || name[0] != '0');
    if (!plain || digits == name.size() || name[digits] != '.') return std::nullopt;
    name.remove_prefix(digits + 1);
  }
  const size_t dot = name.rfind('.');
  if (dot == name.npos || dot == 0) return std::nullopt;
  place.part = name.substr(0, dot);
  place.suffix = name.substr(dot + 1);
  return place;
}

std::string Compose(std::string_view layer_prefix, int32_t layer, std::string_view part,
                    std::string_view suffix) {
  if (layer < 0) return Concat(part, ".", suffix);
  return Concat(layer_prefix, layer, ".", part, ".", suffix);
}

}  // namespace

std::optional<TensorPlace> ParseGgufName(std::string_view name) { return Parse(name, kGgufLayer); }

std::optional<TensorPlace> ParseHfName(std::string_view name) { return Parse(name, kHfLayer); }

std::string_view HfPart(std::string_view gguf_part, bool in_layer) {
  for (const NamePair& pair : Pairs(in_layer)) {
    if (pair.gguf == gguf_part) return pair.hf;
  }
  return {};
}

std::string_view GgufPart(std::string_view hf_part, bool in_layer) {
  for (const NamePair& pair : Pairs(in_layer)) {
    if (pair.hf == hf_part) return pair.gguf;
  }
  return {};
}

std::string HfName(int32_t layer, std::string_view part, std::string_view suffix) {
  return Compose(kHfLayer, layer, part, suffix);
}

std::string GgufName(int32_t layer, std::string_view part, std::string_view suffix) {
  return Compose(kGgufLayer, layer, part, suffix);
}

std::string GgufNameOf(std::string_view hf_name) {
  constexpr std::string_view kExperts = "mlp.experts.", kProjection = "_proj";
  const std::optional<TensorPlace> place = ParseHfName(hf_name);
  if (!place) return std::string(hf_name);
  if (place->suffix == "e_score_correction_bias")
    return GgufName(place->layer, "exp_probs_b", "bias");
  if (place->part.starts_with(kExperts) && place->part.ends_with(kProjection)) {
    const std::string_view rest = place->part.substr(kExperts.size());  // "7.up_proj"
    const size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view kind = rest.substr(std::min(dot + 1, rest.size() - kProjection.size()));
    return Concat(
        GgufName(place->layer,
                 Concat("ffn_", kind.substr(0, kind.size() - kProjection.size()), "_exps"),
                 place->suffix),
        " (expert ", rest.substr(0, dot), ")");
  }
  const std::string_view part = GgufPart(place->part, place->layer >= 0);
  return part.empty() ? std::string(hf_name) : GgufName(place->layer, part, place->suffix);
}

}  // namespace mla
