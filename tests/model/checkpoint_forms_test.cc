// The same weights stored in other ways, and what is read from a config being wrong on purpose.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/numeric.h"
#include "io/temp_dir.h"
#include "model/golden.h"

namespace mla::test {
namespace {

namespace fs = std::filesystem;

// A copy of a golden checkpoint with another config or other tensors.
class EditedCheckpoint {
 public:
  explicit EditedCheckpoint(const std::string& name)
      : file_(*SafetensorsFile::Open(GoldenDir(name) + "/model.safetensors")) {
    std::ifstream in(GoldenDir(name) + "/config.json");
    config = nlohmann::json::parse(in);
    for (const StoredTensor& tensor : file_.tensors()) tensors.push_back({tensor, nullptr});
  }

  std::string Write() {
    std::ofstream(dir_.path() + "/config.json") << config.dump();
    EXPECT_TRUE(WriteSafetensors(dir_.path() + "/model.safetensors", tensors).ok());
    return dir_.path();
  }

  // Bytes that live as long as this object.
  std::span<const std::byte> Keep(std::vector<std::byte> bytes) {
    kept_.push_back(std::make_unique<std::vector<std::byte>>(std::move(bytes)));
    return *kept_.back();
  }

  const std::string& dir() const { return dir_.path(); }
  nlohmann::json config;
  std::vector<TensorSource> tensors;

 private:
  TempDir dir_;
  SafetensorsFile file_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> kept_;
};

std::vector<float> LogitsOf(const Model& model, const Golden& golden,
                            AttentionForm form = AttentionForm::kAuto) {
  Runner runner(model, {.form = form});
  CachedSequence sequence(runner.cache.get());
  return runner.Step(sequence, golden.input_ids);
}

// kv_b_proj cut into k_b_proj and v_b_proj.
void SplitKvB(EditedCheckpoint& checkpoint) {
  const int64_t heads = checkpoint.config["num_attention_heads"];
  const int64_t d_n = checkpoint.config["qk_nope_head_dim"];
  const int64_t d_v = checkpoint.config["v_head_dim"];
  std::vector<TensorSource> split;
  for (const TensorSource& source : checkpoint.tensors) {
    const StoredTensor& kv_b = source.tensor;
    const size_t at = kv_b.name.find("kv_b_proj");
    if (at == std::string::npos) {
      split.push_back(source);
      continue;
    }
    const size_t row = kv_b.data.size() / (heads * (d_n + d_v));
    for (const bool is_k : {true, false}) {
      std::vector<std::byte> bytes;
      const int64_t rows = is_k ? d_n : d_v;
      for (int64_t h = 0; h < heads; ++h) {
        const auto part = kv_b.data.subspan((h * (d_n + d_v) + (is_k ? 0 : d_n)) * row, rows * row);
        bytes.insert(bytes.end(), part.begin(), part.end());
      }
      StoredTensor tensor = kv_b;
      tensor.name.replace(at, 4, is_k ? "k_b" : "v_b");
      tensor.shape[0] = heads * rows;
      tensor.data = checkpoint.Keep(std::move(bytes));
      split.push_back({tensor, nullptr});
    }
  }
  checkpoint.tensors = split;
}

TEST(CheckpointForms, SplitKvBGivesTheSameBits) {
  const Golden golden = LoadGolden(GoldenDir("deepseek_v3"));
  EditedCheckpoint checkpoint("deepseek_v3");
  SplitKvB(checkpoint);
  const auto split = LoadModel(checkpoint.Write());
  const auto combined = LoadModel(GoldenDir("deepseek_v3"));
  for (const AttentionForm form : {AttentionForm::kAbsorbed, AttentionForm::kExpanded}) {
    EXPECT_EQ(LogitsOf(*split, golden, form), LogitsOf(*combined, golden, form));
  }
}

// Brought to one type, but not at the cost of the f32 one's bits.
TEST(CheckpointForms, AnF32KbBesideABf16VbKeepsItsBits) {
  EditedCheckpoint checkpoint("deepseek_v3");
  SplitKvB(checkpoint);
  for (TensorSource& source : checkpoint.tensors) {
    if (source.tensor.name.find("k_b_proj") == std::string::npos) continue;
    std::vector<std::byte> wide(source.tensor.data.size() * 2);
    for (size_t i = 0; i < wide.size() / 4; ++i) {
      const float value = 1 + 0x1p-20f * static_cast<float>(i % 1000);
      std::memcpy(wide.data() + 4 * i, &value, 4);
    }
    source.tensor.dtype = StoredDType::kF32;
    source.tensor.data = checkpoint.Keep(std::move(wide));
  }
  const auto model = Model::Load(checkpoint.Write(), DType::kBF16);
  ASSERT_TRUE(model.ok()) << model.message();
  for (const LayerWeights& layer : (*model)->weights().layers) {
    const auto& weights = std::get<MlaWeights>(layer.attention);
    ASSERT_EQ(weights.w_uk.dtype(), DType::kF32);
    ASSERT_EQ(weights.w_uv.dtype(), DType::kF32);
    for (int64_t i = 0; i < weights.w_uk.num_elements(); ++i) {
      ASSERT_EQ(weights.w_uk.as<float>()[i], 1 + 0x1p-20f * static_cast<float>(i % 1000));
    }
  }
}

TEST(CheckpointForms, F32WeightsGiveTheSameResultAsTheBf16TheyCameFrom) {
  const Golden golden = LoadGolden(GoldenDir("deepseek_v2"));
  EditedCheckpoint checkpoint("deepseek_v2");
  for (TensorSource& source : checkpoint.tensors) {
    if (source.tensor.dtype != StoredDType::kBF16) continue;
    const auto* bits = reinterpret_cast<const uint16_t*>(source.tensor.data.data());
    std::vector<std::byte> wide(source.tensor.data.size() * 2);
    for (size_t i = 0; i < wide.size() / 4; ++i) {
      const float value = Bf16ToF32(bits[i]);
      std::memcpy(wide.data() + 4 * i, &value, 4);
    }
    source.tensor.dtype = StoredDType::kF32;
    source.tensor.data = checkpoint.Keep(std::move(wide));
  }
  const auto model = LoadModel(checkpoint.Write());
  EXPECT_EQ(Compare(LogitsOf(*model, golden), golden.logits, model->spec().vocab_size, kGoldenF32),
            "");
}

TEST(CheckpointForms, ShardsWithAnIndexGiveTheSameBits) {
  const Golden golden = LoadGolden(GoldenDir("deepseek_v3"));
  EditedCheckpoint checkpoint("deepseek_v3");
  std::ofstream(checkpoint.dir() + "/config.json") << checkpoint.config.dump();
  nlohmann::json index;
  std::vector<TensorSource> shards[2];
  for (size_t i = 0; i < checkpoint.tensors.size(); ++i) {
    shards[i % 2].push_back(checkpoint.tensors[i]);
    index["weight_map"][checkpoint.tensors[i].tensor.name] =
        Concat("model-0000", i % 2 + 1, "-of-00002.safetensors");
  }
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(
        WriteSafetensors(Concat(checkpoint.dir(), "/model-0000", i + 1, "-of-00002.safetensors"),
                         shards[i])
            .ok());
  }
  std::ofstream(checkpoint.dir() + "/model.safetensors.index.json") << index.dump();
  const auto sharded = LoadModel(checkpoint.dir());
  EXPECT_EQ(LogitsOf(*sharded, golden), LogitsOf(*LoadModel(GoldenDir("deepseek_v3")), golden));
}

// The absorbed form multiplies by kv_b_proj where it is mapped.
TEST(CheckpointForms, AbsorptionUsesViewsOfTheMappedCheckpoint) {
  const auto model = LoadModel(GoldenDir("deepseek_v3"));
  for (size_t i = 0; i < model->spec().layers.size(); ++i) {
    const auto& weights = std::get<MlaWeights>(model->weights().layers[i].attention);
    const StoredTensor* kv_b =
        model->checkpoint().Find(Concat("model.layers.", i, ".self_attn.kv_b_proj.weight"));
    ASSERT_NE(kv_b, nullptr);
    const auto* begin = reinterpret_cast<const char*>(kv_b->data.data());
    const auto* uk = weights.w_uk.as<char>();
    const auto* uv = weights.w_uv.as<char>();
    EXPECT_EQ(uk, begin);
    EXPECT_GT(uv, begin);
    EXPECT_LT(uv, begin + kv_b->data.size());
  }
  EXPECT_EQ(model->checkpoint().files()[0].bytes_copied(), 0);
}

// Sabotage: each of these errors has been made by somebody, and must not stay inside the tolerance.
TEST(CheckpointForms, WrongScalesAreSeen) {
  struct Sabotage {
    const char* model;
    const char* what;
    std::function<void(nlohmann::json&)> edit;
  };
  const Sabotage sabotages[] = {
      {"deepseek_v2", "mscale", [](auto& c) { c["rope_scaling"]["mscale"] = 1.0; }},
      {"deepseek_v2", "mscale_all_dim", [](auto& c) { c["rope_scaling"]["mscale_all_dim"] = 0.0; }},
      {"deepseek_v3", "yarn ignored", [](auto& c) { c["rope_scaling"] = nullptr; }},
      {"deepseek_v3", "rope pairing", [](auto& c) { c["rope_interleave"] = false; }},
      {"deepseek_v3", "routed scaling", [](auto& c) { c["routed_scaling_factor"] = 2.4; }},
      {"llama_gqa", "llama3 factor", [](auto& c) { c["rope_scaling"]["factor"] = 4.0; }},
      {"deepseek_v3_rope_parameters", "rope_theta",
       [](auto& c) { c["rope_parameters"]["rope_theta"] = 10000.0; }},
  };
  for (const Sabotage& sabotage : sabotages) {
    EditedCheckpoint checkpoint(sabotage.model);
    sabotage.edit(checkpoint.config);
    const Golden golden = LoadGolden(GoldenDir(sabotage.model));
    const auto model = LoadModel(checkpoint.Write());
    EXPECT_NE(
        Compare(LogitsOf(*model, golden), golden.logits, model->spec().vocab_size, kGoldenF32), "")
        << sabotage.model << ": " << sabotage.what << " did not show";
  }
}

TEST(CheckpointForms, LatentNormsKeepTheirOwnEpsilon) {
  const auto model = LoadModel(GoldenDir("deepseek_v3_rope_parameters"));
  EXPECT_FLOAT_EQ(model->spec().norm_eps, 1e-5F);
  EXPECT_FLOAT_EQ(std::get<MlaSpec>(model->spec().layers[0].attention).latent_norm_eps, 1e-6F);
}

TEST(CheckpointForms, AllMissingAndMisshapenTensorsAreListed) {
  EditedCheckpoint checkpoint("deepseek_v3");
  std::erase_if(checkpoint.tensors, [](const TensorSource& s) {
    return s.tensor.name == "model.layers.1.self_attn.q_a_proj.weight" ||
           s.tensor.name == "model.layers.2.mlp.experts.3.up_proj.weight";
  });
  checkpoint.config["intermediate_size"] = 191;
  const auto model = Model::Load(checkpoint.Write());
  ASSERT_FALSE(model.ok());
  const std::string message(model.message());
  for (const char* want :
       {"model.layers.1.self_attn.q_a_proj.weight is missing",
        "model.layers.2.mlp.experts.3.up_proj.weight is missing",
        "model.layers.0.mlp.gate_proj.weight has shape [192, 96], want [191, 96]"}) {
    EXPECT_NE(message.find(want), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace mla::test
