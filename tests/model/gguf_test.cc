// Golden checkpoints, put into GGUF files as llama.cpp's converter lays them out, give the golden
// logits: the metadata, the names and every reordering of weights are undone.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/numeric.h"
#include "io/config.h"
#include "io/temp_dir.h"
#include "model/gguf_model.h"
#include "model/gguf_names.h"
#include "model/golden.h"
#include "support/gguf_bytes.h"

namespace mla::test {
namespace {

using nlohmann::json;

constexpr uint32_t kF32 = 0;

std::vector<float> Floats(const StoredTensor& tensor) {
  std::vector<float> values(NumElements(tensor));
  DecodeGgufRow(GgufTensorTypeOf(tensor.dtype), tensor.data.data(), std::ssize(values),
                values.data());
  return values;
}

std::string Bytes(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

// The halves of each head's rows, interleaved: as llama's q and k are stored.
std::vector<float> Interleave(const std::vector<float>& from, int64_t heads, int64_t cols) {
  const int64_t half = std::ssize(from) / cols / heads / 2;
  std::vector<float> to(from.size());
  for (int64_t row = 0; row < heads * half * 2; ++row) {
    const int64_t head = row / (2 * half), r = row % (2 * half);
    const int64_t target = head * 2 * half + 2 * (r % half) + r / half;
    std::copy_n(&from[row * cols], cols, &to[target * cols]);
  }
  return to;
}

// Each head's [rows, cols] turned to [cols, rows].
std::vector<float> TransposeHeads(const std::vector<float>& from, int64_t heads, int64_t cols) {
  const int64_t rows = std::ssize(from) / cols / heads;
  std::vector<float> to(from.size());
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        to[(h * cols + j) * rows + i] = from[(h * rows + i) * cols + j];
      }
    }
  }
  return to;
}

class Converter {
 public:
  Converter(const std::string& dir, bool split_kv_b)
      : dir_(dir), split_(split_kv_b), checkpoint_(*Checkpoint::Open(dir_)) {
    config_ = *ReadConfigFile(dir_);
    const std::string type = config_["model_type"];
    arch_ = type.starts_with("deepseek") ? "deepseek2" : type;
  }

  std::string Build() {
    file_.Str("general.architecture", arch_);
    Metadata();
    for (const StoredTensor* tensor : checkpoint_.tensors()) Tensor(*tensor);
    for (const auto& [name, experts] : stacked_) {
      std::string bytes;
      for (const auto& [index, expert] : experts) bytes += Bytes(Floats(*expert));
      const auto& shape = experts.begin()->second->shape;
      file_.Tensor(
          name, {static_cast<uint64_t>(shape[1]), static_cast<uint64_t>(shape[0]), experts.size()},
          kF32, bytes);
    }
    return file_.Build();
  }

  GgufBytes& file() { return file_; }

 private:
  std::string Key(const std::string& name) const { return arch_ + "." + name; }
  uint32_t Int(const char* key) const { return config_[key].get<uint32_t>(); }

  void Metadata() {
    const std::pair<const char*, const char*> ints[] = {
        {"embedding_length", "hidden_size"},
        {"block_count", "num_hidden_layers"},
        {"context_length", "max_position_embeddings"},
        {"feed_forward_length", "intermediate_size"},
        {"attention.head_count", "num_attention_heads"},
        {"attention.head_count_kv", "num_key_value_heads"},
        {"attention.q_lora_rank", "q_lora_rank"},
        {"attention.kv_lora_rank", "kv_lora_rank"},
        {"attention.key_length", "head_dim"},
        {"attention.value_length", "head_dim"},
        {"rope.dimension_count", "qk_rope_head_dim"},
        {"expert_count", "n_routed_experts"},
        {"expert_used_count", "num_experts_per_tok"},
        {"expert_shared_count", "n_shared_experts"},
        {"expert_feed_forward_length", "moe_intermediate_size"},
        {"leading_dense_block_count", "first_k_dense_replace"},
    };
    for (const auto& [gguf, hf] : ints) {
      if (config_.contains(hf) && !config_[hf].is_null()) file_.U32(Key(gguf), Int(hf));
    }
    file_.F32(Key("attention.layer_norm_rms_epsilon"), config_.value("rms_norm_eps", 1e-6F));
    file_.F32(Key("rope.freq_base"), config_.value("rope_theta", 10000.F));
    if (arch_ == "deepseek2") Deepseek();
    if (arch_ == "llama") LlamaFrequencies();
  }

  void Deepseek() {
    const uint32_t key = Int("qk_nope_head_dim") + Int("qk_rope_head_dim");
    const uint32_t rank = Int("kv_lora_rank");
    file_.U32(Key("attention.key_length"), split_ ? rank + Int("qk_rope_head_dim") : key);
    file_.U32(Key("attention.value_length"), split_ ? rank : Int("v_head_dim"));
    if (split_) {
      file_.U32(Key("attention.key_length_mla"), key);
      file_.U32(Key("attention.value_length_mla"), Int("v_head_dim"));
    }
    const auto moe = *ReadModelSpec();
    file_.F32(Key("expert_weights_scale"), moe.scaling);
    file_.Bool(Key("expert_weights_norm"), moe.normalize);
    file_.U32(Key("expert_gating_func"), moe.scoring == RouterScoring::kSigmoid ? 2 : 1);
    file_.U32(Key("expert_group_count"), moe.num_groups);
    file_.U32(Key("expert_group_used_count"), moe.topk_groups);
    const json rope = config_.value("rope_scaling", json());
    if (!rope.is_object()) return;
    file_.Str(Key("rope.scaling.type"), "yarn").F32(Key("rope.scaling.factor"), rope["factor"]);
    file_.U32(Key("rope.scaling.original_context_length"),
              rope["original_max_position_embeddings"]);
    file_.F32(Key("rope.scaling.yarn_log_multiplier"), 0.1F * rope["mscale_all_dim"].get<float>());
  }

  std::optional<MoeSpec> ReadModelSpec() const {
    const auto model = LoadModel(dir_);
    for (const LayerSpec& layer : model->spec().layers) {
      if (const auto* moe = std::get_if<MoeSpec>(&layer.mlp)) return *moe;
    }
    return std::nullopt;
  }

  // Llama 3's scaling as GGUF has it: what each frequency is divided by.
  void LlamaFrequencies() {
    const auto model = LoadModel(dir_);
    const auto& rope = *std::get<GqaSpec>(model->spec().layers[0].attention).rope;
    const double theta = config_.value("rope_theta", 10000.0);
    std::vector<float> divisors;
    for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
      const double plain =
          std::pow(theta, -static_cast<double>(i) / static_cast<double>(rope.inv_freq.size()));
      divisors.push_back(static_cast<float>(plain / rope.inv_freq[i]));
    }
    file_.Tensor("rope_freqs.weight", {divisors.size()}, kF32, Bytes(divisors));
  }

  void Tensor(const StoredTensor& tensor) {
    const TensorPlace place = *ParseHfName(tensor.name);
    std::vector<uint64_t> dims(tensor.shape.rbegin(), tensor.shape.rend());
    std::vector<float> values = Floats(tensor);
    std::string part(GgufPart(place.part, place.layer >= 0));
    if (place.part.starts_with("mlp.experts.")) {
      const size_t dot = place.part.find('.', 12);
      const int index = std::stoi(std::string(place.part.substr(12, dot - 12)));
      const std::string kind(place.part.substr(dot + 1, place.part.find('_', dot) - dot - 1));
      stacked_[GgufName(place.layer, "ffn_" + kind + "_exps", "weight")][index] = &tensor;
      return;
    }
    if (place.suffix == "e_score_correction_bias") {
      file_.Tensor(GgufName(place.layer, "exp_probs_b", "bias"), dims, kF32, Bytes(values));
      return;
    }
    if (arch_ == "llama" && (part == "attn_q" || part == "attn_k")) {
      const char* heads = part == "attn_q" ? "num_attention_heads" : "num_key_value_heads";
      values = Interleave(values, Int(heads), tensor.shape[1]);
    }
    if (part == "attn_kv_b" && split_) return SplitKvB(place.layer, values);
    ASSERT_FALSE(part.empty()) << tensor.name;
    file_.Tensor(GgufName(place.layer, part, place.suffix), dims, kF32, Bytes(values));
  }

  void SplitKvB(int32_t layer, const std::vector<float>& kv_b) {
    const uint64_t heads = Int("num_attention_heads"), rank = Int("kv_lora_rank");
    const uint64_t d_n = Int("qk_nope_head_dim"), d_v = Int("v_head_dim");
    std::vector<float> k, v;
    for (uint64_t h = 0; h < heads; ++h) {
      const auto head = kv_b.begin() + static_cast<int64_t>(h * (d_n + d_v) * rank);
      const auto middle = head + static_cast<int64_t>(d_n * rank);
      k.insert(k.end(), head, middle);
      v.insert(v.end(), middle, middle + static_cast<int64_t>(d_v * rank));
    }
    k = TransposeHeads(k, static_cast<int64_t>(heads), static_cast<int64_t>(rank));
    file_.Tensor(GgufName(layer, "attn_k_b", "weight"), {d_n, rank, heads}, kF32, Bytes(k));
    file_.Tensor(GgufName(layer, "attn_v_b", "weight"), {rank, d_v, heads}, kF32, Bytes(v));
  }

  std::string dir_;
  bool split_;
  Checkpoint checkpoint_;
  json config_;
  std::string arch_;
  GgufBytes file_;
  std::map<std::string, std::map<int, const StoredTensor*>> stacked_;
};

struct Case {
  const char* name;
  bool split_kv_b;
};

class GgufModelTest : public ::testing::TestWithParam<Case> {};

TEST_P(GgufModelTest, GivesTheGoldenLogits) {
  TempDir dir;
  const std::string path =
      dir.Write("m.gguf", Converter(GoldenDir(GetParam().name), GetParam().split_kv_b).Build());
  const auto model = LoadModel(path);
  const Golden golden = LoadGolden(GoldenDir(GetParam().name));
  Runner runner(*model, {});
  CachedSequence sequence(runner.cache.get());
  EXPECT_EQ(Compare(runner.Step(sequence, golden.input_ids), golden.logits,
                    model->spec().vocab_size, kGoldenF32),
            "");
}

INSTANTIATE_TEST_SUITE_P(Models, GgufModelTest,
                         ::testing::Values(Case{"llama_gqa", false}, Case{"llama_mqa", false},
                                           Case{"qwen2", false}, Case{"qwen3", false},
                                           Case{"deepseek_v3", false}, Case{"deepseek_v3", true},
                                           Case{"deepseek_v2_lite", true}),
                         [](const auto& info) {
                           return std::string(info.param.name) +
                                  (info.param.split_kv_b ? "_split" : "");
                         });

// Of YaRN GGUF can state the scale of the scores, not another one of cos and sin: with those equal,
// V2's routing and scaling give the directory's own logits.
TEST(GgufModel, DeepseekV2EqualsItsDirectory) {
  TempDir dir;
  json config = *ReadConfigFile(GoldenDir("deepseek_v2"));
  config["rope_scaling"]["mscale"] = config["rope_scaling"]["mscale_all_dim"];
  dir.Write("config.json", config.dump());
  std::filesystem::copy(GoldenDir("deepseek_v2") + "/model.safetensors", dir / "model.safetensors");
  const std::vector<int32_t> ids = LoadGolden(GoldenDir("deepseek_v2")).input_ids;
  const auto logits = [&](const std::string& path) {
    const auto model = LoadModel(path);
    Runner runner(*model, {});
    CachedSequence sequence(runner.cache.get());
    return runner.Step(sequence, ids);
  };
  const std::string path = dir.Write("m.gguf", Converter(dir.path(), false).Build());
  EXPECT_EQ(Compare(logits(path), logits(dir.path()), config["vocab_size"], {1e-5, 1e-5}), "");
}

// A file with one key too few, or wrong, is refused with the key.
TEST(GgufModel, RefusesMetadataThatDoNotFit) {
  TempDir dir;
  const auto refuses = [&](const GgufBytes& file, const char* message) {
    const auto model = Model::Load(dir.Write("m.gguf", file.Build()));
    ASSERT_FALSE(model.ok());
    EXPECT_NE(model.message().find(message), std::string::npos) << model.message();
  };
  GgufBytes file;
  refuses(file, "general.architecture is missing");
  refuses(GgufBytes().Str("general.architecture", "llama"), "\"token_embd.weight\" is missing");
  refuses(GgufBytes().Str("general.architecture", "mamba"),
          "general.architecture is \"mamba\", want one of deepseek2, llama, qwen2, qwen3");
  file.Str("general.architecture", "llama");
  file.Tensor("token_embd.weight", {4, 8}, kF32, std::string(128, '\0'));
  file.U32("llama.embedding_length", 4).U32("llama.attention.head_count", 2);
  refuses(file, "llama.context_length is missing");
  file.U32("llama.context_length", 64).F32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  GgufBytes zero = file, huge = file;
  refuses(zero.U32("llama.block_count", 0), "llama.block_count is 0, want an integer from 1");
  refuses(huge.U32("llama.block_count", ~0u), "llama.block_count is 4294967295");
}

// A good file, with one number of its metadata replaced.
std::string WithNumber(const GgufFile& file, std::string_view key, uint32_t bits) {
  GgufBytes changed;
  for (const GgufEntry& entry : file.metadata()) {
    const GgufValue& value = entry.value;
    std::string payload(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
    if (entry.key == key) payload = Le(bits);
    if (value.type == GgufType::kString) payload = GgufString(payload);
    changed.Raw(entry.key, static_cast<uint32_t>(value.type), payload);
  }
  for (const GgufTensor& tensor : file.tensors()) {
    changed.Tensor(tensor.name, {tensor.shape.rbegin(), tensor.shape.rend()}, tensor.type->id,
                   {reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()});
  }
  return changed.Build();
}

// Hyper-parameters of 0 (divided by, further on), huge ones and no numbers at all: refused in one
// line with the key, or met by the shapes of the tensors; never a crash.
TEST(GgufModel, EveryNumberIsChecked) {
  TempDir dir;
  // Where 0 says "none" or has a meaning of its own.
  const std::set<std::string> zero_is_fine = {
      "deepseek2.attention.q_lora_rank",        "deepseek2.expert_weights_scale",
      "deepseek2.expert_shared_count",          "deepseek2.attention.layer_norm_rms_epsilon",
      "llama.attention.layer_norm_rms_epsilon", "deepseek2.rope.scaling.yarn_log_multiplier"};
  // The heads' own are under *_mla.
  const std::set<std::string> not_read = {"deepseek2.attention.head_count_kv",
                                          "deepseek2.attention.key_length",
                                          "deepseek2.attention.value_length"};
  for (const char* name : {"deepseek_v3", "llama_gqa"}) {
    const std::string path = dir.Write("good.gguf", Converter(GoldenDir(name), true).Build());
    const auto file = GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.message();
    for (const GgufEntry& entry : file->metadata()) {
      const std::string key(entry.key);
      const bool is_float = entry.value.type == GgufType::kF32;
      if (entry.value.type != GgufType::kU32 && !is_float) continue;
      if (key.starts_with("general.") || not_read.count(key) > 0) continue;
      std::vector<uint32_t> numbers = {0, ~0u, 0x7fffffffu};
      if (is_float) numbers = {0, 0x7fc00000u, 0x7f800000u, 0xff800000u, 0x80000001u};
      for (const uint32_t bits : numbers) {
        if (bits == 0 && zero_is_fine.count(key) > 0) continue;
        SCOPED_TRACE(Concat(key, " as bits ", bits));
        const auto model = Model::Load(dir.Write("bad.gguf", WithNumber(*file, key, bits)));
        EXPECT_FALSE(model.ok());
        if (model.ok()) continue;
        EXPECT_EQ(model.message().find('\n'), std::string::npos);
        const bool named = model.message().find(key) != std::string::npos;
        const bool by_shape =
            model.message().find("do not fit the file's metadata") != std::string::npos;
        EXPECT_TRUE(named || by_shape) << model.message();
      }
    }
  }
}

TEST(GgufModel, ListsMissingTensors) {
  TempDir dir;
  GgufBytes file;
  file.Str("general.architecture", "llama").U32("llama.block_count", 1);
  file.Tensor("token_embd.weight", {4, 8}, kF32, std::string(128, '\0'));
  file.U32("llama.embedding_length", 4).U32("llama.attention.head_count", 2);
  file.U32("llama.context_length", 64).F32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  file.U32("llama.feed_forward_length", 8);
  const auto model = Model::Load(dir.Write("m.gguf", file.Build()));
  ASSERT_FALSE(model.ok());
  EXPECT_NE(model.message().find(
                "the tensors do not fit the file's metadata: output_norm.weight is missing; "
                "blk.0.attn_norm.weight is missing"),
            std::string::npos)
      << model.message();
}

}  // namespace
}  // namespace mla::test
