// Models against the golden outputs, layer by layer, in every way of running them.
#include "model/golden.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace mla::test {
namespace {

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = LoadGolden(GoldenDir(GetParam()));
    model_ = LoadModel(GoldenDir(GetParam()));
  }

  int64_t vocab() const { return model_->spec().vocab_size; }
  std::string CompareLogits(std::span<const float> logits) const {
    return Compare(logits, golden_.logits, vocab(), kGoldenF32);
  }
  std::string CompareLogits(std::span<const float> logits, const SpreadTolerance& tolerance) const {
    const bool routed = std::any_of(
        model_->spec().layers.begin(), model_->spec().layers.end(), [](const LayerSpec& layer) {
          return layer.branch || std::holds_alternative<MoeSpec>(layer.mlp);
        });
    return CompareSpread(logits, golden_.logits, vocab(), routed, tolerance);
  }

  Golden golden_;
  std::unique_ptr<Model> model_;
};

constexpr AttentionForm kForms[] = {AttentionForm::kAuto, AttentionForm::kAbsorbed,
                                    AttentionForm::kExpanded, AttentionForm::kMha};

TEST_P(GoldenTest, LogitsAndEveryLayerMatchInF32) {
  const int64_t hidden_size = model_->spec().hidden_size;
  const int64_t layer_numbers = golden_.tokens() * hidden_size;
  for (const AttentionForm form : kForms) {
    SCOPED_TRACE(Concat("form ", static_cast<int>(form)));
    Runner runner(*model_, {.form = form});
    CachedSequence sequence(runner.cache.get());
    const SequenceInput input{&sequence, golden_.input_ids};
    size_t layers_seen = 0;
    const std::vector<float> logits =
        runner.Step(std::span(&input, 1), [&](size_t layer, const ConstTensor& hidden) {
          ++layers_seen;
          const std::span<const float> got(hidden.as<float>(), layer_numbers);
          const std::span<const float> want(golden_.hidden.data() + layer * layer_numbers,
                                            layer_numbers);
          EXPECT_EQ(Compare(got, want, hidden_size, kGoldenF32), "")
              << (layer == 0 ? std::string("the embedding")
                             : Concat("the output of layer ", layer - 1));
        });
    EXPECT_EQ(layers_seen, model_->spec().layers.size() + 1);
    EXPECT_EQ(CompareLogits(logits), "");
  }
}

TEST_P(GoldenTest, LogitsStayCloseInBf16) {
  for (const AttentionForm form : kForms) {
    SCOPED_TRACE(Concat("form ", static_cast<int>(form)));
    Runner runner(*model_, {.mode = ComputeMode::kBF16, .kv_dtype = DType::kBF16, .form = form});
    CachedSequence sequence(runner.cache.get());
    EXPECT_EQ(CompareLogits(runner.Step(sequence, golden_.input_ids), kGoldenBf16), "");
  }
}

TEST_P(GoldenTest, GreedyContinuationMatches) {
  Runner runner(*model_, {});
  CachedSequence sequence(runner.cache.get());
  const size_t prompt = golden_.greedy_ids.size() - golden_.greedy_margin.size();
  std::vector<float> logits =
      runner.Step(sequence, std::span<const int32_t>(golden_.greedy_ids).first(prompt));
  for (size_t i = prompt; i < golden_.greedy_ids.size(); ++i) {
    const auto last = logits.end() - vocab();
    const auto best = static_cast<int32_t>(std::max_element(last, logits.end()) - last);
    ASSERT_EQ(best, golden_.greedy_ids[i])
        << "token " << i << ", margin " << golden_.greedy_margin[i - prompt];
    logits = runner.Step(sequence, std::span(&best, 1));
  }
}

// Whole prefill, chunks and single tokens, over any page size.
TEST_P(GoldenTest, ChunksAndPageSizesDoNotMatter) {
  const std::span<const int32_t> ids = golden_.input_ids;
  for (const int32_t page_size : {1, 7, 64, 256}) {
    for (const size_t chunk : {size_t{1}, size_t{5}, size_t{40}}) {
      SCOPED_TRACE(Concat("page size ", page_size, ", chunk ", chunk));
      Runner runner(*model_, {.page_size = page_size});
      CachedSequence sequence(runner.cache.get());
      std::vector<float> logits;
      for (size_t begin = 0; begin < ids.size(); begin += chunk) {
        const std::vector<float> part =
            runner.Step(sequence, ids.subspan(begin, std::min(chunk, ids.size() - begin)));
        logits.insert(logits.end(), part.begin(), part.end());
      }
      EXPECT_EQ(CompareLogits(logits), "");
    }
  }
}

// Pages in random order, everything not written holding NaN, decode and prefill and a chunk after a
// cached prefix in one step; the result of a sequence does not depend on its company.
TEST_P(GoldenTest, MixedBatchesOverPoisonedShuffledPagesMatchSingleSequences) {
  for (const AttentionForm form : kForms) {
    SCOPED_TRACE(Concat("form ", static_cast<int>(form)));
    const Runner::Options options = {.form = form, .page_size = 5, .num_pages = 64};
    const std::span<const int32_t> ids = golden_.input_ids;
    // Cached length and new tokens of each sequence.
    const std::vector<std::pair<size_t, size_t>> plan = {
        {30, 1}, {0, 17}, {12, 9}, {71, 1}, {3, 4}};

    Runner batched(*model_, options);
    for (size_t layer = 0; layer < model_->spec().layers.size(); ++layer) {
      for (size_t c = 0; c < batched.cache->options().layers[layer].size(); ++c) {
        const Tensor pages = batched.cache->Component(layer, c);
        std::fill_n(pages.as<float>(), pages.num_elements(),
                    std::numeric_limits<float>::quiet_NaN());
      }
    }
    // Taking all pages in ones and giving them back in random order shuffles the pool.
    {
      std::vector<CachedSequence> holders;
      for (int i = 0; i < 64; ++i)
        ASSERT_TRUE(holders.emplace_back(batched.cache.get()).Extend(5).ok());
      std::shuffle(holders.begin(), holders.end(), std::mt19937(7));
      while (!holders.empty()) holders.pop_back();
    }
    std::vector<CachedSequence> sequences;
    std::vector<SequenceInput> inputs;
    sequences.reserve(plan.size());
    for (const auto& [cached, fresh] : plan) {
      CachedSequence& sequence = sequences.emplace_back(batched.cache.get());
      if (cached > 0) batched.Step(sequence, ids.first(cached));
      inputs.push_back({&sequence, ids.subspan(cached, fresh)});
    }
    const std::vector<float> together = batched.Step(inputs);

    const float* next = together.data();
    for (const auto& [cached, fresh] : plan) {
      SCOPED_TRACE(Concat(fresh, " tokens after ", cached));
      Runner alone(*model_, options);
      CachedSequence sequence(alone.cache.get());
      if (cached > 0) alone.Step(sequence, ids.first(cached));
      const std::vector<float> single = alone.Step(sequence, ids.subspan(cached, fresh));
      EXPECT_TRUE(std::equal(single.begin(), single.end(), next)) << "differs from running alone";
      const auto width = static_cast<size_t>(vocab());
      EXPECT_EQ(
          Compare(single,
                  std::span<const float>(golden_.logits).subspan(cached * width, fresh * width),
                  vocab(), kGoldenF32),
          "");
      next += single.size();
    }
  }
}

// The number of threads does not change a bit.
TEST_P(GoldenTest, ThreadsDoNotMatter) {
  std::vector<std::vector<float>> runs;
  for (const int threads : {1, 2, 3}) {
    Runner runner(*model_, {.threads = threads});
    CachedSequence sequence(runner.cache.get());
    runs.push_back(runner.Step(sequence, golden_.input_ids));
  }
  EXPECT_EQ(runs[0], runs[1]);
  EXPECT_EQ(runs[0], runs[2]);
}

TEST_P(GoldenTest, HalfPrecisionCachesStayClose) {
  Runner f16(*model_, {.kv_dtype = DType::kF16});
  CachedSequence f16_sequence(f16.cache.get());
  EXPECT_EQ(CompareLogits(f16.Step(f16_sequence, golden_.input_ids), kGoldenF16Cache), "");
  Runner bf16(*model_, {.kv_dtype = DType::kBF16});
  CachedSequence bf16_sequence(bf16.cache.get());
  EXPECT_EQ(CompareLogits(bf16.Step(bf16_sequence, golden_.input_ids), kGoldenBf16), "");
}

// Models with a latent; the others refuse (KvCache, CLI tests). Every form, on the general kernels.
TEST_P(GoldenTest, Int8CachesStayClose) {
  if (CacheSpecs(model_->spec())[0][0].kv_lora_rank == 0) {
    GTEST_SKIP() << "no latent is cached";
  }
  for (const AttentionForm form : {AttentionForm::kAbsorbed, AttentionForm::kExpanded}) {
    for (const ComputeMode mode : {ComputeMode::kF32, ComputeMode::kBF16}) {
      Runner int8(*model_, {.mode = mode, .kv_dtype = DType::kI8, .form = form});
      CachedSequence sequence(int8.cache.get());
      EXPECT_EQ(CompareLogits(int8.Step(sequence, golden_.input_ids), kGoldenInt8Cache), "")
          << ComputeModeName(mode);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         ::testing::Values("deepseek_v2_lite", "deepseek_v2", "deepseek_v3",
                                           "deepseek_v3_fp8", "deepseek_v3_norope_scaling",
                                           "deepseek_v3_rope_parameters", "deepseek_v32",
                                           "glm4_moe_lite", "glm_moe_dsa", "llama_gqa", "llama_mha",
                                           "llama_mqa", "longcat_flash", "minicpm3",
                                           "minicpm3_longrope", "mistral", "qwen2", "qwen3",
                                           "youtu"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace mla::test
