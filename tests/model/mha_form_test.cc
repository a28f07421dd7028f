// MLA models run as plain MHA, all keys and values cached, against the golden outputs.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/golden.h"

namespace mla::test {
namespace {

TEST(MhaForm, MatchesTheGoldenLogitsFromACacheOfFullHeads) {
  for (const std::string name : {"deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "minicpm3",
                                 "deepseek_v32", "glm_moe_dsa"}) {
    SCOPED_TRACE(name);
    const Golden golden = LoadGolden(GoldenDir(name));
    const Result<std::unique_ptr<Model>> loaded = Model::Load(GoldenDir(name));
    ASSERT_TRUE(loaded.ok()) << loaded.message();
    const Model& model = **loaded;
    Runner runner(model, {.form = AttentionForm::kMha});
    // A layer that chooses tokens keeps the keys it chooses by.
    int64_t index_keys = 0;
    for (const LayerSpec& layer : model.spec().layers) {
      const auto& indexer = std::get<MlaSpec>(layer.attention).indexer;
      if (indexer && !indexer->reuse) index_keys += indexer->head_dim;
    }
    EXPECT_EQ(index_keys > 0, name == "deepseek_v32" || name == "glm_moe_dsa");
    EXPECT_EQ(runner.cache->bytes_per_token(), 4 * (CompareCaches(model.spec()).mha + index_keys));
    CachedSequence sequence(runner.cache.get());
    const std::span<const int32_t> ids = golden.input_ids;
    std::vector<float> logits = runner.Step(sequence, ids.first(40));
    for (size_t i = 40; i < ids.size(); ++i) {  // and token by token, from the cache
      const std::vector<float> next = runner.Step(sequence, ids.subspan(i, 1));
      logits.insert(logits.end(), next.begin(), next.end());
    }
    EXPECT_EQ(Compare(logits, golden.logits, model.spec().vocab_size, kGoldenF32), "");
  }
}

}  // namespace
}  // namespace mla::test
