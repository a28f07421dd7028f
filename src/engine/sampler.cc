#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "base/numeric.h"

namespace mla {
namespace {

// The first of the largest logits; -1 if there are none or one is not a number. In lanes, which
// compilers turn into vectors.
int64_t FindLargest(std::span<const float> logits) {
  constexpr size_t kLanes = 16;
  float largest[kLanes];
  std::fill_n(largest, kLanes, -std::numeric_limits<float>::infinity());
  uint32_t nans = 0;
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float x = logits[i + lane];
      largest[lane] = x > largest[lane] ? x : largest[lane];
      nans |= static_cast<uint32_t>(x != x);
    }
  }
  for (; i < logits.size(); ++i) {
    largest[0] = std::max(largest[0], logits[i]);
    nans |= static_cast<uint32_t>(std::isnan(logits[i]));
  }
  if (nans != 0 || logits.empty()) return -1;
  const float max = *std::max_element(largest, largest + kLanes);
  return std::find(logits.begin(), logits.end(), max) - logits.begin();
}

using Candidates = std::vector<std::pair<float, int32_t>>;  // weight, token

bool MoreLikely(const Candidates::value_type& a, const Candidates::value_type& b) {
  return a.first > b.first || (a.first == b.first && a.second < b.second);
}

// Keeps the fewest candidates whose weights, of which the largest is 1, reach `wanted`, more than
// 0, most likely first; returns the sum of their weights. Most texts need a few of very many: they
// are put in order in runs, those of at least 1/8, of at least 1/64, ...
double KeepLikeliest(double wanted, Candidates& candidates) {
  double kept = 0;
  size_t count = 0;
  float least = 1;
  for (auto ordered = candidates.begin(); ordered != candidates.end() && kept < wanted;) {
    least /= 8;
    const auto end = std::partition(
        ordered, candidates.end(), [&](const auto& candidate) { return candidate.first >= least; });
    std::sort(ordered, end, MoreLikely);
    for (; ordered != end && kept < wanted; ++ordered, ++count) kept += ordered->first;
  }
  candidates.resize(count);
  return kept;
}

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

Result<int32_t> MostLikely(std::span<const float> logits) {
  const int64_t best = FindLargest(logits);
  if (best < 0 || !std::isfinite(logits[best])) {
    return InvalidArgument("the model's logits are not finite numbers; --compute f32 may help");
  }
  return static_cast<int32_t>(best);
}

Result<int32_t> Sampler::Sample(std::span<const float> logits, std::span<const int32_t> recent) {
  if (options_.repeat_penalty != 1) {
    penalised_.assign(logits.begin(), logits.end());
    const size_t count = std::min<size_t>(recent.size(), options_.repeat_last_n);
    const std::span<const int32_t> last = recent.last(count);
    for (int32_t id : std::unordered_set<int32_t>(last.begin(), last.end())) {
      float& logit = penalised_[id];
      logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
    }
    logits = penalised_;
  }
  MLA_ASSIGN_OR_RETURN(const int32_t best, MostLikely(logits));
  const float max = logits[best];
  if (options_.temperature == 0) return best;

  constexpr int64_t kTask = 8192;  // some 50 microseconds
  const auto count = std::ssize(logits);
  weights_.resize(count);
  ParallelFor(threads_, CeilDiv(count, kTask), [&](int64_t task, int) {
    for (int64_t i = task * kTask; i < std::min((task + 1) * kTask, count); ++i) {
      weights_[i] = std::exp((logits[i] - max) / options_.temperature);
    }
  });
  candidates_.clear();
  for (int64_t i = 0; i < count; ++i) {
    if (weights_[i] > 0) candidates_.emplace_back(weights_[i], static_cast<int32_t>(i));
  }
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + options_.top_k - 1,
                     candidates_.end(), MoreLikely);
    candidates_.resize(options_.top_k);
  }
  double total = 0;
  for (const auto& candidate : candidates_) total += candidate.first;
  if (options_.top_p < 1) total = KeepLikeliest(options_.top_p * total, candidates_);
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
