// Models made of a configuration and random weights alone.
#include "model/random_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "engine/session.h"
#include "io/config.h"
#include "model/families/registry.h"
#include "model/golden.h"
#include "model/model.h"

namespace mla::test {
namespace {

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(MLA_SOURCE_DIR "/tests/golden")) {
    if (entry.is_directory()) names.push_back(entry.path().filename());
  }
  return names;
}

ModelSpec SpecOf(const std::string& name) {
  Result<nlohmann::json> config = ReadConfigFile(GoldenDir(name));
  EXPECT_TRUE(config.ok());
  config->erase("quantization_config");
  Result<ModelSpec> spec = ReadModelSpec(*config);
  EXPECT_TRUE(spec.ok()) << spec.message();
  return *std::move(spec);
}

bool SameBytes(const Checkpoint& a, const Checkpoint& b) {
  if (a.tensors().size() != b.tensors().size()) return false;
  for (size_t i = 0; i < a.tensors().size(); ++i) {
    const StoredTensor &x = *a.tensors()[i], &y = *b.tensors()[i];
    if (x.name != y.name || x.data.size() != y.data.size()) return false;
    if (std::memcmp(x.data.data(), y.data.data(), x.data.size()) != 0) return false;
  }
  return true;
}

// Every family, with each type of weights: loaded by the usual path, run, and finite.
TEST(RandomWeights, EveryFamilyRuns) {
  for (const std::string& name : GoldenNames()) {
    for (const StoredDType dtype :
         {StoredDType::kBF16, StoredDType::kF16, StoredDType::kF32, StoredDType::kF8E4M3}) {
      SCOPED_TRACE(name + " " + std::string(StoredDTypeName(dtype)));
      ModelSpec spec = SpecOf(name);
      Result<Checkpoint> checkpoint = MakeRandomCheckpoint(spec, {.dtype = dtype});
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.message();
      Result<std::unique_ptr<Model>> model = Model::Create(spec, *std::move(checkpoint));
      ASSERT_TRUE(model.ok()) << model.message();
      Result<std::unique_ptr<Session>> session = Session::Create(**model, {.threads = 1});
      ASSERT_TRUE(session.ok()) << session.message();
      const std::vector<int32_t> ids = {1, 5, 9, 2, 7};
      ASSERT_TRUE((*session)->AppendRandomRows(20, 3).ok());
      EXPECT_EQ((*session)->length(), 20);
      const Status status = (*session)->Append(ids);
      ASSERT_TRUE(status.ok()) << status.message();
      float most = 0;
      for (const float x : (*session)->logits()) {
        ASSERT_TRUE(std::isfinite(x));
        most = std::max(most, std::fabs(x));
      }
      EXPECT_GT(most, 0.01F);
      EXPECT_LT(most, 100.0F);
    }
  }
}

TEST(RandomWeights, DependOnSeedAndNotOnThreads) {
  const ModelSpec spec = SpecOf("deepseek_v3");
  ThreadPool threads(3);
  const Result<Checkpoint> one = MakeRandomCheckpoint(spec, {.seed = 1});
  const Result<Checkpoint> again = MakeRandomCheckpoint(spec, {.seed = 1, .threads = &threads});
  const Result<Checkpoint> other = MakeRandomCheckpoint(spec, {.seed = 2});
  ASSERT_TRUE(one.ok() && again.ok() && other.ok());
  EXPECT_TRUE(SameBytes(*one, *again));
  EXPECT_FALSE(SameBytes(*one, *other));
}

TEST(RandomWeights, MatricesHaveTheVarianceOfTheirWidth) {
  const ModelSpec spec = SpecOf("deepseek_v3");
  const Result<Checkpoint> checkpoint = MakeRandomCheckpoint(spec, {});
  ASSERT_TRUE(checkpoint.ok());
  const StoredTensor* w = checkpoint->Find("model.embed_tokens.weight");
  ASSERT_NE(w, nullptr);
  const int64_t n = NumElements(*w);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, w->data.data() + 2 * i, 2);
    const double x = Bf16ToF32(bits);
    sum += x;
    squares += x * x;
  }
  const double variance = 1.0 / static_cast<double>(w->shape[1]);
  EXPECT_NEAR(sum / static_cast<double>(n), 0, 0.05 * std::sqrt(variance));
  EXPECT_NEAR(squares / static_cast<double>(n), variance, 0.05 * variance);
}

TEST(RandomWeights, RefusesWhatDoesNotFit) {
  const ModelSpec spec = SpecOf("deepseek_v3");
  const Result<Checkpoint> large = MakeRandomCheckpoint(spec, {.max_bytes = 1000});
  ASSERT_FALSE(large.ok());
  EXPECT_EQ(large.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(large.message().find("GB are available"), std::string::npos) << large.message();
  const Result<Checkpoint> integers = MakeRandomCheckpoint(spec, {.dtype = StoredDType::kI32});
  ASSERT_FALSE(integers.ok());
  EXPECT_EQ(integers.error().code, ErrorCode::kUnsupported);
}

TEST(RandomWeights, KeysThatAFamilyReadsAreKnown) {
  const Result<nlohmann::json> config = ReadConfigFile(GoldenDir("deepseek_v3"));
  ASSERT_TRUE(config.ok());
  std::set<std::string> asked;
  ASSERT_TRUE(ReadModelSpec(*config, &asked).ok());
  for (const char* key : {"num_hidden_layers", "kv_lora_rank", "q_lora_rank", "rope_scaling"}) {
    EXPECT_TRUE(asked.contains(key)) << key;
  }
  EXPECT_FALSE(asked.contains("num_hiden_layers"));
  const nlohmann::json outer = {{"model_type", "a_multimodal_one"}, {"text_config", *config}};
  asked.clear();
  ASSERT_TRUE(ReadModelSpec(outer, &asked).ok());
  EXPECT_TRUE(asked.contains("text_config.num_hidden_layers"));
}

}  // namespace
}  // namespace mla::test
