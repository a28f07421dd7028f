// The golden checkpoints in tests/golden and how far a model may be from their expected outputs.
#ifndef MLA_TESTS_MODEL_GOLDEN_H_
#define MLA_TESTS_MODEL_GOLDEN_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/threads.h"
#include "base/workspace.h"
#include "io/safetensors.h"
#include "model/model.h"

namespace mla::test {

// The one table of model tolerances.
//   f32: every logit and every hidden number within abs + rel * |want|.
//   bf16 arithmetic, and f16 or bf16 caches: a token's error is its largest |got - want| over the
//   spread (largest - smallest) of its expected logits. In random mixtures of experts a rounded
//   number now and then chooses another expert, and that token is then simply different: so the
//   median and the mean over tokens are bounded, and the worst only where nothing is routed.
struct ExactTolerance {
  double abs, rel;
};
struct SpreadTolerance {
  double median, mean, worst_unrouted;
};
inline constexpr ExactTolerance kGoldenF32 = {2e-3, 2e-3};
inline constexpr SpreadTolerance kGoldenBf16 = {0.10, 0.12, 0.05};
inline constexpr SpreadTolerance kGoldenInt8Cache = {0.15, 0.20, 0.08};
inline constexpr SpreadTolerance kGoldenF16Cache = {0.01, 0.03, 0.005};

inline std::string GoldenDir(const std::string& name) {
  return std::string(MLA_SOURCE_DIR) + "/tests/golden/" + name;
}

// expected.safetensors of a golden checkpoint.
struct Golden {
  std::vector<int32_t> input_ids;   // [tokens]
  std::vector<float> logits;        // [tokens, vocab]
  std::vector<float> hidden;        // [layers + 1, tokens, hidden]
  std::vector<int32_t> greedy_ids;  // prompt, then greedy continuation
  std::vector<float> greedy_margin;

  int64_t tokens() const { return static_cast<int64_t>(input_ids.size()); }
};

template <typename To>
std::vector<To> Read(const SafetensorsFile& file, const std::string& name) {
  const StoredTensor* tensor = file.Find(name);
  if (tensor == nullptr) {
    ADD_FAILURE() << name << " is missing";
    return {};
  }
  const auto copy = [&](const auto* data) {
    return std::vector<To>(data, data + tensor->data.size() / sizeof(*data));
  };
  if (tensor->dtype == StoredDType::kI64) {
    return copy(reinterpret_cast<const int64_t*>(tensor->data.data()));
  }
  if (tensor->dtype == StoredDType::kI32) {
    return copy(reinterpret_cast<const int32_t*>(tensor->data.data()));
  }
  EXPECT_EQ(StoredDTypeName(tensor->dtype), "F32") << name;
  return copy(reinterpret_cast<const float*>(tensor->data.data()));
}

inline Golden LoadGolden(const std::string& dir) {
  Golden golden;
  const Result<SafetensorsFile> file = SafetensorsFile::Open(dir + "/expected.safetensors");
  if (!file.ok()) {
    ADD_FAILURE() << file.message();
    return golden;
  }
  golden.input_ids = Read<int32_t>(*file, "input_ids");
  golden.logits = Read<float>(*file, "logits");
  golden.hidden = Read<float>(*file, "hidden_states");
  golden.greedy_ids = Read<int32_t>(*file, "greedy_ids");
  golden.greedy_margin = Read<float>(*file, "greedy_margin");
  return golden;
}

// The numbers of `got` outside the tolerance, rows being tokens; a text about the worst, or empty.
inline std::string Compare(std::span<const float> got, std::span<const float> want, int64_t row,
                           const ExactTolerance& tolerance) {
  if (got.size() != want.size()) return "sizes differ";
  double worst = 0;
  size_t where = 0;
  size_t outside = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double excess =
        std::abs(double{got[i]} - want[i]) / (tolerance.abs + tolerance.rel * std::abs(want[i]));
    if (!(excess <= 1)) ++outside;
    if (!(excess <= worst)) {
      worst = excess;
      where = i;
    }
  }
  if (outside == 0) return {};
  return Concat(outside, " of ", want.size(), " numbers differ; the worst, ", worst,
                " times what is allowed, at row ", where / row, " column ", where % row, ": got ",
                got[where], ", want ", want[where]);
}

// The same against a tolerance relative to the spread of each token's numbers.
inline std::string CompareSpread(std::span<const float> got, std::span<const float> want,
                                 int64_t row, bool routed, const SpreadTolerance& tolerance) {
  if (got.size() != want.size()) return "sizes differ";
  std::vector<double> errors;
  for (size_t begin = 0; begin < want.size(); begin += row) {
    const auto expected = want.subspan(begin, row);
    const auto [low, high] = std::minmax_element(expected.begin(), expected.end());
    double largest = 0;
    for (int64_t i = 0; i < row; ++i) {
      const double error = std::abs(double{got[begin + i]} - expected[i]);
      if (!(error <= largest)) largest = error;
    }
    errors.push_back(largest / (double{*high} - *low));
  }
  std::sort(errors.begin(), errors.end());
  double mean = 0;
  for (double error : errors) mean += error / static_cast<double>(errors.size());
  const double median = errors[errors.size() / 2];
  const bool good = median <= tolerance.median && mean <= tolerance.mean &&
                    (routed || errors.back() <= tolerance.worst_unrouted);
  if (good) return {};
  return Concat("error over spread: median ", median, ", mean ", mean, ", worst ", errors.back());
}

// A model with a cache and threads: what a test runs steps in.
struct Runner {
  struct Options {
    ComputeMode mode = ComputeMode::kF32;
    DType kv_dtype = DType::kF32;
    AttentionForm form = AttentionForm::kAuto;
    int32_t page_size = 16;
    int64_t num_pages = 512;
    int threads = 2;
  };

  Runner(const Model& model, const Options& options)
      : model(model), options(options), threads(options.threads) {
    KvCacheOptions cache_options;
    cache_options.layers = CacheSpecs(model.spec(), options.form == AttentionForm::kMha);
    cache_options.dtype = options.kv_dtype;
    cache_options.page_size = options.page_size;
    cache_options.num_pages = options.num_pages;
    Result<std::unique_ptr<KvCache>> made = KvCache::Create(cache_options);
    if (!made.ok()) {
      ADD_FAILURE() << made.message();
      std::abort();
    }
    cache = *std::move(made);
  }

  // Logits of every new token of every sequence, in order.
  std::vector<float> Step(std::span<const SequenceInput> sequences,
                          std::function<void(size_t, const ConstTensor&)> observer = nullptr) {
    const int64_t rows = NumLogitRows(sequences, LogitsFor::kAll);
    std::vector<float> logits(rows * model.spec().vocab_size);
    ForwardArgs args;
    args.sequences = sequences;
    args.logits_for = LogitsFor::kAll;
    args.logits = Tensor(logits.data(), DType::kF32, {rows, model.spec().vocab_size});
    args.form = options.form;
    args.observer = std::move(observer);
    Context context;
    context.threads = &threads;
    context.workspace = &workspace;
    context.compute = options.mode;
    const Status status = model.Forward(args, *cache, context);
    EXPECT_TRUE(status.ok()) << status.message();
    return logits;
  }

  std::vector<float> Step(CachedSequence& sequence, std::span<const int32_t> ids) {
    const SequenceInput input{&sequence, ids};
    return Step(std::span(&input, 1));
  }

  const Model& model;
  Options options;
  ThreadPool threads;
  Workspace workspace;
  std::unique_ptr<KvCache> cache;
};

inline std::unique_ptr<Model> LoadModel(const std::string& dir) {
  Result<std::unique_ptr<Model>> model = Model::Load(dir);
  if (!model.ok()) {
    ADD_FAILURE() << model.message();
    std::abort();
  }
  return *std::move(model);
}

}  // namespace mla::test

#endif  // MLA_TESTS_MODEL_GOLDEN_H_
