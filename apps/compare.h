// The same work in several ways, measured: what `mla compare` shows.
#ifndef MLA_APPS_COMPARE_H_
#define MLA_APPS_COMPARE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
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
  int32_t prompt_tokens = 0;     // of the prompt that was run: its beginning, if it is too long
  int32_t top_k = 0;  // most tokens attended to, of a model that chooses them; 0: it does not
};

struct CompareOptions {
  SessionOptions session;
  std::vector<int32_t> depths;  // ascending; a prefill of each, and decoding after each
  int32_t decode_tokens = 16;
  int32_t repetitions = 3;
};

// Units of `advance` that CompareForms will make.
int64_t FormSteps(const Model& model, const CompareOptions& options);

// An MLA model with the latent cache, absorbed and expanded, and as plain MHA; another model in its
// one form. `prompt` must not be empty.
Result<FormComparison> CompareForms(const Model& model, const std::vector<int32_t>& prompt,
                                    const CompareOptions& options, const Advance& advance);

// One of two models on the same text.
struct TextRun {
  std::string model;
  int32_t context = 0;  // tokens that are predicted from at most: the text is cut into windows
  int64_t tokens = 0;
  double nll = 0;            // summed, natural log
  double perplexity = 0;     // per token: of models with different tokens not comparable
  double bits_per_byte = 0;  // comparable
  double tokens_per_second = 0, bytes_per_second = 0;  // of the text, scored
  int64_t cache_bytes_per_token = 0;
  double cache_bytes_per_text_byte = 0;
  int64_t weight_bytes = 0;
  std::vector<SpeedPoint> decode;  // one token at each depth
};

// Called with the units of work that are done, and all there are.
using ReportProgress = std::function<void(int64_t done, int64_t total)>;

// Each of `texts` from nothing. `options.session.context` is the windows' length, 3 or more.
Result<TextRun> ScoreTexts(const std::string& name, const LoadedModel& loaded,
                           const std::vector<std::string_view>& texts,
                           const CompareOptions& options, const ReportProgress& progress);

// Attention of chosen layers and heads over a text, as the model computed it: each row from the
// attention operator itself, given the unit vectors as values.
struct LayerHead {
  int32_t layer = 0, head = 0;
};
struct HeadMap {
  LayerHead of;
  std::vector<float> weights;  // [n, n]; 0 above the diagonal
};
// kInvalidArgument for a layer or a head that the model does not have. `ids` must not be empty.
Result<std::vector<HeadMap>> AttentionMaps(const Model& model, const std::vector<int32_t>& ids,
                                           const std::vector<LayerHead>& heads);

// What each token stands for, to be read: spaces on their own as marks, and of the tokens that make
// one character together each as that character and which part it is ("é 2/2").
Result<std::vector<std::string>> TokenTexts(const Tokenizer& tokenizer,
                                            const std::vector<int32_t>& ids);

// One attention layer of each kind, random weights, the same width and heads.
struct LayerRun {
  std::string kind;  // "MHA", "GQA", "MQA", "MLA"
  int64_t parameters = 0;
  int64_t cache_bytes_per_token = 0;
  double prefill_tokens_per_second = 0;
  std::vector<SpeedPoint> decode;
};
struct LayerOptions {
  int32_t hidden = 1024, heads = 16, head_dim = 64;
  int32_t kv_heads = 4;  // of the GQA layer
  // Of the MLA layer; its qk_nope_head_dim is head_dim.
  int32_t kv_lora_rank = 256, q_lora_rank = 0, qk_rope_head_dim = 32, v_head_dim = 64;
  std::vector<int32_t> depths;  // ascending
  int threads = 0;              // 0: one per usable CPU
};
// Width and heads of a model's first layer. What its own attention does not say is chosen: 8 KV
// heads or as many as divide the heads, and kv_lora_rank and qk_rope_head_dim of 4 and 1/2 times
// the head, as in DeepSeek-V2 (arXiv 2405.04434, section 2.1.4).
LayerOptions LayersLike(const ModelSpec& spec);
// kInvalidArgument for dimensions that make no layer, and for layers that take more memory than
// there is.
Result<std::vector<LayerRun>> CompareLayers(const LayerOptions& options, const Advance& advance);

}  // namespace mla

#endif  // MLA_APPS_COMPARE_H_
