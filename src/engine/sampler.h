// The choice of the next token from logits.
#ifndef MLA_ENGINE_SAMPLER_H_
#define MLA_ENGINE_SAMPLER_H_

#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "mla/result.h"

namespace mla {

// Applied in this order: repeat_penalty, temperature, top_k, top_p, min_p.
struct SamplingOptions {
  float temperature = 1;     // 0: greedy, and nothing below counts but repeat_penalty
  int32_t top_k = 0;         // keep the k most likely tokens; 0: all
  float top_p = 1;           // keep the fewest tokens whose probabilities reach p
  float min_p = 0;           // keep tokens at least min_p times as likely as the best
  float repeat_penalty = 1;  // divides positive and multiplies negative logits of recent tokens
  int32_t repeat_last_n = 64;
  uint64_t seed = 0;
};

Status Validate(const SamplingOptions& options);

// The same seed and logits give the same tokens. Greedy ties go to the lowest id.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {}

  // `recent`: the tokens before this one, oldest first. Requires options that Validate accepts.
  // kInvalidArgument if no logit is a finite number: the model's numbers have overflowed.
  Result<int32_t> Sample(std::span<const float> logits, std::span<const int32_t> recent);

 private:
  SamplingOptions options_;
  std::mt19937_64 random_;
  std::vector<float> logits_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace mla

#endif  // MLA_ENGINE_SAMPLER_H_
