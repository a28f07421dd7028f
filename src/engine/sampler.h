// The choice of the next token from logits.
#ifndef MLA_ENGINE_SAMPLER_H_
#define MLA_ENGINE_SAMPLER_H_

#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "base/threads.h"
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

// The most likely token, the lowest id of equals. kInvalidArgument for logits that say nothing: one
// is NaN, or the largest is not finite, as when the model's numbers have overflowed. Others may be
// -inf.
Result<int32_t> MostLikely(std::span<const float> logits);

// The same seed and logits give the same tokens. Greedy ties go to the lowest id.
class Sampler {
 public:
  // `threads` may be null: then all work is the caller's. It changes no result.
  explicit Sampler(const SamplingOptions& options, ThreadPool* threads = nullptr)
      : options_(options), threads_(threads), random_(options.seed) {}

  // `recent`: the tokens before this one, oldest first. Requires options that Validate accepts.
  // Errors as MostLikely, of the logits after repeat_penalty.
  Result<int32_t> Sample(std::span<const float> logits, std::span<const int32_t> recent);

 private:
  SamplingOptions options_;
  ThreadPool* threads_;
  std::mt19937_64 random_;
  std::vector<float> penalised_;  // logits, where repeat_penalty changes them
  std::vector<float> weights_;    // [vocab]: probabilities over that of the likeliest
  std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace mla

#endif  // MLA_ENGINE_SAMPLER_H_
