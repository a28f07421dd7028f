#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

namespace mla {
namespace {

bool Outside(float value, float low, float high) { return !(value >= low && value <= high); }

}  // namespace

Status Validate(const SamplingOptions& o) {
  if (Outside(o.temperature, 0, 100)) {
    return InvalidArgument("temperature is ", o.temperature, ", want 0 to 100 (0: greedy)");
  }
  if (o.top_k < 0) return InvalidArgument("top-k is ", o.top_k, ", want 1 or more (0: all)");
  if (Outside(o.top_p, 0, 1) || o.top_p == 0) {
    return InvalidArgument("top-p is ", o.top_p, ", want more than 0, at most 1");
  }
  if (Outside(o.min_p, 0, 1)) return InvalidArgument("min-p is ", o.min_p, ", want 0 to 1");
  if (Outside(o.repeat_penalty, 0.01F, 100)) {
    return InvalidArgument("repeat-penalty is ", o.repeat_penalty, ", want 0.01 to 100 (1: none)");
  }
  if (o.repeat_last_n < 0) {
    return InvalidArgument("repeat-last-n is ", o.repeat_last_n, ", want 0 or more");
  }
  return {};
}

Result<int32_t> Sampler::Sample(std::span<const float> logits, std::span<const int32_t> recent) {
  logits_.assign(logits.begin(), logits.end());
  if (options_.repeat_penalty != 1) {
    const size_t count = std::min<size_t>(recent.size(), options_.repeat_last_n);
    const std::span<const int32_t> last = recent.last(count);
    for (int32_t id : std::unordered_set<int32_t>(last.begin(), last.end())) {
      float& logit = logits_[id];
      logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
    }
  }
  // max_element returns the first of equals; NaN never compares greater, so it is checked apart.
  const auto best = std::max_element(logits_.begin(), logits_.end());
  if (best == logits_.end() || !std::isfinite(*best) ||
      std::any_of(logits_.begin(), logits_.end(), [](float x) { return std::isnan(x); })) {
    return InvalidArgument("the model's logits are not finite numbers; --compute f32 may help");
  }
  const float max = *best;
  if (options_.temperature == 0) return static_cast<int32_t>(best - logits_.begin());

  candidates_.clear();
  for (size_t i = 0; i < logits_.size(); ++i) {
    const float weight = std::exp((logits_[i] - max) / options_.temperature);
    if (weight > 0) candidates_.emplace_back(weight, static_cast<int32_t>(i));
  }
  const auto more_likely = [](const auto& a, const auto& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  };
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + options_.top_k - 1,
                     candidates_.end(), more_likely);
    candidates_.resize(options_.top_k);
  }
  double total = 0;
  for (const auto& candidate : candidates_) total += candidate.first;
  if (options_.top_p < 1) {
    std::sort(candidates_.begin(), candidates_.end(), more_likely);
    double kept = 0;
    size_t count = 0;
    while (count < candidates_.size() && kept < options_.top_p * total) {
      kept += candidates_[count++].first;
    }
    candidates_.resize(std::max<size_t>(count, 1));
    total = kept;
  }
  if (options_.min_p > 0) {  // the best candidate's weight is 1
    std::erase_if(candidates_, [&](const auto& c) { return c.first < options_.min_p; });
    total = 0;
    for (const auto& candidate : candidates_) total += candidate.first;
  }
  // 53 bits of the generator, so that every platform draws the same number.
  double draw = static_cast<double>(random_() >> 11) * 0x1p-53 * total;
  for (const auto& candidate : candidates_) {
    draw -= candidate.first;
    if (draw < 0) return candidate.second;
  }
  return candidates_.back().second;
}

}  // namespace mla
