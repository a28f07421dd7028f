// GGUF files that we write give the logits of the directories they are made from; what GGUF cannot
// state is refused; and quantised files hold what their types say.
#include "model/gguf_export.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "io/config.h"
#include "io/gguf.h"
#include "io/temp_dir.h"
#include "model/golden.h"
#include "model/stories.h"

namespace mla::test {
namespace {

using nlohmann::json;

// What the types may cost the bundled model: perplexity over some validation text, relative to the
// bf16 weights'. Measured: q8_0 1.0005, q4_k 1.0079.
constexpr double kMostQ8 = 1.003;
constexpr double kMostQ4 = 1.03;
// And the golden models, whose random weights forgive less than trained ones.
constexpr SpreadTolerance kGoldenQ8 = {0.15, 0.17, 0.10};

GgufExportReport Export(const std::string& dir, const std::string& path, StoredDType type,
                        std::vector<std::string>* notes = nullptr, ThreadPool* threads = nullptr) {
  const auto model = LoadModel(dir);
  GgufExportOptions options;
  options.type = type;
  options.threads = threads;
  options.note = [&](const std::string& line) {
    if (notes != nullptr) notes->push_back(line);
  };
  const auto report = ExportGguf(*model, dir, path, options);
  EXPECT_TRUE(report.ok()) << report.message();
  return report.ok() ? *report : GgufExportReport();
}

std::string ExportError(const std::string& dir, const std::string& path, StoredDType type) {
  const auto model = LoadModel(dir);
  GgufExportOptions options;
  options.type = type;
  const auto report = ExportGguf(*model, dir, path, options);
  return report.ok() ? std::string() : std::string(report.message());
}

void Requantise(const std::string& from, const std::string& path, StoredDType type,
                std::vector<std::string>* notes = nullptr) {
  GgufExportOptions options;
  options.type = type;
  options.note = [&](const std::string& line) {
    if (notes != nullptr) notes->push_back(line);
  };
  const auto report = RequantiseGguf(from, path, options);
  EXPECT_TRUE(report.ok()) << report.message();
}

std::vector<float> LogitsOf(const std::string& path, const std::vector<int32_t>& ids) {
  const auto model = LoadModel(path);
  Runner runner(*model, {});
  CachedSequence sequence(runner.cache.get());
  return runner.Step(sequence, ids);
}

// A copy of a golden checkpoint with another config or other tensors.
class Edited {
 public:
  explicit Edited(const std::string& name)
      : config(*ReadConfigFile(GoldenDir(name))),
        file_(*SafetensorsFile::Open(GoldenDir(name) + "/model.safetensors")) {
    for (const StoredTensor& tensor : file_.tensors()) tensors.push_back({tensor, nullptr});
  }

  // The tensor's numbers, to be changed; f32.
  float* Own(const std::string& name) {
    for (TensorSource& source : tensors) {
      if (source.tensor.name != name) continue;
      StoredTensor& tensor = source.tensor;
      owned_.resize(NumElements(tensor));
      DecodeGgufRow(GgufTensorTypeOf(tensor.dtype), tensor.data.data(), std::ssize(owned_),
                    owned_.data());
      tensor.dtype = StoredDType::kF32;
      tensor.data = std::as_bytes(std::span(owned_));
      return owned_.data();
    }
    ADD_FAILURE() << name;
    std::abort();
  }

  const std::string& Write() {
    dir_.Write("config.json", config.dump());
    EXPECT_TRUE(WriteSafetensors(dir_ / "model.safetensors", tensors).ok());
    return dir_.path();
  }

  json config;
  std::vector<TensorSource> tensors;

 private:
  TempDir dir_;
  SafetensorsFile file_;
  std::vector<float> owned_;
};

class GgufExportTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufExportTest, GivesTheGoldenLogits) {
  TempDir dir;
  const std::string path = dir / "m.gguf";
  Export(GoldenDir(GetParam()), path, StoredDType::kF32);
  const Golden golden = LoadGolden(GoldenDir(GetParam()));
  const auto vocab = ReadConfigFile(GoldenDir(GetParam()))->at("vocab_size").get<int64_t>();
  EXPECT_EQ(Compare(LogitsOf(path, golden.input_ids), golden.logits, vocab, kGoldenF32), "");
}

INSTANTIATE_TEST_SUITE_P(Models, GgufExportTest,
                         ::testing::Values("deepseek_v2_lite", "deepseek_v3", "deepseek_v3_fp8",
                                           "deepseek_v3_norope_scaling",
                                           "deepseek_v3_rope_parameters", "glm4_moe_lite",
                                           "llama_gqa", "llama_mha", "llama_mqa", "mistral",
                                           "qwen2", "qwen3", "youtu"),
                         [](const auto& info) { return std::string(info.param); });

// Each of these would come out as another model. Nothing is left behind.
TEST(GgufExport, RefusesWhatGgufCannotState) {
  const std::pair<const char*, const char*> cases[] = {
      {"deepseek_v2", "the attention factor of cos and sin (rope_scaling.mscale"},
      {"deepseek_v32", "layer 0: the sparse attention's indexer (index_topk) is true"},
      {"glm_moe_dsa", "the sparse attention's indexer"},
      {"minicpm3", "scale_emb (of the embedding) is "},
      {"minicpm3_longrope", "rope type is longrope, want default, linear, llama3 or yarn"},
      {"longcat_flash", "a second attention or a branch in a layer is true"},
  };
  for (const auto& [name, want] : cases) {
    TempDir dir;
    const std::string error = ExportError(GoldenDir(name), dir / "m.gguf", StoredDType::kF32);
    EXPECT_NE(error.find(want), std::string::npos) << name << ": " << error;
    EXPECT_NE(error.find("cannot state this model"), std::string::npos) << error;
    EXPECT_EQ(error.find('\n'), std::string::npos);
    EXPECT_TRUE(dir.Names().empty()) << name;
  }
}

TEST(GgufExport, RefusesSettingsOneByOne) {
  struct Setting {
    const char* model;
    const char* key;
    json value;
    const char* want;
  };
  const Setting settings[] = {
      {"llama_gqa",
       "rope_scaling",
       {{"rope_type", "yarn"},
        {"factor", 4.0},
        {"original_max_position_embeddings", 64},
        {"truncate", false}},
       "frequency "},
      {"deepseek_v3",
       "rope_scaling",
       {{"rope_type", "llama3"},
        {"factor", 8.0},
        {"low_freq_factor", 1.0},
        {"high_freq_factor", 4.0},
        {"original_max_position_embeddings", 64}},
       "frequency "},
      {"deepseek_v3",
       "rope_scaling",
       {{"rope_type", "yarn"}, {"factor", 4.0}},
       "the attention factor of cos and sin"},
  };
  for (const Setting& setting : settings) {
    Edited edited(setting.model);
    edited.config.erase("rope_parameters");
    edited.config[setting.key] = setting.value;
    TempDir dir;
    const std::string error = ExportError(edited.Write(), dir / "m.gguf", StoredDType::kF32);
    EXPECT_NE(error.find(setting.want), std::string::npos) << setting.want << ": " << error;
  }
}

// Rows rotated in halves are put in the order that the architecture wants; other scalings stay.
TEST(GgufExport, OtherSettingsGiveTheDirectorysLogits) {
  const std::tuple<const char*, const char*, json> cases[] = {
      {"deepseek_v3", "rope_interleave", false},
      {"deepseek_v2_lite", "rope_interleave", false},
      {"llama_mha", "rope_scaling", {{"rope_type", "linear"}, {"factor", 3.0}}},
      {"llama_mha",
       "rope_scaling",
       {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}}},
      {"qwen2",
       "rope_scaling",
       {{"rope_type", "yarn"},
        {"factor", 4.0},
        {"attention_factor", 1.3},
        {"beta_fast", 16.0},
        {"original_max_position_embeddings", 32}}},
      {"deepseek_v3", "norm_topk_prob", false},
  };
  for (const auto& [name, key, value] : cases) {
    SCOPED_TRACE(Concat(name, " ", key));
    Edited edited(name);
    if (std::string_view(key) == "rope_scaling") edited.config.erase("rope_parameters");
    edited.config[key] = value;
    const std::string source = edited.Write();
    TempDir dir;
    Export(source, dir / "m.gguf", StoredDType::kF32);
    const std::vector<int32_t> ids = LoadGolden(GoldenDir(name)).input_ids;
    EXPECT_EQ(Compare(LogitsOf(dir / "m.gguf", ids), LogitsOf(source, ids),
                      edited.config["vocab_size"], {1e-4, 1e-4}),
              "");
  }
}

// Quantised kv_b, experts and all: the file's logits are those of its decoded numbers.
TEST(GgufExport, QuantisedWeightsAreWhatTheyDecodeTo) {
  for (const char* name : {"deepseek_v3", "deepseek_v2_lite", "llama_gqa", "qwen3"}) {
    const std::vector<int32_t> ids = LoadGolden(GoldenDir(name)).input_ids;
    const auto vocab = ReadConfigFile(GoldenDir(name))->at("vocab_size").get<int64_t>();
    for (const StoredDType type : {StoredDType::kQ8_0, StoredDType::kQ4_0, StoredDType::kQ5_0,
                                   StoredDType::kQ4_K, StoredDType::kQ5_K, StoredDType::kQ6_K}) {
      SCOPED_TRACE(Concat(name, " ", StoredDTypeName(type)));
      TempDir dir;
      Export(GoldenDir(name), dir / "q.gguf", type);
      Requantise(dir / "q.gguf", dir / "f.gguf", StoredDType::kF32);
      const auto file = GgufFile::Open(dir / "q.gguf");
      ASSERT_TRUE(file.ok()) << file.message();
      for (const char* part : {"attn_k_b", "attn_v_b", "ffn_up_exps", "ffn_down_exps"}) {
        const GgufTensor* tensor = file->FindTensor(Concat("blk.1.", part, ".weight"));
        if (tensor == nullptr || tensor->shape.back() % 32 != 0) continue;
        EXPECT_GT(tensor->type->block_elements, 1) << part;
      }
      // k_b is decoded to f16 when it is loaded.
      EXPECT_EQ(Compare(LogitsOf(dir / "q.gguf", ids), LogitsOf(dir / "f.gguf", ids), vocab,
                        {5e-3, 5e-3}),
                "");
    }
  }
}

TEST(GgufExport, Q8GoldenLogitsAreNear) {
  for (const char* name : {"deepseek_v3", "llama_gqa", "qwen2", "qwen3"}) {
    SCOPED_TRACE(name);
    TempDir dir;
    Export(GoldenDir(name), dir / "q.gguf", StoredDType::kQ8_0);
    const Golden golden = LoadGolden(GoldenDir(name));
    const auto vocab = ReadConfigFile(GoldenDir(name))->at("vocab_size").get<int64_t>();
    const bool routed = std::string_view(name).starts_with("deepseek");
    EXPECT_EQ(CompareSpread(LogitsOf(dir / "q.gguf", golden.input_ids), golden.logits, vocab,
                            routed, kGoldenQ8),
              "");
  }
}

TEST(GgufExport, BundledModelCostsLittlePerplexity) {
  TempDir dir;
  const double stored = Perplexity(*LoadModel(kBundled), ComputeMode::kF32);
  for (const auto& [type, most] : {std::pair(StoredDType::kBF16, 1 + 1e-6),
                                   {StoredDType::kQ8_0, kMostQ8},
                                   {StoredDType::kQ4_K, kMostQ4}}) {
    Export(kBundled, dir / "m.gguf", type);
    const double ratio = Perplexity(*LoadModel(dir / "m.gguf"), ComputeMode::kF32) / stored;
    std::printf("perplexity %.4f; %s: x %.5f\n", stored, StoredDTypeName(type).data(), ratio);
    EXPECT_LT(ratio, most);
    EXPECT_GT(ratio, 2 - most);
  }
}

std::string Bytes(const std::string& path) { return ReadText(path); }

TEST(GgufExport, SameBytesWhateverTheThreadsAndTheWay) {
  TempDir dir;
  ThreadPool threads(3);
  std::vector<std::string> notes, again;
  Export(kBundled, dir / "one.gguf", StoredDType::kQ4_K, &notes);
  Export(kBundled, dir / "three.gguf", StoredDType::kQ4_K, nullptr, &threads);
  EXPECT_TRUE(Bytes(dir / "one.gguf") == Bytes(dir / "three.gguf"));
  // By way of a file that loses nothing.
  Export(kBundled, dir / "bf16.gguf", StoredDType::kBF16);
  Requantise(dir / "bf16.gguf", dir / "two.gguf", StoredDType::kQ4_K, &again);
  EXPECT_TRUE(Bytes(dir / "one.gguf") == Bytes(dir / "two.gguf"));
  // The same rows fall back; only a quantised source is warned of.
  EXPECT_EQ(notes, again);
  const std::string want =
      "10 tensors (blk.*.ffn_down_exps.weight, blk.*.ffn_down_shexp.weight) are Q5_0, not Q4_K "
      "(rows of 192 are no multiple of 256)";
  EXPECT_EQ(std::count(notes.begin(), notes.end(), want), 1);
  again.clear();
  Requantise(dir / "one.gguf", dir / "two.gguf", StoredDType::kQ8_0, &again);
  ASSERT_FALSE(again.empty());
  EXPECT_NE(again[0].find("the source is quantised already ("), std::string::npos) << again[0];
}

TEST(GgufExport, ReportsWhatItWrote) {
  TempDir dir;
  const GgufExportReport report = Export(kBundled, dir / "m.gguf", StoredDType::kQ8_0);
  const auto file = GgufFile::Open(dir / "m.gguf");
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(report.bytes, file->data_bytes());
  std::map<std::string, int64_t> types;
  for (const GgufTensor& tensor : file->tensors()) ++types[std::string(tensor.type->name)];
  EXPECT_EQ(report.tensors, types);
  EXPECT_EQ(*file->GetInt("general.file_type", 0, 99), 7);
  EXPECT_EQ(*file->GetString("general.name"), "stories-mla-9m");
  // As readers of the absorbed form want them: [heads, kv_lora_rank, qk_nope_head_dim].
  EXPECT_EQ(file->FindTensor("blk.2.attn_k_b.weight")->shape, (std::vector<int64_t>{8, 64, 32}));
  EXPECT_EQ(file->FindTensor("blk.2.attn_v_b.weight")->shape, (std::vector<int64_t>{8, 32, 64}));
  EXPECT_EQ(file->FindTensor("blk.2.ffn_up_exps.weight")->shape,
            (std::vector<int64_t>{8, 192, 256}));
  EXPECT_EQ(file->FindTensor("blk.2.ffn_gate_inp.weight")->type->name, "F32");
  EXPECT_EQ(file->FindTensor("output.weight"), nullptr);  // tied
}

TEST(GgufExport, NumbersThatDoNotFitAreRefused) {
  Edited edited("llama_mha");
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  float* numbers = edited.Own(name);
  const int64_t cols = edited.config["hidden_size"];
  TempDir dir;
  numbers[3 * cols + 2] = 70000;
  std::string error = ExportError(edited.Write(), dir / "m.gguf", StoredDType::kF16);
  EXPECT_NE(error.find("\"blk.1.ffn_up.weight\" holds 70000 in row 3, column 2, want a number up "
                       "to 65504 for F16"),
            std::string::npos)
      << error;
  EXPECT_EQ(ExportError(edited.Write(), dir / "wide.gguf", StoredDType::kBF16), "");
  numbers[3 * cols + 2] = std::numeric_limits<float>::quiet_NaN();
  error = ExportError(edited.Write(), dir / "m.gguf", StoredDType::kF32);
  EXPECT_NE(error.find("holds nan in row 3, column 2"), std::string::npos) << error;
  EXPECT_EQ(dir.Names(), std::vector<std::string>{"wide.gguf"});
}

TEST(GgufExportType, FollowsNameAndRowLength) {
  const auto type = [](const char* name, StoredDType wanted, int64_t cols, bool tied = false,
                       StoredDType stored = StoredDType::kBF16) {
    return GgufExportType(name, wanted, stored, 2, cols, tied);
  };
  using T = StoredDType;
  EXPECT_EQ(type("blk.0.attn_q.weight", T::kQ4_K, 512), T::kQ4_K);
  EXPECT_EQ(type("blk.0.attn_q.weight", T::kQ4_K, 96), T::kQ5_0);
  EXPECT_EQ(type("blk.0.attn_q.weight", T::kQ5_K, 96), T::kQ8_0);
  EXPECT_EQ(type("blk.0.attn_q.weight", T::kQ6_K, 96), T::kQ8_0);
  EXPECT_EQ(type("blk.0.attn_q.weight", T::kQ4_0, 96), T::kQ4_0);
  EXPECT_EQ(type("blk.0.attn_q.weight", T::kQ4_0, 40), T::kBF16);
  EXPECT_EQ(type("blk.0.attn_q.weight", T::kQ4_0, 40, false, T::kF32), T::kF16);
  EXPECT_EQ(type("output.weight", T::kQ4_K, 512), T::kQ6_K);
  EXPECT_EQ(type("output.weight", T::kQ4_0, 96), T::kQ8_0);
  EXPECT_EQ(type("output.weight", T::kQ8_0, 512), T::kQ8_0);
  EXPECT_EQ(type("output.weight", T::kF16, 512), T::kF16);
  EXPECT_EQ(type("token_embd.weight", T::kQ4_K, 512), T::kQ4_K);
  EXPECT_EQ(type("token_embd.weight", T::kQ4_K, 512, true), T::kQ6_K);
  EXPECT_EQ(type("blk.0.ffn_gate_inp.weight", T::kQ8_0, 512), T::kF32);
  EXPECT_EQ(GgufExportType("blk.0.attn_norm.weight", T::kF16, T::kF16, 1, 512, false), T::kF32);
}

}  // namespace
}  // namespace mla::test
