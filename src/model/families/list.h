// The model families, by the model_type of their config.json: one line each. F(type, function), the
// function being a SpecReader that the family's own file defines.
#ifndef MLA_MODEL_FAMILIES_LIST_H_
#define MLA_MODEL_FAMILIES_LIST_H_

// clang-format off
#define MLA_MODEL_FAMILIES(F)          \
  F("deepseek_v2", ReadDeepseekV2)     \
  F("deepseek_v3", ReadDeepseekV3)     \
  F("deepseek_v32", ReadDeepseekV32)   \
  F("glm4_moe_lite", ReadGlm4MoeLite)  \
  F("glm_moe_dsa", ReadGlmMoeDsa)      \
  F("kimi_k2", ReadDeepseekV3)         \
  F("llama", ReadLlama)                \
  F("longcat_flash", ReadLongcatFlash) \
  F("minicpm3", ReadMinicpm3)          \
  F("mistral", ReadMistral)            \
  F("qwen2", ReadQwen2)                \
  F("qwen3", ReadQwen3)                \
  F("youtu", ReadYoutu)
// clang-format on

#endif  // MLA_MODEL_FAMILIES_LIST_H_
