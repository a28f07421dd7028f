// Qwen2, 2.5 (arXiv 2412.15115) and Qwen3 (arXiv 2505.09388), the dense models.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {
namespace {

Result<GqaSpec> ReadQwenAttention(const ConfigReader& config, int32_t max_positions,
                                  const GqaDefaults& defaults) {
  MLA_ASSIGN_OR_RETURN(const bool windowed, config.GetBoolOr("use_sliding_window", false));
  if (windowed) MLA_RETURN_IF_ERROR(RefuseSlidingWindow(config, max_positions));
  return ReadGqa(config, defaults);
}

}  // namespace

// Biases on q, k and v, always, and on nothing else; its configs do not say so.
Result<ModelSpec> ReadQwen2(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config, {.max_positions = 32768}));
  MLA_ASSIGN_OR_RETURN(GqaSpec attention,
                       ReadQwenAttention(config, spec.max_positions, {.kv_heads = 32}));
  attention.qkv_bias = true;
  attention.o_bias = false;
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDenseLayers(config, attention));
  return spec;
}

// No biases by default; each head's q and k are normed.
Result<ModelSpec> ReadQwen3(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config, {.max_positions = 32768}));
  MLA_ASSIGN_OR_RETURN(GqaSpec attention, ReadQwenAttention(config, spec.max_positions,
                                                            {.kv_heads = 32, .head_dim = 128}));
  attention.qk_norm_eps = spec.norm_eps;
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDenseLayers(config, attention));
  return spec;
}

}  // namespace mla
