// Trained models from text to text: the bundled one, and llama2.c's stories15M where it is at hand.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/generate.h"
#include "engine/perplexity.h"
#include "engine/session.h"
#include "io/tokenizer/tokenizer.h"
#include "model/golden.h"

namespace mla::test {
namespace {

using nlohmann::json;

// The one table of what trained models must reach.
constexpr double kLastLogits = 1e-3;  // absolute, f32
constexpr double kNllRelativeF32 = 1e-3;
constexpr double kPerplexityRelativeF32 = 1e-3;
constexpr double kPerplexityRelativeBf16 = 1e-2;

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

struct Story {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  json expected;
};

Story LoadStory(const std::string& dir, const std::string& expected) {
  Result<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(dir);
  if (!tokenizer.ok()) {
    ADD_FAILURE() << tokenizer.message();
    std::abort();
  }
  return {LoadModel(dir), *std::move(tokenizer), json::parse(ReadText(expected))};
}

std::unique_ptr<Session> NewSession(const Model& model, ComputeMode mode) {
  SessionOptions options;
  options.compute = mode;
  options.threads = 2;
  Result<std::unique_ptr<Session>> session = Session::Create(model, options);
  if (!session.ok()) {
    ADD_FAILURE() << session.message();
    std::abort();
  }
  return *std::move(session);
}

// The prompt's ids are those of the tokenizer, and greedy generation continues them as expected.
void ExpectGreedy(const Story& story) {
  const std::vector<int32_t> input = story.expected["input_ids"];
  const std::vector<int32_t> want = story.expected["greedy_ids"];
  const auto encoded = story.tokenizer->Encode(story.expected["prompt"].get<std::string>());
  ASSERT_TRUE(encoded.ok()) << encoded.message();
  EXPECT_EQ(*encoded, input);
  const auto session = NewSession(*story.model, ComputeMode::kF32);
  std::vector<int32_t> got = input;
  GenerateOptions options;
  options.sampling.temperature = 0;
  options.max_tokens = static_cast<int32_t>(want.size() - input.size());
  const auto stats = Generate(*session, {}, input, options,
                              {[&](int32_t id) {
                                 got.push_back(id);
                                 return true;
                               },
                               nullptr});
  ASSERT_TRUE(stats.ok()) << stats.message();
  EXPECT_EQ(got, want);
}

std::vector<std::string> Pieces(const std::string& text, bool drop_last) {
  const std::string separator = "<|endoftext|>";
  std::vector<std::string> pieces;
  size_t begin = 0;
  for (size_t end; begin <= text.size(); begin = end + separator.size()) {
    end = std::min(text.find(separator, begin), text.size());
    std::string piece = text.substr(begin, end - begin);
    const auto space = [](unsigned char c) { return std::isspace(c) != 0; };
    piece.erase(piece.begin(), std::find_if_not(piece.begin(), piece.end(), space));
    piece.erase(std::find_if_not(piece.rbegin(), piece.rend(), space).base(), piece.end());
    pieces.push_back(piece);
    if (end == text.size()) break;
  }
  if (drop_last) pieces.pop_back();
  std::erase(pieces, "");
  return pieces;
}

NllSum Score(const Story& story, const std::vector<std::string>& pieces, bool eos,
             ComputeMode mode) {
  const auto session = NewSession(*story.model, mode);
  NllSum sum;
  for (const std::string& piece : pieces) {
    Result<std::vector<int32_t>> ids = story.tokenizer->Encode(piece);
    EXPECT_TRUE(ids.ok()) << ids.message();
    if (eos) ids->push_back(story.model->spec().eos_ids.at(0));
    if (ids->size() > static_cast<size_t>(session->context())) ids->resize(session->context());
    const Status status = AddNll(*session, *ids, sum);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return sum;
}

Story Bundled() {
  return LoadStory(MLA_SOURCE_DIR "/models/stories-mla-9m",
                   MLA_SOURCE_DIR "/tests/data/stories-mla-9m.expected.json");
}

TEST(BundledModel, GreedyContinuationMatches) { ExpectGreedy(Bundled()); }

TEST(BundledModel, LogitsOfTheLastTokenMatch) {
  const Story story = Bundled();
  const std::vector<int32_t> ids = story.expected["greedy_ids"];
  const std::vector<float> want = story.expected["last_logits_fp32"];
  const std::vector<int32_t> input = story.expected["input_ids"];
  const auto session = NewSession(*story.model, ComputeMode::kF32);
  ASSERT_TRUE(session->Append(input).ok());
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::abs(double{session->logits()[i]} - want[i]));
  }
  EXPECT_LE(worst, kLastLogits);
}

TEST(BundledModel, PerplexityMatches) {
  const Story story = Bundled();
  const std::string text = ReadText(MLA_SOURCE_DIR "/tests/data/stories-mla-9m.validation.txt");
  const double want = story.expected["validation_ppl_fp32"];
  for (const ComputeMode mode : {ComputeMode::kF32, ComputeMode::kBF16}) {
    const NllSum sum = Score(story, Pieces(text, false), true, mode);
    EXPECT_EQ(sum.tokens, story.expected["validation_tokens"].get<int64_t>());
    EXPECT_NEAR(sum.perplexity() / want, 1,
                mode == ComputeMode::kF32 ? kPerplexityRelativeF32 : kPerplexityRelativeBf16)
        << ComputeModeName(mode);
  }
}

// The cache holds kv_lora_rank + qk_rope_head_dim numbers per token per layer, measured.
TEST(BundledModel, CachedBytesAreThoseOfTheLatent) {
  const Story story = Bundled();
  const std::vector<int32_t> ids = story.expected["greedy_ids"];
  const auto session = NewSession(*story.model, ComputeMode::kBF16);
  ASSERT_TRUE(session->Append(ids).ok());
  const auto tokens = static_cast<int64_t>(ids.size());
  EXPECT_EQ(session->cache_bytes(), tokens * 6 * (64 + 16) * 2);
  const int64_t pages = (tokens + 63) / 64;
  EXPECT_EQ(session->cache().bytes_in_use(), pages * 64 * 6 * (64 + 16) * 2);
  // Nothing else is kept: one component per layer, of that row.
  for (const LayerCacheSpec& layer : session->cache().options().layers) {
    ASSERT_EQ(layer.size(), 1U);
    EXPECT_EQ(layer[0].row, 64 + 16);
  }
}

// stories15M is not part of the repository.
std::string SharedDir() {
  const char* shared = std::getenv("MLA_SHARED");
  return shared != nullptr ? shared : MLA_SOURCE_DIR "/../shared";
}

TEST(Stories15M, GreedyContinuationAndNllMatch) {
  const std::string dir = SharedDir() + "/models/stories15m";
  if (!std::filesystem::exists(dir)) {
    GTEST_SKIP() << "no stories15m in " << dir << "; set MLA_SHARED to the folder that holds it";
  }
  const Story story = LoadStory(dir, dir + "/expected.json");
  ExpectGreedy(story);
  const std::string text =
      ReadText(SharedDir() + "/text/" + story.expected["text_file"].get<std::string>());
  const NllSum sum = Score(story, Pieces(text.substr(0, 40000), true), false, ComputeMode::kF32);
  EXPECT_EQ(sum.tokens, story.expected["tokens"].get<int64_t>());
  EXPECT_NEAR(sum.per_token() / story.expected["nll_per_token"].get<double>(), 1, kNllRelativeF32);
}

}  // namespace
}  // namespace mla::test
