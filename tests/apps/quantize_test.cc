// mla quantize, and mla inspect on what it writes.
#include <filesystem>
#include <string>
#include <vector>

#include "apps/process.h"

namespace mla::test {
namespace {

using Json = nlohmann::json;

const std::string kGolden = MLA_SOURCE_DIR "/tests/golden/";

std::vector<std::string> Quantize(const std::string& model, const std::string& to,
                                  const std::string& type) {
  return {"quantize", model, "-o", to, "--type", type};
}

std::vector<std::string> Greedy(const std::string& model) {
  return {"run",       model, "-p",    "One day, a dragon", "-n", "24", "--temperature", "0",
          "--compute", "f32", "--json"};
}

TEST(Quantize, TheFileRunsLikeItsDirectory) {
  const TempDir dir;
  const std::string file = dir / "m.gguf";
  const ProcessResult written = RunMla(Quantize(kModel, file, "bf16"));
  ASSERT_EQ(written.status, 0) << written.err;
  EXPECT_EQ(written.out, "");
  EXPECT_TRUE(IsOneLine(written.err)) << written.err;
  EXPECT_TRUE(Contains(written.err, "wrote " + file + ": ")) << written.err;
  EXPECT_TRUE(Contains(written.err, " bits per weight")) << written.err;
  const Json from_file = RunJson(Greedy(file)), from_dir = RunJson(Greedy(kModel));
  EXPECT_EQ(from_file["text"], from_dir["text"]);
  EXPECT_EQ(dir.Names(), std::vector<std::string>{"m.gguf"});

  // A q8_0 file is a source too, with a warning.
  ASSERT_EQ(RunMla(Quantize(file, dir / "q8.gguf", "q8_0")).status, 0);
  const ProcessResult again = RunMla(Quantize(dir / "q8.gguf", dir / "q4.gguf", "q4_k"));
  ASSERT_EQ(again.status, 0) << again.err;
  EXPECT_TRUE(Contains(again.err, "note: the source is quantised already (")) << again.err;
  EXPECT_TRUE(Contains(again.err, "are Q5_0, not Q4_K (rows of 192 are no multiple of 256)"))
      << again.err;
  EXPECT_EQ(RunMla({"run", dir / "q4.gguf", "-p", "Once", "-n", "4"}).status, 0);
}

TEST(Quantize, RefusesInOneLine) {
  const TempDir dir;
  const std::string out = dir / "m.gguf";
  struct Case {
    std::vector<std::string> args;
    int status;
    std::vector<std::string> wants;
  };
  const Case cases[] = {
      {Quantize(kModel, out, "q2_k"), 2, {"--type", "\"q2_k\"", "f32, f16, bf16, q8_0"}},
      {{"quantize", kModel, "-o", out}, 2, {"--type"}},
      {{"quantize", kModel, "--type", "q8_0"}, 2, {"--output"}},
      {Quantize(dir / "absent", out, "q8_0"), 1, {dir / "absent"}},
      {Quantize(dir / "absent.gguf", out, "q8_0"), 1, {"absent.gguf"}},
      {Quantize(kModel, dir / "no/where", "q8_0"), 1, {"no/where"}},
      {Quantize(kModel, "/dev/full", "q8_0"), 1, {"/dev/full", "No space left"}},
      {Quantize(kGolden + "deepseek_v2", out, "f32"), 1, {"cannot state", "mscale"}},
      {Quantize(kGolden + "minicpm3", out, "f32"), 1, {"cannot state", "scale_emb"}},
  };
  for (const Case& test : cases) {
    const ProcessResult result = RunMla(test.args);
    EXPECT_EQ(result.status, test.status) << result.err;
    EXPECT_EQ(result.out, "");
    // Notes may stand before it.
    const size_t error = result.err.find("mla quantize: error: ");
    ASSERT_NE(error, std::string::npos) << result.err;
    EXPECT_TRUE(IsOneLine(result.err.substr(error))) << result.err;
    for (const std::string& want : test.wants) {
      EXPECT_TRUE(Contains(result.err, want)) << want << " in: " << result.err;
    }
  }
  EXPECT_TRUE(dir.Names().empty());
}

TEST(Quantize, AFullDiskLeavesTheOldFile) {
  const TempDir dir;
  dir.Write("old.gguf", "as before");
  ProcessOptions full;
  full.max_file_bytes = 2000000;
  const ProcessResult result = RunMla(Quantize(kModel, dir / "old.gguf", "q8_0"), full);
  EXPECT_EQ(result.status, 1);
  EXPECT_TRUE(Contains(result.err, "old.gguf") && Contains(result.err, "too large")) << result.err;
  EXPECT_EQ(dir.Names(), std::vector<std::string>{"old.gguf"});
  EXPECT_EQ(ReadAll(dir / "old.gguf"), "as before");
}

TEST(Quantize, DoesNotWriteOverItsSource) {
  const TempDir dir;
  const std::string file = dir / "m.gguf";
  ASSERT_EQ(RunMla(Quantize(kGolden + "llama_mha", file, "f32")).status, 0);
  const std::string before = ReadAll(file);
  std::filesystem::create_symlink(file, dir / "link.gguf");
  for (const std::string& to : {file, dir / "link.gguf"}) {
    const ProcessResult result = RunMla(Quantize(file, to, "q8_0"));
    EXPECT_EQ(result.status, 1);
    EXPECT_TRUE(Contains(result.err, "the model itself, want another file")) << result.err;
  }
  EXPECT_TRUE(ReadAll(file) == before);
}

TEST(Quantize, SaysWhatIsMissing) {
  const TempDir dir;
  const ProcessResult result = RunMla(Quantize(kGolden + "deepseek_v3", dir / "m.gguf", "q4_0"));
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_TRUE(Contains(result.err, "no tokenizer: none of tokenizer.json, tiktoken.model and"))
      << result.err;
  EXPECT_TRUE(Contains(result.err, "the file will have none either")) << result.err;
  const ProcessResult run = RunMla({"run", dir / "m.gguf", "-p", "x"});
  EXPECT_EQ(run.status, 1);
  EXPECT_TRUE(Contains(run.err, "tokenizer.ggml.model is \"none\"")) << run.err;
}

TEST(InspectText, ShowsFormatTypesTokensAndTemplate) {
  const TempDir dir;
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    std::filesystem::copy(kModel + "/" + name, dir / name);
  }
  Json config = Json::parse(ReadAll(kModel + "/tokenizer_config.json"));
  config["chat_template"] = "{% for m in messages %}\n{{ m.content }}\n{% endfor %}\nlast\nend";
  dir.Write("tokenizer_config.json", config.dump());
  const std::string file = dir / "m.gguf";
  ASSERT_EQ(RunMla(Quantize(dir.path(), file, "q4_k")).status, 0);
  for (const std::string& model : {dir.path(), file}) {
    SCOPED_TRACE(model);
    const bool gguf = model == file;
    const ProcessResult text = RunMla({"inspect", model});
    ASSERT_EQ(text.status, 0) << text.err;
    EXPECT_TRUE(Contains(text.out, gguf ? "\nformat: GGUF version 3, alignment 32\n"
                                        : "\nformat: safetensors, 1 file\n"))
        << text.out;
    EXPECT_TRUE(Contains(text.out, gguf ? "\ntokenizer: GGUF, gpt2, words cut as deepseek-v3, "
                                        : "\ntokenizer: tokenizer.json, "));
    EXPECT_TRUE(Contains(text.out, "4,096 tokens, 3 special\n  bos 0 <")) << text.out;
    EXPECT_TRUE(Contains(text.out, "\n  pad 2 <"));
    EXPECT_TRUE(Contains(text.out,
                         "\nchat template \"default\": 5 lines, 61 bytes (--template prints it)\n"
                         "  {% for m in messages %}\n  {{ m.content }}\n  {% endfor %}\n  ...\n"))
        << text.out;
    const ProcessResult whole = RunMla({"inspect", model, "--template"});
    EXPECT_EQ(whole.out, config["chat_template"].get<std::string>() + "\n");
    const Json json = RunJson({"inspect", model, "--json"});
    EXPECT_EQ(json["format"], gguf ? "gguf" : "safetensors");
    EXPECT_EQ(json["chat_templates"][0]["text"], config["chat_template"]);
    EXPECT_EQ(json["tokenizer"]["special"].size(), 3u);
    EXPECT_EQ(json["tokenizer"]["roles"][0], (Json{{"role", "bos"}, {"id", 0}}));
    if (!gguf) continue;
    // In the file's words, and before anything is converted.
    EXPECT_EQ(json["stored_kinds"]["attn_kv_a_mqa"], (Json{{"Q4_K", 6}}));
    EXPECT_EQ(json["stored_kinds"]["attn_k_b"], (Json{{"Q5_0", 6}}));
    EXPECT_EQ(json["stored_kinds"]["ffn_up_exps"], (Json{{"Q4_K", 5}}));
    EXPECT_EQ(json["stored_kinds"]["ffn_gate_inp"], (Json{{"F32", 5}}));
    EXPECT_EQ(json["stored"]["F32"]["tensors"], 35);
  }
}

// Of a model that cannot be run the files are shown all the same, and why it cannot.
TEST(InspectText, ShowsTheFilesOfAModelThatIsNotSupported) {
  const TempDir dir;
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    std::filesystem::copy(kModel + "/" + name, dir / name);
  }
  const std::string file = dir / "m.gguf";
  ASSERT_EQ(RunMla(Quantize(dir.path(), file, "q8_0")).status, 0);
  Json config = Json::parse(ReadAll(kModel + "/config.json"));
  config["model_type"] = "gemma9";
  dir.Write("config.json", config.dump());
  // The architecture of the GGUF file, in place: of the same length.
  std::string bytes = ReadAll(file);
  bytes.replace(bytes.find("deepseek2"), 9, "gemma9999");
  dir.Write("m.gguf", bytes);
  for (const auto& [model, type] :
       {std::pair(dir.path(), "gemma9"), std::pair(file, "gemma9999")}) {
    SCOPED_TRACE(model);
    const ProcessResult text = RunMla({"inspect", model});
    ASSERT_EQ(text.status, 0) << text.err;
    EXPECT_TRUE(Contains(text.out, ": not a model that mla runs: ")) << text.out;
    EXPECT_TRUE(Contains(text.out, type));
    EXPECT_TRUE(Contains(text.out, "4,096 tokens, 3 special")) << text.out;
    const Json json = RunJson({"inspect", model, "--json"});
    EXPECT_TRUE(Contains(json["problem"].get<std::string>(), type));
    EXPECT_GT(json["stored_bytes"], 1000000);
  }
  // Anything else that is wrong stays an error.
  dir.Write("m.gguf", bytes.substr(0, bytes.size() / 2));
  EXPECT_EQ(RunMla({"inspect", file}).status, 1);
}

TEST(InspectText, SaysWhatCannotBeUsed) {
  const TempDir dir;
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    std::filesystem::copy(kModel + "/" + name, dir / name);
  }
  dir.Write("chat_template.jinja", "{% include 'x' %}");
  const ProcessResult unusable = RunMla({"inspect", dir.path()});
  EXPECT_EQ(unusable.status, 0) << unusable.err;
  EXPECT_TRUE(Contains(unusable.out, "chat template not usable: ")) << unusable.out;
  EXPECT_TRUE(Contains(unusable.out, "include")) << unusable.out;
  const ProcessResult none = RunMla({"inspect", kModel});
  EXPECT_TRUE(Contains(none.out, "\nchat template: none\n")) << none.out;
  const ProcessResult bare = RunMla({"inspect", kGolden + "llama_mha"});
  EXPECT_EQ(bare.status, 0) << bare.err;
  EXPECT_TRUE(Contains(bare.out, "\ntokenizer: ") && Contains(bare.out, "no tokenizer"))
      << bare.out;
  EXPECT_EQ(RunMla({"inspect", kModel, "--template"}).status, 1);
  EXPECT_EQ(RunMla({"inspect", "--template"}).status, 2);
  EXPECT_EQ(RunMla({"inspect", kModel, "--template", "--json"}).status, 2);
}

}  // namespace
}  // namespace mla::test
