// LongRoPE's two sets of frequencies, on both sides of the original context.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "model/golden.h"

namespace mla::test {
namespace {

class LongRopeTest : public ::testing::Test {
 protected:
  LongRopeTest() : model_(LoadModel(GoldenDir("minicpm3_longrope"))), ids_(140) {
    for (size_t i = 0; i < ids_.size(); ++i) ids_[i] = static_cast<int32_t>(7 + 31 * i % 290);
  }

  std::span<const int32_t> Ids(size_t count) const { return std::span(ids_).first(count); }

  // Logits of the last token of the first `count`, given in chunks that know of the whole or not.
  std::vector<float> Last(size_t count, size_t chunk, bool known) const {
    Runner runner(*model_, {});
    CachedSequence sequence(runner.cache.get());
    std::vector<float> logits;
    for (size_t begin = 0; begin < count; begin += chunk) {
      const SequenceInput input{&sequence,
                                Ids(count).subspan(begin, std::min(chunk, count - begin)),
                                known ? static_cast<int32_t>(count) : 0};
      logits = runner.Step(std::span(&input, 1));
    }
    return {logits.end() - model_->spec().vocab_size, logits.end()};
  }

  static double Difference(const std::vector<float>& a, const std::vector<float>& b) {
    double largest = 0;
    for (size_t i = 0; i < a.size(); ++i)
      largest = std::max(largest, std::abs(double{a[i]} - b[i]));
    return largest;
  }

  std::unique_ptr<Model> model_;
  std::vector<int32_t> ids_;
};

// A prompt beyond the original context turns by the long set from its first token on, however it is
// cut into chunks, if its length is known.
TEST_F(LongRopeTest, ChunksOfALongPromptTurnAlike) {
  const std::vector<float> whole = Last(140, 140, false);
  EXPECT_LT(Difference(Last(140, 50, true), whole), 1e-4);
  // The first two chunks would end within the original context.
  EXPECT_GT(Difference(Last(140, 50, false), whole), 1e-2);
}

TEST_F(LongRopeTest, TheOriginalContextIsTheLastShortLength) {
  const std::vector<float> whole = Last(128, 128, false);
  EXPECT_LT(Difference(Last(128, 50, false), whole), 1e-4);
  EXPECT_GT(Difference(Last(129, 50, false), Last(129, 129, false)), 1e-3);
}

// A sequence's frequencies are its own, whatever its company.
TEST_F(LongRopeTest, LongAndShortSequencesShareABatch) {
  Runner runner(*model_, {});
  CachedSequence a(runner.cache.get()), b(runner.cache.get());
  const SequenceInput inputs[] = {{&a, Ids(20)}, {&b, Ids(140)}};
  const std::vector<float> both = runner.Step(inputs);
  const auto vocab = static_cast<int64_t>(model_->spec().vocab_size);
  const std::vector<float> first(both.begin() + 19 * vocab, both.begin() + 20 * vocab);
  EXPECT_EQ(first, Last(20, 20, false));
  const std::vector<float> second(both.end() - vocab, both.end());
  EXPECT_EQ(second, Last(140, 140, false));
}

}  // namespace
}  // namespace mla::test
