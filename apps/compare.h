// The same work in several ways, measured: what `mla compare` shows.
#ifndef MLA_APPS_COMPARE_H_
#define MLA_APPS_COMPARE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "apps/session_flags.h"
#include "engine/session.h"
#include "mla/result.h"
#include "model/model.h"

namespace mla {

// Called as each part of the work is done.
using Advance = std::function<void()>;

struct SpeedPoint {
  int32_t depth = 0;   // tokens in the cache before
  int32_t tokens = 0;  // that one step adds
  double tokens_per_second = 0;
};

// One model in one form of attention.
struct FormRun {
  std::string form;  // "absorbed", "expanded", "mha"
  std::string kv_dtype;
  int64_t cache_bytes_per_token = 0;  // of the cache that ran
  std::vector<SpeedPoint> prefill;    // depth 0
  std::vector<SpeedPoint> decode;     // one token at each depth
  std::vector<SpeedPoint> chunks;     // several tokens at one depth: where the forms cross
  std::vector<int32_t> greedy;        // the continuation of a fixed prompt
  double max_logit_difference = 0;    // after the prompt, from the first form's logits
};

struct FormComparison {
  std::vector<FormRun> runs;
  bool same_tokens = true;       // every greedy continuation is that of the first form
  int32_t chunk_depth = 0;       // of `chunks`
  int32_t crossover = 0;         // fewest tokens per step at which expanded was faster; 0: never
  int32_t chosen_crossover = 0;  // at which the library's choice by cost changes; 0: never
};

struct CompareOptions {
  SessionOptions session;
  std::vector<int32_t> depths;  // ascending; the largest prefill is the last of them
  int32_t decode_tokens = 16;
  int32_t repetitions = 3;
};

// Units of `advance` that CompareForms will make.
int64_t FormSteps(const Model& model, const CompareOptions& options);

// An MLA model with the latent cache, absorbed and expanded, and as plain MHA; another model in its
// one form. `prompt` must not be empty.
Result<FormComparison> CompareForms(const Model& model, const std::vector<int32_t>& prompt,
                                    const CompareOptions& options, const Advance& advance);

// Two or more models on the same text.
struct TextRun {
  std::string model;
  int64_t tokens = 0;
  double nll = 0;            // summed, natural log
  double perplexity = 0;     // per token: of models with different tokens not comparable
  double bits_per_byte = 0;  // comparable
  double tokens_per_second = 0, bytes_per_second = 0;  // of the text, scored
  int64_t cache_bytes_per_token = 0;
  double cache_bytes_per_text_byte = 0;
  int64_t weight_bytes = 0;
};
Result<TextRun> ScoreText(const std::string& name, const LoadedModel& loaded,
                          const std::string& text, const SessionOptions& options);

// Attention of chosen layers and heads over a text, as the model computed it: each row from the
// attention operator itself, given the unit vectors as values.
struct HeadMap {
  int32_t layer = 0, head = 0;
  std::vector<float> weights;  // [n, n]; 0 above the diagonal
};
Result<std::vector<HeadMap>> AttentionMaps(const Model& model, const std::vector<int32_t>& ids,
                                           const std::vector<std::pair<int32_t, int32_t>>& heads);

// One attention layer of each kind, random weights, the same width and heads.
struct LayerRun {
  std::string kind;  // "MHA", "GQA", "MQA", "MLA"
  int64_t parameters = 0;
  int64_t cache_bytes_per_token = 0;
  double prefill_tokens_per_second = 0;
  std::vector<SpeedPoint> decode;
};
struct LayerOptions {
  int32_t hidden = 1024, heads = 16, head_dim = 64, kv_heads = 4;
  int32_t kv_lora_rank = 256, q_lora_rank = 0, qk_rope_head_dim = 32;
  std::vector<int32_t> depths;
  int threads = 0;
};
Result<std::vector<LayerRun>> CompareLayers(const LayerOptions& options, const Advance& advance);

}  // namespace mla

#endif  // MLA_APPS_COMPARE_H_
