// Quantised models: FP8 checkpoints and what is refused of them, and quantisation at load.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/numeric.h"
#include "base/threads.h"
#include "io/temp_dir.h"
#include "model/golden.h"
#include "model/quantize.h"
#include "model/stories.h"

namespace mla::test {
namespace {

// What quantisation of the bundled model may cost: perplexity over some validation text, relative
// to that of the bf16 weights. Measured: q8 1.001, q4 1.009.
constexpr double kMostQ8 = 1.003;
constexpr double kMostQ4 = 1.03;

// A copy of the FP8 golden checkpoint with changes.
class Fp8Checkpoint {
 public:
  Fp8Checkpoint()
      : file_(*SafetensorsFile::Open(GoldenDir("deepseek_v3_fp8") + "/model.safetensors")) {
    std::ifstream in(GoldenDir("deepseek_v3_fp8") + "/config.json");
    config = nlohmann::json::parse(in);
    for (const StoredTensor& tensor : file_.tensors()) tensors.push_back({tensor, nullptr});
  }

  StoredTensor& Find(const std::string& name) {
    for (TensorSource& source : tensors) {
      if (source.tensor.name == name) return source.tensor;
    }
    ADD_FAILURE() << name;
    std::abort();
  }

  std::string LoadError() {
    std::ofstream(dir_.path() + "/config.json") << config.dump();
    EXPECT_TRUE(WriteSafetensors(dir_.path() + "/model.safetensors", tensors).ok());
    const auto model = Model::Load(dir_.path());
    return model.ok() ? std::string() : std::string(model.message());
  }

  nlohmann::json config;
  std::vector<TensorSource> tensors;

 private:
  TempDir dir_;
  SafetensorsFile file_;
};

TEST(Fp8Checkpoint, StaysInFp8) {
  const auto model = LoadModel(GoldenDir("deepseek_v3_fp8"));
  const LayerWeights& layer = model->weights().layers.back();
  const auto& mla = std::get<MlaWeights>(layer.attention);
  const auto& moe = std::get<MoeWeights>(layer.mlp);
  for (const ConstTensor& w :
       {mla.q_a.w, mla.q_b.w, mla.kv_a.w, mla.o.w, moe.up[3], moe.down[7], moe.shared->gate.w}) {
    EXPECT_EQ(w.dtype(), DType::kF8E4M3);
    EXPECT_NE(w.scales().data, nullptr);
  }
  // 288 and 160 rows and more: their last blocks are partial.
  EXPECT_NE(mla.kv_a.w.dim(0) % 128, 0);
  // The heads' up-projections alone are decoded.
  EXPECT_EQ(mla.w_uk.dtype(), DType::kF32);
  EXPECT_EQ(model->weights().converted.size(), model->spec().layers.size());
}

// For bf16 arithmetic they are rounded once, from the same numbers.
TEST(Fp8Checkpoint, UpProjectionsAreDecodedToWhatIsAskedFor) {
  const auto exact = LoadModel(GoldenDir("deepseek_v3_fp8"));
  const Result<std::unique_ptr<Model>> rounded =
      Model::Load(GoldenDir("deepseek_v3_fp8"), DType::kBF16);
  ASSERT_TRUE(rounded.ok()) << rounded.message();
  EXPECT_EQ((*rounded)->weights().decoded_to, DType::kBF16);
  for (size_t i = 0; i < exact->spec().layers.size(); ++i) {
    const auto& want = std::get<MlaWeights>(exact->weights().layers[i].attention);
    const auto& got = std::get<MlaWeights>((*rounded)->weights().layers[i].attention);
    for (const auto& [a, b] : {std::pair(want.w_uk, got.w_uk), std::pair(want.w_uv, got.w_uv)}) {
      ASSERT_EQ(a.dtype(), DType::kF32);
      ASSERT_EQ(b.dtype(), DType::kBF16);
      for (int64_t head = 0; head < a.dim(0); ++head) {
        const auto* f32 = a.as<float>() + head * a.stride(0);
        const auto* bf16 = b.as<uint16_t>() + head * b.stride(0);
        for (int64_t k = 0; k < a.dim(1) * a.dim(2); ++k) ASSERT_EQ(bf16[k], F32ToBf16(f32[k]));
      }
    }
  }
}

TEST(Fp8Checkpoint, WrongScalesAreAllListed) {
  Fp8Checkpoint checkpoint;
  const std::string prefix = "model.layers.1.self_attn.";
  checkpoint.Find(prefix + "q_a_proj.weight_scale_inv").name = "another";
  StoredTensor& flat = checkpoint.Find(prefix + "o_proj.weight_scale_inv");
  flat.shape = {flat.shape[0] * flat.shape[1]};
  StoredTensor& integers = checkpoint.Find(prefix + "kv_b_proj.weight_scale_inv");
  integers.dtype = StoredDType::kI32;
  const std::string error = checkpoint.LoadError();
  for (const std::string& want :
       {prefix + "q_a_proj.weight is F8_E4M3, but " + prefix +
            "q_a_proj.weight_scale_inv is missing",
        prefix + "o_proj.weight_scale_inv is F32 [4], want F32 [2, 2]",
        prefix + "kv_b_proj.weight_scale_inv is I32 [4, 1], want F32 [4, 1]"}) {
    EXPECT_NE(error.find(want), std::string::npos) << want << "\nin: " << error;
  }
}

TEST(Fp8Checkpoint, NormsInFp8AreRefused) {
  Fp8Checkpoint checkpoint;
  StoredTensor& norm = checkpoint.Find("model.norm.weight");
  norm.dtype = StoredDType::kF8E4M3;
  norm.data = norm.data.first(norm.shape[0]);
  const std::string error = checkpoint.LoadError();
  EXPECT_NE(error.find("model.norm.weight is F8_E4M3, want F32, F16 or BF16"), std::string::npos)
      << error;
}

TEST(Fp8Checkpoint, OtherQuantisationIsRefusedByName) {
  const std::tuple<std::string, nlohmann::json, std::string> cases[] = {
      {"quant_method", "awq", "quantization_config is awq"},
      {"fmt", "e5m2", "quantization_config is fp8 e5m2"},
      {"quant_algo", "NVFP4", "quantization_config is fp8 NVFP4 e4m3"},
      {"weight_block_size", {64, 128}, "weight_block_size is [64, 128], want [128, 128]"},
      {"weight_block_size", nullptr, "weight_block_size is [], want [128, 128]"},
  };
  for (const auto& [key, value, want] : cases) {
    Fp8Checkpoint checkpoint;
    checkpoint.config["quantization_config"][key] = value;
    const std::string error = checkpoint.LoadError();
    EXPECT_NE(error.find(want), std::string::npos) << error;
  }
}

// Without DeepSeek's keys: what the config says, and nothing made up.
TEST(Fp8Checkpoint, OtherMakersQuantisationIsNamedAsItIs) {
  const std::pair<nlohmann::json, std::string> cases[] = {
      {{{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}},
       "quantization_config is modelopt NVFP4, want"},
      {{{"quant_method", "compressed-tensors"}, {"format", "pack-quantized"}},
       "quantization_config is compressed-tensors pack-quantized, want"},
      {{{"quant_method", "gptq"}}, "quantization_config is gptq, want"},
  };
  for (const auto& [quantisation, want] : cases) {
    Fp8Checkpoint checkpoint;
    checkpoint.config["quantization_config"] = quantisation;
    const std::string error = checkpoint.LoadError();
    EXPECT_NE(error.find(want), std::string::npos) << error;
  }
}

TEST(FittingType, FallsBackByRowLength) {
  EXPECT_EQ(FittingType(DType::kQ4_K, 512, DType::kBF16), DType::kQ4_K);
  EXPECT_EQ(FittingType(DType::kQ4_K, 192, DType::kBF16), DType::kQ4_0);
  EXPECT_EQ(FittingType(DType::kQ6_K, 192, DType::kBF16), DType::kQ8_0);
  EXPECT_EQ(FittingType(DType::kQ8_0, 192, DType::kBF16), DType::kQ8_0);
  EXPECT_EQ(FittingType(DType::kQ8_0, 100, DType::kF16), DType::kF16);
  EXPECT_EQ(FittingType(DType::kQ4_K, 100, DType::kF32), DType::kF32);
}

TEST(QuantizeAtLoad, CostsLittlePerplexity) {
  const double stored = Perplexity(*LoadModel(kBundled), ComputeMode::kF32);
  for (const auto& [to, most] : {std::pair(QuantiseTo::kQ8, kMostQ8), {QuantiseTo::kQ4, kMostQ4}}) {
    const auto model = LoadModel(kBundled);
    ThreadPool threads(2);
    const QuantiseReport report = model->Quantise({.to = to, .threads = &threads});
    EXPECT_LT(static_cast<double>(report.bytes_after),
              (to == QuantiseTo::kQ8 ? 0.54 : 0.34) * static_cast<double>(report.bytes_before));
    for (const ComputeMode mode : {ComputeMode::kF32, ComputeMode::kBF16}) {
      const double ratio = Perplexity(*model, mode) / stored;
      std::printf("perplexity %.4f; %s, %s: x %.5f\n", stored, to == QuantiseTo::kQ8 ? "q8" : "q4",
                  ComputeModeName(mode).data(), ratio);
      EXPECT_LT(ratio, most);
      EXPECT_GT(ratio, 1 - (most - 1));
    }
  }
}

// Every weight, as its type and bytes.
std::vector<std::pair<DType, std::vector<uint8_t>>> Converted(const Model& model) {
  std::vector<std::pair<DType, std::vector<uint8_t>>> all;
  for (const ConvertedWeight& w : model.weights().converted) {
    all.push_back({DType::kQ8_0, {w.memory.get(), w.memory.get() + w.bytes}});
  }
  return all;
}

TEST(QuantizeAtLoad, ReportsWhatItDidWhateverTheThreads) {
  const auto alone = LoadModel(kBundled), shared = LoadModel(kBundled);
  ThreadPool threads(3);
  int64_t last = 0, all = 0;
  const QuantiseReport report = alone->Quantise({.to = QuantiseTo::kQ4});
  shared->Quantise(
      {.to = QuantiseTo::kQ4, .threads = &threads, .progress = [&](int64_t done, int64_t total) {
         EXPECT_GT(done, last);
         last = done;
         all = total;
       }});
  EXPECT_EQ(last, all);
  EXPECT_EQ(Converted(*alone), Converted(*shared));
  int64_t count = 0;
  for (const auto& [dtype, tensors] : report.tensors) count += tensors;
  EXPECT_EQ(count, static_cast<int64_t>(alone->weights().converted.size()));
  // Rows of 192 and 64 are no multiple of 256.
  EXPECT_NE(report.fallbacks.find("not q4_K: rows are no multiple of 256"), std::string::npos)
      << report.fallbacks;
  EXPECT_EQ(report.fallbacks.find('\n'), std::string::npos);
  // What is quantised already stays.
  const QuantiseReport again = alone->Quantise({.to = QuantiseTo::kQ8});
  EXPECT_TRUE(again.tensors.empty());
  const ModelWeights& weights = alone->weights();
  EXPECT_EQ(weights.embedding.dtype(), DType::kBF16);
  EXPECT_EQ(std::get<MlaWeights>(weights.layers[0].attention).w_uk.dtype(), DType::kBF16);
  EXPECT_EQ(std::get<MoeWeights>(weights.layers.back().mlp).router.dtype(), DType::kBF16);
}

}  // namespace
}  // namespace mla::test
