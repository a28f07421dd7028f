#include "model/known_models.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/edit_distance.h"
#include "io/json.h"

namespace mla {
namespace {

constexpr std::string_view kDeepseekV3 =
    R"({"model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168,
      "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
      "num_attention_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256,
      "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "n_group": 8,
      "topk_group": 4, "num_nextn_predict_layers": 1, "max_position_embeddings": 163840,
      "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})";

// The rotary base changes no count and is left at its default; weights are counted as bf16 unless
// quantization_config says how the release stores them.
constexpr KnownModel kModels[] = {
    {"deepseek-v2", R"({"model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 5120,
      "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_hidden_layers": 60,
      "num_attention_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 160,
      "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
      "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3,
      "max_position_embeddings": 163840})",
     "arXiv 2405.04434, section 3.1.2; config.json of deepseek-ai/DeepSeek-V2"},
    {"deepseek-v2-lite", R"({"model_type": "deepseek_v2", "vocab_size": 102400,
      "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
      "num_hidden_layers": 27, "num_attention_heads": 16, "q_lora_rank": null,
      "kv_lora_rank": 512,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64,
      "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
      "max_position_embeddings": 163840})",
     "arXiv 2405.04434, appendix B; config.json of deepseek-ai/DeepSeek-V2-Lite"},
    {"deepseek-v3", kDeepseekV3,
     "arXiv 2412.19437, section 4.2; config.json of deepseek-ai/DeepSeek-V3"},
    {"deepseek-v3.1", kDeepseekV3, "config.json of deepseek-ai/DeepSeek-V3.1"},
    {"deepseek-r1", kDeepseekV3, "config.json of deepseek-ai/DeepSeek-R1"},
    {"deepseek-v3.2", R"({"model_type": "deepseek_v32", "vocab_size": 129280, "hidden_size": 7168,
      "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
      "num_attention_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256,
      "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "n_group": 8,
      "topk_group": 4, "num_nextn_predict_layers": 1, "max_position_embeddings": 163840,
      "index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048,
      "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})",
     "config.json of deepseek-ai/DeepSeek-V3.2"},
    {"glm-4.7-flash", R"({"model_type": "glm4_moe_lite", "vocab_size": 154880,
      "hidden_size": 2048, "intermediate_size": 10240, "moe_intermediate_size": 1536,
      "num_hidden_layers": 47, "num_attention_heads": 20, "q_lora_rank": 768,
      "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
      "n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 4,
      "first_k_dense_replace": 1, "max_position_embeddings": 202752})",
     "config.json of zai-org/GLM-4.7-Flash"},
    {"glm-5", R"({"model_type": "glm_moe_dsa", "vocab_size": 154880, "hidden_size": 6144,
      "intermediate_size": 12288, "moe_intermediate_size": 2048, "num_hidden_layers": 78,
      "num_attention_heads": 64, "q_lora_rank": 2048, "kv_lora_rank": 512,
      "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "n_routed_experts": 256,
      "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
      "num_nextn_predict_layers": 1, "index_head_dim": 128, "index_n_heads": 32,
      "index_topk": 2048, "max_position_embeddings": 202752})",
     "config.json of zai-org/GLM-5"},
    {"glm-5.2", R"({"model_type": "glm_moe_dsa", "vocab_size": 154880, "hidden_size": 6144,
      "intermediate_size": 12288, "moe_intermediate_size": 2048, "num_hidden_layers": 78,
      "num_attention_heads": 64, "q_lora_rank": 2048, "kv_lora_rank": 512,
      "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "n_routed_experts": 256,
      "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
      "num_nextn_predict_layers": 1, "index_head_dim": 128, "index_n_heads": 32,
      "index_topk": 2048, "index_topk_freq": 4, "index_skip_topk_offset": 3,
      "max_position_embeddings": 1048576})",
     "config.json of zai-org/GLM-5.2"},
    {"longcat-flash", R"({"model_type": "longcat_flash", "vocab_size": 131072,
      "hidden_size": 6144, "ffn_hidden_size": 12288, "expert_ffn_hidden_size": 2048,
      "num_layers": 28, "num_attention_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
      "n_routed_experts": 512, "zero_expert_num": 256, "moe_topk": 12,
      "max_position_embeddings": 131072})",
     "arXiv 2509.01322, section 2; config.json of meituan-longcat/LongCat-Flash-Chat"},
    {"minicpm3-4b", R"({"model_type": "minicpm3", "vocab_size": 73448, "hidden_size": 2560,
      "intermediate_size": 6400, "num_hidden_layers": 62, "num_attention_heads": 40,
      "q_lora_rank": 768, "kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
      "v_head_dim": 64, "max_position_embeddings": 32768})",
     "config.json of openbmb/MiniCPM3-4B"},
    {"youtu-llm-2b", R"({"model_type": "youtu", "vocab_size": 128256, "hidden_size": 2048,
      "intermediate_size": 6144, "num_hidden_layers": 32, "num_attention_heads": 16,
      "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
      "v_head_dim": 128, "max_position_embeddings": 131072})",
     "config.json of tencent/Youtu-LLM-2B"},
    {"qwen2.5-7b", R"({"model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584,
      "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
      "num_key_value_heads": 4, "max_position_embeddings": 131072})",
     "arXiv 2412.15115, section 2; config.json of Qwen/Qwen2.5-7B"},
    {"qwen3-8b", R"({"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096,
      "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
      "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960})",
     "arXiv 2505.09388, table 1; config.json of Qwen/Qwen3-8B"},
    {"mistral-7b", R"({"model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096,
      "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "max_position_embeddings": 32768,
      "sliding_window": null})",
     "arXiv 2310.06825, table 1; config.json of mistralai/Mistral-7B-v0.3"},
    {"kimi-k2", R"({"model_type": "deepseek_v3", "vocab_size": 163840, "hidden_size": 7168,
      "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
      "num_attention_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 384,
      "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 1,
      "n_group": 1, "topk_group": 1, "max_position_embeddings": 131072,
      "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})",
     "config.json of moonshotai/Kimi-K2-Instruct"},
    {"kimi-k2.5", R"({"model_type": "kimi_k2", "vocab_size": 163840, "hidden_size": 7168,
      "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
      "num_attention_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 384,
      "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 1,
      "n_group": 1, "topk_group": 1, "max_position_embeddings": 262144,
      "quantization_config": {"quant_method": "compressed-tensors"}})",
     "config.json of moonshotai/Kimi-K2.5, its language model"},
    {"llama-2-7b", R"({"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
      "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
      "max_position_embeddings": 4096})",
     "arXiv 2307.09288, section 2.2; config.json of meta-llama/Llama-2-7b-hf"},
    {"llama-2-13b", R"({"model_type": "llama", "vocab_size": 32000, "hidden_size": 5120,
      "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
      "max_position_embeddings": 4096})",
     "arXiv 2307.09288, section 2.2; config.json of meta-llama/Llama-2-13b-hf"},
    {"llama-2-70b", R"({"model_type": "llama", "vocab_size": 32000, "hidden_size": 8192,
      "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
      "num_key_value_heads": 8, "max_position_embeddings": 4096})",
     "arXiv 2307.09288, section 2.2; config.json of meta-llama/Llama-2-70b-hf"},
    {"llama-3-8b", R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
      "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "max_position_embeddings": 8192})",
     "arXiv 2407.21783, table 3; config.json of meta-llama/Meta-Llama-3-8B"},
    {"llama-3-70b", R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 8192,
      "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
      "num_key_value_heads": 8, "max_position_embeddings": 8192})",
     "arXiv 2407.21783, table 3; config.json of meta-llama/Meta-Llama-3-70B"},
    {"llama-3.1-405b", R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 16384,
      "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128,
      "num_key_value_heads": 8, "max_position_embeddings": 131072})",
     "arXiv 2407.21783, table 3; config.json of meta-llama/Llama-3.1-405B"},
};

std::string Normalized(std::string_view name) {
  std::string text(name.substr(0, 64));
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (c == '_' || c == '.' || c == ' ') c = '-';
  }
  return text;
}

}  // namespace

std::span<const KnownModel> KnownModels() { return kModels; }

Result<const KnownModel*> FindKnownModel(std::string_view name) {
  const std::string wanted = Normalized(name);
  std::vector<std::pair<size_t, std::string_view>> near;
  std::string all;
  for (const KnownModel& model : kModels) {
    const std::string known = Normalized(model.name);
    if (known == wanted) return &model;
    const bool contains = wanted.size() > 2 && known.find(wanted) != std::string::npos;
    const size_t distance = contains ? 0 : EditDistance(wanted, known);
    if (distance <= 4 && distance < wanted.size()) near.push_back({distance, model.name});
    all += Concat(all.empty() ? "" : ", ", model.name);
  }
  std::stable_sort(near.begin(), near.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string hint;
  for (const auto& [distance, known] : near) hint += Concat(hint.empty() ? "" : ", ", known);
  return NotFound("no model is called ", Quote(name), " and nothing has that path; ",
                  hint.empty() ? "known names: " + all : "near names: " + hint);
}

}  // namespace mla
