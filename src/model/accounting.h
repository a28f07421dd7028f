// What a model costs: parameters, bytes of weights and cache, operations and traffic of a step. The
// one place where these are counted: from the weights' shapes, the cache's components and the
// attention operators' own cost functions, never from a family's name.
#ifndef MLA_MODEL_ACCOUNTING_H_
#define MLA_MODEL_ACCOUNTING_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"
#include "model/layers.h"
#include "model/spec.h"
#include "model/weights.h"

namespace mla {

// Weights of one kind and shape, over all layers.
struct WeightGroup {
  std::string kind;     // "attention q_b", "routed experts"
  int64_t rows = 1;     // 1: a vector (a norm, a bias)
  int64_t cols = 0;     // inputs of a matrix
  int64_t copies = 0;   // matrices or vectors of this shape
  int32_t choices = 1;  // routed experts: a token uses `chosen` of every `choices` copies
  int32_t chosen = 1;

  // Copies that at least one of `tokens` tokens uses, if every choice is equally likely.
  double UsedCopies(double tokens) const;
};

// In the order of the computation. A head tied to the embedding is not listed twice.
// kInvalidArgument if a count overflows. Weights as shapes alone (WeightShapes) are as good as real
// ones.
Result<std::vector<WeightGroup>> ListWeights(const ModelSpec& spec, const ModelWeights& weights);

// Numbers of one kind of weight.
struct ParameterKind {
  std::string name;
  int64_t total = 0;
  int64_t active = 0;  // that take part in one token: of routed experts, those chosen
};
std::vector<ParameterKind> CountParameters(const std::vector<WeightGroup>& groups);
ParameterKind SumParameters(const std::vector<ParameterKind>& kinds);

// The parameters of one of DeepSeek-V3's extra prediction layers (arXiv 2412.19437, section 2.2)
// beside those of `spec`: a layer like the last, the projection of two hidden states to one, and
// three norms. Embedding and head are the model's own.
Result<int64_t> ExtraPredictionParameters(const ModelSpec& spec);

// How weights are stored. kFp8: linear layers as e4m3 with an f32 scale per 128 x 128 block, the
// rest (embedding, head, router, norms) in bf16, as DeepSeek-V3 is released. kQ8, kQ4: matrices in
// blocks of 32 along their rows, of 34 and 18 bytes (GGUF's Q8_0 and Q4_0); router and vectors f32.
enum class WeightFormat { kBf16, kFp8, kQ8, kQ4 };
inline constexpr WeightFormat kWeightFormats[] = {WeightFormat::kBf16, WeightFormat::kFp8,
                                                  WeightFormat::kQ8, WeightFormat::kQ4};
std::string_view WeightFormatName(WeightFormat format);  // "bf16", "fp8", "q8", "q4"

// Of one matrix or vector of the group.
int64_t CopyBytes(const WeightGroup& group, WeightFormat format);
Result<int64_t> WeightBytes(const std::vector<WeightGroup>& groups, WeightFormat format);

// How the cache is stored. kF16: f16 or bf16. kFp8: the latent as e4m3 with an f32 scale per 128
// numbers, index keys alike, and the rope key in bf16 (656 bytes for 512 + 64: the layout of
// DeepSeek-V3.2's sparse attention), keys and values of heads as e4m3 alone. kInt8: int8
// latents (mla/int8_latent.h: 656 bytes for 512 + 64), index keys in bf16, as `--kv-dtype int8` has
// them; keys and values of heads, which it does not hold, as int8 with one f32 scale per vector.
enum class CacheFormat { kF16, kFp8, kInt8 };
inline constexpr CacheFormat kCacheFormats[] = {CacheFormat::kF16, CacheFormat::kFp8,
                                                CacheFormat::kInt8};
std::string_view CacheFormatName(CacheFormat format);  // "f16", "fp8", "int8"

// Whose cache: the model's own attention, or MHA, GQA with 8 KV heads and MQA of the same heads.
enum class CacheLayout { kModel, kMha, kGqa8, kMqa };
inline constexpr CacheLayout kCacheLayouts[] = {CacheLayout::kModel, CacheLayout::kMha,
                                                CacheLayout::kGqa8, CacheLayout::kMqa};
std::string_view CacheLayoutName(CacheLayout layout);  // "model", "mha", "gqa8", "mqa"

// Over all layers.
int64_t CacheBytesPerToken(const ModelSpec& spec, CacheLayout layout, CacheFormat format);

// One step: each of `batch` sequences adds `new_tokens` to `cached` ones.
struct StepShape {
  int64_t batch = 1;
  int64_t new_tokens = 1;
  int64_t cached = 0;
};

// Floating-point operations of matrix products (norms, rotations and softmax are left out), and
// bytes that must cross the memory bus at least once: the weights that the step's tokens use
// (expected number of distinct experts), the cache read and the new rows written.
struct StepCost {
  double linear_flops = 0, attention_flops = 0;
  double weight_bytes = 0, cache_bytes = 0;

  double flops() const { return linear_flops + attention_flops; }
  double bytes() const { return weight_bytes + cache_bytes; }
};

// `form` says how MLA layers run; kMha reads the cache of MHA with the same heads, kAuto takes the
// form of fewer operations.
// Logits are computed for the last token of each sequence.
StepCost CostOfStep(const ModelSpec& spec, const std::vector<WeightGroup>& groups,
                    const StepShape& step, AttentionForm form, WeightFormat weights,
                    CacheFormat cache);

// bytes = count * each; kInvalidArgument on overflow, naming `what`.
Result<int64_t> CheckedBytes(int64_t count, int64_t each, std::string_view what);

}  // namespace mla

#endif  // MLA_MODEL_ACCOUNTING_H_
