// Session, Generate and AddNll on the bundled model.
#include "engine/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "engine/generate.h"
#include "engine/perplexity.h"

namespace mla {
namespace {

const Model& BundledModel() {
  static const Model* model = [] {
    auto loaded = Model::Load(MLA_SOURCE_DIR "/models/stories-mla-9m");
    EXPECT_TRUE(loaded.ok()) << loaded.message();
    return loaded.ok() ? std::move(*loaded).release() : nullptr;
  }();
  return *model;
}

std::unique_ptr<Session> NewSession(SessionOptions options = {}) {
  options.compute = ComputeMode::kF32;
  if (options.threads == 0) options.threads = 2;
  auto session = Session::Create(BundledModel(), options);
  EXPECT_TRUE(session.ok()) << session.message();
  return std::move(*session);
}

std::unique_ptr<Session> NewPagedSession(int32_t page_size) {
  SessionOptions options;
  options.page_size = page_size;
  return NewSession(options);
}

constexpr int32_t kChunk = 512;
std::unique_ptr<Session> NewChunkedSession() {
  SessionOptions options;
  options.prefill_chunk = kChunk;
  return NewSession(options);
}

std::unique_ptr<Session> NewShortSession(int32_t context) {
  SessionOptions options;
  options.context = context;
  return NewSession(options);
}

std::vector<int32_t> Ids(int count) {
  std::vector<int32_t> ids = {0};
  while (std::ssize(ids) < count) ids.push_back(3 + (ids.back() * 37 + 11) % 4000);
  return ids;
}

std::vector<float> Copy(std::span<const float> values) { return {values.begin(), values.end()}; }

double MaxDifference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double max = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    max = std::max(max, std::abs(double{a[i]} - b[i]));
  }
  return max;
}

int32_t Argmax(std::span<const float> values) {
  return static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

// fp32 sums in another order: far below what moves a token, far above what a wrong mask makes.
constexpr double kTolerance = 2e-3;

TEST(Session, ChunksGiveTheLogitsOfTheWhole) {
  const std::vector<int32_t> ids = Ids(60);
  const auto whole = NewSession();
  ASSERT_TRUE(whole->Append(ids).ok());
  const size_t chunks[][4] = {{1, 1, 1, 57}, {30, 30, 0, 0}, {59, 1, 0, 0}, {7, 20, 32, 1}};
  for (const auto& sizes : chunks) {
    const auto session = NewPagedSession(16);
    size_t done = 0;
    for (const size_t size : sizes) {
      ASSERT_TRUE(session->Append(std::span(ids).subspan(done, size)).ok());
      done += size;
    }
    EXPECT_EQ(session->length(), 60);
    EXPECT_LT(MaxDifference(session->logits(), whole->logits()), kTolerance);
  }
}

TEST(Session, PromptsLongerThanAStepAreChunked) {
  const std::vector<int32_t> ids = Ids(kChunk + 20);
  const auto session = NewChunkedSession();
  std::vector<int32_t> progress;
  const Status appended = session->Append(ids, [&](int32_t done) {
    progress.push_back(done);
    return true;
  });
  ASSERT_TRUE(appended.ok()) << appended.message();
  const auto layers = static_cast<int32_t>(session->model().spec().layers.size());
  std::vector<int32_t> want;
  for (int32_t i = 1; i <= layers; ++i) want.push_back(kChunk * i / layers);
  for (int32_t i = 1; i <= layers; ++i) want.push_back(kChunk + 20 * i / layers);
  EXPECT_EQ(progress, want);
  const auto halves = NewSession();
  ASSERT_TRUE(halves->Append(std::span(ids).first(ids.size() / 2)).ok());
  ASSERT_TRUE(halves->Append(std::span(ids).subspan(ids.size() / 2)).ok());
  EXPECT_LT(MaxDifference(session->logits(), halves->logits()), kTolerance);
}

TEST(Session, StoppingWithinAPromptKeepsTheTokensBefore) {
  const auto session = NewChunkedSession();
  ASSERT_TRUE(session->Append(Ids(5)).ok());
  const Status stopped = session->Append(Ids(kChunk + 20), [](int32_t) { return false; });
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(session->length(), 5);
  EXPECT_TRUE(session->logits().empty());

  GenerateOptions options;
  options.max_tokens = 3;
  const auto stats = Generate(*session, {}, Ids(kChunk + 20), options,
                              {[](int32_t) { return true; }, [](int32_t) { return false; }});
  ASSERT_TRUE(stats.ok()) << stats.message();
  EXPECT_EQ(stats->stop_reason, StopReason::kCancelled);
  const auto layers = static_cast<int32_t>(session->model().spec().layers.size());
  EXPECT_EQ(stats->prompt_tokens, kChunk / layers);  // those that were run
  EXPECT_GT(stats->prefill_seconds, 0);
  EXPECT_EQ(stats->generated_tokens, 0);
  EXPECT_EQ(session->length(), 5);
}

TEST(Session, ErrorsKeepTheTokensBefore) {
  const auto session = NewShortSession(16);
  ASSERT_TRUE(session->Append(Ids(5)).ok());
  const std::vector<float> logits = Copy(session->logits());
  // What does not fit changes nothing.
  EXPECT_EQ(session->Append(Ids(12)).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(session->Score(Ids(12), [](const ConstTensor&) { return Status(); }).error().code,
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(session->length(), 5);
  EXPECT_EQ(Copy(session->logits()), logits);
  // What fails on the way leaves no logits, of the tokens before or of others.
  const int32_t vocab = BundledModel().spec().vocab_size;
  EXPECT_FALSE(session->Append(std::vector<int32_t>{1, vocab}).ok());
  EXPECT_EQ(session->length(), 5);
  EXPECT_TRUE(session->logits().empty());
  const Status scored = session->Score(
      Ids(3), [](const ConstTensor&) -> Status { return InvalidArgument("not wanted"); });
  EXPECT_EQ(scored.message(), "not wanted");
  EXPECT_EQ(session->length(), 5);
}

TEST(Session, TruncateForgetsExactlyWhatFollows) {
  const std::vector<int32_t> ids = Ids(50);
  const auto session = NewPagedSession(8);
  ASSERT_TRUE(session->Append(std::span(ids).first(20)).ok());
  ASSERT_TRUE(session->Append(std::span(ids).subspan(20)).ok());
  const std::vector<float> before = Copy(session->logits());
  session->Truncate(35);
  ASSERT_TRUE(session->Append(Ids(9)).ok());  // other tokens, to be forgotten too
  session->Truncate(20);
  EXPECT_EQ(session->length(), 20);
  EXPECT_TRUE(session->logits().empty());
  ASSERT_TRUE(session->Append(std::span(ids).subspan(20)).ok());
  EXPECT_EQ(Copy(session->logits()), before);
}

TEST(Session, ScoreGivesTheLogitsOfEveryToken) {
  const std::vector<int32_t> ids = Ids(12);
  const auto session = NewSession();
  std::vector<std::vector<float>> rows;
  const Status status = session->Score(ids, [&](const ConstTensor& logits) -> Status {
    for (int64_t i = 0; i < logits.dim(0); ++i) {
      const float* row = logits.as<float>() + i * logits.stride(0);
      rows.emplace_back(row, row + logits.dim(1));
    }
    return {};
  });
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_EQ(rows.size(), ids.size());
  const auto step = NewSession();
  for (size_t i = 0; i < ids.size(); ++i) {
    ASSERT_TRUE(step->Append(std::span(ids).subspan(i, 1)).ok());
    EXPECT_LT(MaxDifference(rows[i], step->logits()), kTolerance) << "token " << i;
  }
}

TEST(Session, ErrorsLeaveItAsItWas) {
  const auto session = NewShortSession(16);
  const std::vector<int32_t> ids = Ids(10);
  ASSERT_TRUE(session->Append(ids).ok());
  const std::vector<float> logits = Copy(session->logits());

  const Status full = session->Append(Ids(7));
  ASSERT_FALSE(full.ok());
  EXPECT_NE(full.message().find("context is 16 and holds 10"), std::string_view::npos)
      << full.message();
  const Status unknown = session->Append(std::vector<int32_t>{5, 4096});
  ASSERT_FALSE(unknown.ok());
  EXPECT_NE(unknown.message().find("4096"), std::string_view::npos) << unknown.message();
  EXPECT_FALSE(session->Append(std::vector<int32_t>{-1}).ok());
  const Status sink = session->Score(
      std::vector<int32_t>{5}, [](const ConstTensor&) -> Status { return IoError("no room"); });
  EXPECT_EQ(sink.message(), "no room");

  EXPECT_EQ(session->length(), 10);
  session->Truncate(9);
  ASSERT_TRUE(session->Append(std::span(ids).last(1)).ok());
  EXPECT_LT(MaxDifference(session->logits(), logits), kTolerance);
  EXPECT_TRUE(session->Append(Ids(6)).ok());  // exactly full
  EXPECT_EQ(session->length(), 16);
}

TEST(Session, OptionsOutOfRangeAreNamed) {
  struct Case {
    int32_t SessionOptions::*option;
    int32_t value;
  };
  const Case cases[] = {{&SessionOptions::context, 1025},   {&SessionOptions::context, -1},
                        {&SessionOptions::page_size, 0},    {&SessionOptions::page_size, 257},
                        {&SessionOptions::threads, 100000}, {&SessionOptions::threads, -2}};
  for (const Case& test : cases) {
    SessionOptions options;
    options.*test.option = test.value;
    const std::string value = std::to_string(test.value);
    const auto session = Session::Create(BundledModel(), options);
    ASSERT_FALSE(session.ok()) << value;
    EXPECT_NE(session.message().find(value), std::string_view::npos) << session.message();
  }
}

TEST(Session, CacheHoldsTheLatentAndNothingElse) {
  // 6 layers of kv_lora_rank 64 + qk_rope_head_dim 16.
  SessionOptions options;
  options.kv_dtype = DType::kBF16;
  const auto session = NewSession(options);
  ASSERT_TRUE(session->Append(Ids(100)).ok());
  EXPECT_EQ(session->cache_bytes(), 100 * 6 * (64 + 16) * 2);
  EXPECT_EQ(CompareCaches(BundledModel().spec()).mha, 6 * 8 * (32 + 16 + 32));
}

GenerateOptions Greedy(int32_t max_tokens) {
  GenerateOptions options;
  options.max_tokens = max_tokens;
  options.sampling.temperature = 0;
  return options;
}

struct Generated {
  GenerateStats stats;
  std::vector<int32_t> ids;
};
Generated GenerateIds(Session& session, const std::vector<int32_t>& prompt,
                      const GenerateOptions& options, size_t cancel_after = SIZE_MAX) {
  Generated generated;
  GenerateCallbacks callbacks;
  callbacks.on_token = [&](int32_t id) {
    generated.ids.push_back(id);
    return generated.ids.size() < cancel_after;
  };
  const auto stats = Generate(session, {}, prompt, options, callbacks);
  EXPECT_TRUE(stats.ok()) << stats.message();
  if (stats.ok()) generated.stats = *stats;
  return generated;
}

TEST(Generate, IsRepeatedAppendOfTheLikeliest) {
  const std::vector<int32_t> prompt = {0, 393, 394, 261};
  const auto session = NewSession();
  const Generated generated = GenerateIds(*session, prompt, Greedy(12));
  const auto step = NewSession();
  ASSERT_TRUE(step->Append(prompt).ok());
  for (const int32_t id : generated.ids) {
    EXPECT_EQ(id, Argmax(step->logits()));
    ASSERT_TRUE(step->Append({&id, 1}).ok());
  }
  EXPECT_EQ(generated.stats.prompt_tokens, 4);
  EXPECT_EQ(generated.stats.generated_tokens, 12);
  EXPECT_EQ(generated.stats.decode_steps, 11);  // the last token need not run
  EXPECT_EQ(generated.stats.stop_reason, StopReason::kMaxTokens);
  EXPECT_EQ(session->length(), 15);
}

TEST(Generate, StopsAtEndCancelAndContext) {
  const std::vector<int32_t> prompt = {0, 393, 394, 261};
  const auto session = NewShortSession(10);
  const Generated full = GenerateIds(*session, prompt, Greedy(-1));
  EXPECT_EQ(full.stats.stop_reason, StopReason::kContextFull);
  EXPECT_EQ(session->length(), 10);
  ASSERT_EQ(full.ids.size(), 7U);  // the seventh is known though there is no room to run it

  session->Truncate(0);
  const Generated cancelled = GenerateIds(*session, prompt, Greedy(-1), 2);
  EXPECT_EQ(cancelled.stats.stop_reason, StopReason::kCancelled);
  EXPECT_EQ(cancelled.ids, (std::vector<int32_t>{full.ids[0], full.ids[1]}));

  session->Truncate(0);
  GenerateOptions stopping = Greedy(-1);
  stopping.stop_ids = {4000, full.ids[2]};
  const Generated stopped = GenerateIds(*session, prompt, stopping);
  EXPECT_EQ(stopped.stats.stop_reason, StopReason::kEndOfSequence);
  EXPECT_EQ(stopped.ids, (std::vector<int32_t>{full.ids[0], full.ids[1]}));
  EXPECT_EQ(session->length(), 6);  // all that was handed out is in the cache
}

TEST(Generate, RefusesWhatItCannotRun) {
  const auto session = NewShortSession(8);
  const GenerateCallbacks callbacks{[](int32_t) { return true; }, nullptr};
  EXPECT_FALSE(Generate(*session, {}, {}, Greedy(1), callbacks).ok());
  EXPECT_FALSE(Generate(*session, {}, Ids(9), Greedy(1), callbacks).ok());
  GenerateOptions options = Greedy(1);
  options.sampling.top_p = -1;
  EXPECT_FALSE(Generate(*session, {}, Ids(2), options, callbacks).ok());
  EXPECT_EQ(session->length(), 0);
}

TEST(Perplexity, IsTheMeanOfNegativeLogProbabilities) {
  const std::vector<int32_t> ids = {0, 393, 394, 261, 363, 14, 373};
  const auto step = NewSession();
  double nll = 0;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    ASSERT_TRUE(step->Append(std::span(ids).subspan(i, 1)).ok());
    double sum = 0;
    for (const float logit : step->logits()) sum += std::exp(double{logit});
    nll += std::log(sum) - step->logits()[ids[i + 1]];
  }
  const auto session = NewSession();
  NllSum result;
  ASSERT_TRUE(AddNll(*session, ids, result).ok());
  EXPECT_EQ(result.tokens, 6);
  EXPECT_NEAR(result.nll, nll, 1e-3);
  EXPECT_NEAR(result.perplexity(), std::exp(nll / 6), 1e-3);
  EXPECT_EQ(session->length(), 0);

  ASSERT_TRUE(AddNll(*session, std::span(ids).first(1), result).ok());  // predicts nothing
  EXPECT_EQ(result.tokens, 6);
  ASSERT_TRUE(AddNll(*session, ids, result).ok());
  EXPECT_EQ(result.tokens, 12);
  EXPECT_NEAR(result.nll, 2 * nll, 2e-3);
}

}  // namespace
}  // namespace mla
