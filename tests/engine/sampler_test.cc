#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace mla {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Logits whose softmax at temperature 1 is `probabilities`.
std::vector<float> LogitsOf(const std::vector<float>& probabilities) {
  std::vector<float> logits;
  for (const float p : probabilities) logits.push_back(std::log(p));
  return logits;
}

std::map<int32_t, int> Draw(const SamplingOptions& options, const std::vector<float>& logits,
                            int times) {
  Sampler sampler(options);
  std::map<int32_t, int> counts;
  for (int i = 0; i < times; ++i) {
    const Result<int32_t> id = sampler.Sample(logits, {});
    EXPECT_TRUE(id.ok()) << id.message();
    if (id.ok()) ++counts[*id];
  }
  return counts;
}

std::set<int32_t> Drawn(const SamplingOptions& options, const std::vector<float>& logits) {
  std::set<int32_t> ids;
  for (const auto& [id, count] : Draw(options, logits, 2000)) ids.insert(id);
  return ids;
}

TEST(Sampler, GreedyTakesTheFirstOfTheBest) {
  const std::vector<float> logits = {1, 3, -2, 3, 3};
  EXPECT_EQ(Drawn({.temperature = 0}, logits), (std::set<int32_t>{1}));
}

TEST(Sampler, DrawsByProbability) {
  const std::vector<float> p = {0.5F, 0.3F, 0.15F, 0.05F};
  const int times = 20000;
  for (const auto& [id, count] : Draw({.seed = 5}, LogitsOf(p), times)) {
    // Four standard deviations of a binomial count.
    EXPECT_NEAR(count, times * p[id], 4 * std::sqrt(times * p[id] * (1 - p[id]))) << "id " << id;
  }
}

TEST(Sampler, TemperatureFlattens) {
  const std::vector<float> p = {0.8F, 0.2F};
  // At temperature 2 the odds of 4 become sqrt(4) = 2.
  const int times = 20000;
  std::map<int32_t, int> counts = Draw({.temperature = 2}, LogitsOf(p), times);
  EXPECT_NEAR(counts[0], times * 2.0 / 3, 4 * std::sqrt(times * 2.0 / 9));
}

TEST(Sampler, TopKKeepsTheBestAndBreaksTiesDownwards) {
  EXPECT_EQ(Drawn({.top_k = 1}, {0, 2, 1}), (std::set<int32_t>{1}));
  EXPECT_EQ(Drawn({.top_k = 2}, {0, 2, 1}), (std::set<int32_t>{1, 2}));
  EXPECT_EQ(Drawn({.top_k = 2}, {1, 1, 1, 1}), (std::set<int32_t>{0, 1}));
  EXPECT_EQ(Drawn({.top_k = 9}, {1, 1, 1}), (std::set<int32_t>{0, 1, 2}));
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  const std::vector<float> logits = LogitsOf({0.2F, 0.5F, 0.3F});
  EXPECT_EQ(Drawn({.top_p = 0.4F}, logits), (std::set<int32_t>{1}));
  EXPECT_EQ(Drawn({.top_p = 0.6F}, logits), (std::set<int32_t>{1, 2}));
  EXPECT_EQ(Drawn({.top_p = 0.9F}, logits), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(Drawn({.top_p = 1e-6F}, logits), (std::set<int32_t>{1}));
}

// Very many tokens, few and nearly all of them kept: the runs in which they are put in order must
// not show. The draw is repeated here from a full sort.
TEST(Sampler, TopPOfManyTokensDrawsAsFromAFullSort) {
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  for (const float spread : {0.01F, 1.0F, 6.0F}) {
    std::vector<float> logits(20000);
    for (float& x : logits) x = std::round(normal(random) * 16) / 16 * spread;  // with ties
    const float max = *std::max_element(logits.begin(), logits.end());
    std::vector<std::pair<float, int32_t>> order;
    double total = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      order.emplace_back(-std::exp(logits[i] - max), static_cast<int32_t>(i));
      total -= order.back().first;
    }
    std::sort(order.begin(), order.end());
    const SamplingOptions options{.top_p = 0.9F, .seed = 11};
    size_t count = 0;
    double kept = 0;
    while (kept < options.top_p * total) kept -= order[count++].first;
    ThreadPool threads(2);
    Sampler sampler(options), on_threads(options, &threads);
    std::mt19937_64 draws(options.seed);
    for (int i = 0; i < 50; ++i) {
      double draw = static_cast<double>(draws() >> 11) * 0x1p-53 * kept;
      size_t at = 0;
      while (at + 1 < count && (draw += order[at].first) >= 0) ++at;
      const Result<int32_t> id = sampler.Sample(logits, {});
      ASSERT_TRUE(id.ok()) << id.message();
      EXPECT_EQ(*id, order[at].second) << "spread " << spread << ", draw " << i;
      EXPECT_EQ(*on_threads.Sample(logits, {}), *id);
    }
  }
}

TEST(Sampler, GreedyLooksAtEveryLogit) {
  for (const size_t count : {1, 15, 16, 17, 100}) {
    for (size_t best = 0; best < count; ++best) {
      std::vector<float> logits(count, -2);
      logits[best] = -1;
      if (best + 1 < count) logits[best + 1] = -1;
      const Result<int32_t> id = Sampler({.temperature = 0}).Sample(logits, {});
      ASSERT_TRUE(id.ok()) << id.message();
      EXPECT_EQ(*id, static_cast<int32_t>(best));
      logits[best] = kNaN;
      EXPECT_FALSE(Sampler({.temperature = 0}).Sample(logits, {}).ok());
    }
  }
}

TEST(Sampler, MinPKeepsWhatIsNearTheBest) {
  const std::vector<float> logits = LogitsOf({0.5F, 0.3F, 0.2F});  // 1, 0.6, 0.4 of the best
  EXPECT_EQ(Drawn({.min_p = 0.3F}, logits), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(Drawn({.min_p = 0.5F}, logits), (std::set<int32_t>{0, 1}));
  EXPECT_EQ(Drawn({.min_p = 1}, logits), (std::set<int32_t>{0}));
}

TEST(Sampler, RepeatPenaltyLowersRecentTokensOfEitherSign) {
  SamplingOptions options{.temperature = 0, .repeat_penalty = 2};
  const std::vector<int32_t> recent = {0, 0};
  // 3 / 2 is less than 2; counted once however often it occurred, else 3 / 4 would lose to 1 too.
  EXPECT_EQ(*Sampler(options).Sample(std::vector<float>{3, 2, 1}, recent), 1);
  EXPECT_EQ(*Sampler(options).Sample(std::vector<float>{3, 1, 1}, recent), 0);
  // -1 * 2 is less than -1.5.
  EXPECT_EQ(*Sampler(options).Sample(std::vector<float>{-1, -1.5F, -3}, recent), 1);
}

TEST(Sampler, RepeatPenaltyLooksAtTheLastTokensOnly) {
  SamplingOptions options{.temperature = 0, .repeat_penalty = 10, .repeat_last_n = 1};
  const std::vector<int32_t> recent = {0, 2};
  EXPECT_EQ(*Sampler(options).Sample(std::vector<float>{3, 2, 4}, recent), 0);
  options.repeat_last_n = 2;
  EXPECT_EQ(*Sampler(options).Sample(std::vector<float>{3, 2, 4}, recent), 1);
}

TEST(Sampler, SeedDecides) {
  const std::vector<float> logits(1000, 0.F);
  const auto sequence = [&](uint64_t seed) {
    Sampler sampler({.seed = seed});
    std::vector<int32_t> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(*sampler.Sample(logits, {}));
    return ids;
  };
  EXPECT_EQ(sequence(7), sequence(7));
  EXPECT_NE(sequence(7), sequence(8));
}

TEST(Sampler, LogitsThatAreNoNumbersAreAnError) {
  for (const float temperature : {0.F, 1.F}) {
    const SamplingOptions options{.temperature = temperature};
    for (const std::vector<float>& logits :
         {std::vector<float>{kNaN, 1}, {1, kNaN}, {1, kInf}, {-kInf, -kInf}, {}}) {
      const Result<int32_t> id = Sampler(options).Sample(logits, {});
      ASSERT_FALSE(id.ok());
      EXPECT_EQ(id.error().code, ErrorCode::kInvalidArgument);
      EXPECT_EQ(MostLikely(logits).message(), id.message());
    }
  }
  EXPECT_EQ(*MostLikely(std::vector<float>{-kInf, 2, 3, 3}), 2);
  // A token ruled out by the model is never drawn, and no error.
  EXPECT_EQ(Drawn({}, {-kInf, 0, 0}), (std::set<int32_t>{1, 2}));
}

TEST(Sampler, OptionsOutOfRangeAreNamed) {
  const std::pair<SamplingOptions, const char*> cases[] = {
      {{.temperature = -1}, "temperature is -1"},
      {{.temperature = kNaN}, "temperature is nan"},
      {{.temperature = 101}, "temperature is 101"},
      {{.top_k = -5}, "top-k is -5"},
      {{.top_p = 0}, "top-p is 0"},
      {{.top_p = 1.5F}, "top-p is 1.5"},
      {{.min_p = 2}, "min-p is 2"},
      {{.repeat_penalty = 0}, "repeat-penalty is 0"},
      {{.repeat_last_n = -1}, "repeat-last-n is -1"},
  };
  for (const auto& [options, message] : cases) {
    const Status status = Validate(options);
    ASSERT_FALSE(status.ok()) << message;
    EXPECT_NE(status.message().find(message), std::string_view::npos) << status.message();
  }
  EXPECT_TRUE(Validate({}).ok());
}

}  // namespace
}  // namespace mla
