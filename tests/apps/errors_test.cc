// What the user gets wrong: one line on standard error with the value in it, a status that is
// neither 0 nor a signal, nothing on standard output, nothing left on disk.
#include <string>
#include <vector>

#include "apps/process.h"

namespace mla::test {
namespace {

struct ErrorCase {
  std::vector<std::string> args;
  int status;
  std::vector<std::string> parts;  // of the message
};

void Expect(const ErrorCase& test, const ProcessOptions& options = {}) {
  std::string name;
  for (const std::string& arg : test.args) name += " " + arg;
  SCOPED_TRACE("mla" + name);
  const ProcessResult result = RunMla(test.args, options);
  EXPECT_EQ(result.status, test.status);
  EXPECT_TRUE(IsOneLine(result.err)) << result.err;
  EXPECT_TRUE(result.err.starts_with("mla")) << result.err;
  EXPECT_TRUE(Contains(result.err, ": error: ")) << result.err;
  EXPECT_EQ(result.out, "");
  for (const std::string& part : test.parts) {
    EXPECT_TRUE(Contains(result.err, part)) << "want " << part << " in: " << result.err;
  }
}

TEST(Errors, Usage) {
  const std::vector<ErrorCase> cases = {
      {{"rum"}, 2, {"\"rum\"", "run"}},
      {{"frobnicate"},
       2,
       {"frobnicate", "run, chat, logits, perplexity, tokenize, inspect, quantize, bench"}},
      {{"--frobnicate"}, 2, {"--frobnicate"}},
      {{"run", kModel, "--frobnicate"}, 2, {"--frobnicate"}},
      {{"run", kModel, "extra", "words"}, 2, {"extra"}},
      {{"run", kModel, "-p"}, 2, {"prompt"}},
      {{"chat"}, 2, {"MODEL"}},
      {{"logits", kModel}, 2, {"--"}},
      {{"logits", kModel, "--tokens", "0"}, 2, {"--output"}},
      {{"perplexity", kModel}, 2, {"--file"}},
      {{"tokenize"}, 2, {"MODEL"}},
      {{"inspect"}, 2, {"MODEL", "--system"}},
      {{"bench"}, 2, {"MODEL"}},
      {{"bench", kModel, "--json", "--csv"}, 2, {"--csv"}},
      // No name is not the default name.
      {{"run", "", "-p", "Hi"}, 2, {"MODEL", "empty"}},
      {{"inspect", ""}, 2, {"MODEL", "empty"}},
      {{"quantize", "", "-o", "x", "--type", "f16"}, 2, {"MODEL", "empty"}},
      {{"tokenize", "", "x"}, 2, {"MODEL", "empty"}},
      {{"plan", ""}, 2, {"MODEL", "empty"}},
      // Flags that would change nothing.
      {{"inspect", kModel, "--quantize", "q4"}, 2, {"--quantize"}},
      {{"inspect", kModel, "--page-size", "3"}, 2, {"--page-size"}},
      {{"inspect", kModel, "--context", "5"}, 2, {"--context"}},
      {{"inspect", kModel, "--threads", "7"}, 2, {"--threads"}},
      {{"inspect", kModel, "--template", "--compute", "f32"}, 2, {"--compute"}},
      {{"inspect", "--system", "--kv-dtype", "f16"}, 2, {"--kv-dtype"}},
  };
  for (const ErrorCase& test : cases) Expect(test);
}

TEST(Errors, FlagsOutOfRange) {
  const std::vector<ErrorCase> cases = {
      {{"--temperature", "-1"}, 2, {"--temperature", "\"-1\"", "0 to 100"}},
      {{"--temperature", "101"}, 2, {"\"101\"", "0 to 100"}},
      {{"--temperature", "nan"}, 2, {"\"nan\"", "0 to 100"}},
      {{"--temperature", "warm"}, 2, {"\"warm\"", "0 to 100"}},
      {{"--top-k", "-3"}, 2, {"--top-k", "\"-3\"", "from 0"}},
      {{"--top-k", "2.5"}, 2, {"\"2.5\"", "integer"}},
      {{"--top-p", "0"}, 2, {"--top-p", "\"0\"", "above 0 and at most 1"}},
      {{"--top-p", "1.5"}, 2, {"\"1.5\"", "above 0 and at most 1"}},
      {{"--min-p", "2"}, 2, {"--min-p", "\"2\"", "0 to 1"}},
      {{"--repeat-penalty", "0"}, 2, {"--repeat-penalty", "\"0\"", "0.01 to 100"}},
      {{"--seed", "-1"}, 2, {"--seed", "\"-1\"", "18446744073709551615"}},
      {{"--seed", "99999999999999999999"}, 2, {"99999999999999999999"}},
      {{"-n", "-2"}, 2, {"--max-tokens", "\"-2\"", "from 0"}},
      {{"--context", "0"}, 2, {"--context", "\"0\"", "from 1"}},
      {{"--context", "5000"}, 1, {"context is 5000, want 1 to 1024, the model's own\n"}},
      {{"--threads", "0"}, 2, {"--threads", "\"0\"", "1 to 1024"}},
      {{"--threads", "1025"}, 2, {"\"1025\"", "1 to 1024"}},
      {{"--threads", "two"}, 2, {"\"two\""}},
      {{"--page-size", "0"}, 2, {"--page-size", "\"0\"", "1 to 256"}},
      {{"--page-size", "257"}, 2, {"\"257\"", "1 to 256"}},
      {{"--prefill-chunk", "0"}, 2, {"--prefill-chunk", "\"0\""}},
      {{"--kv-dtype", "f64"}, 2, {"--kv-dtype", "\"f64\"", "f32, f16, bf16, int8"}},
      {{"--kv-dtype", "int8", "--attention", "mha"},
       1,
       {"int8", "layer 0", "want f32, f16 or bf16"}},
      {{"--attention", "flash"}, 2, {"--attention", "\"flash\"", "auto, absorbed, expanded"}},
      {{"--compute", "fp8"}, 2, {"--compute", "\"fp8\"", "f32, bf16"}},
  };
  for (ErrorCase test : cases) {
    test.args.insert(test.args.begin(), {"run", kModel, "-p", "Once"});
    Expect(test);
  }
  const std::vector<ErrorCase> bench = {
      {{"--repetitions", "0"}, 2, {"--repetitions", "\"0\""}},
      {{"-n", "0"}, 2, {"--decode-tokens", "\"0\""}},
      {{"-n", "2000"}, 1, {"2000", "1024"}},
      {{"--depths", "0,2000"}, 1, {"--depths", "2000", "960", "1024"}},
      {{"--depths", "x"}, 1, {"--depths", "\"x\""}},
      {{"--prompt-lengths", "1025"}, 1, {"--prompt-lengths", "1025", "1024"}},
      {{"--prompt-lengths", "0"}, 1, {"--prompt-lengths", "\"0\""}},
      {{"--prompt-lengths", ","}, 1, {"--prompt-lengths", "empty"}},
  };
  for (ErrorCase test : bench) {
    test.args.insert(test.args.begin(), {"bench", kModel});
    Expect(test);
  }
}

TEST(Errors, ModelsThatCannotBeLoaded) {
  const TempDir dir;
  const std::string config = ReadAll(kModel + "/config.json");
  Expect({{"run", dir / "absent", "-p", "x"}, 1, {dir / "absent"}});
  Expect({{"run", dir.path(), "-p", "x"}, 1, {"config.json"}});
  dir.Write("config.json", "{\"model_type\": \"gpt2\"}");
  Expect({{"run", dir.path(), "-p", "x"}, 1, {"gpt2", "deepseek_v2", "deepseek_v3", "llama"}});
  dir.Write("config.json", "{\"model_type\": ");
  Expect({{"inspect", dir.path()}, 1, {"config.json", "line 1"}});
  dir.Write("config.json", config);
  Expect({{"inspect", dir.path()}, 1, {"model.safetensors"}});
  dir.Write("model.safetensors", std::string("\xff\xff\0\0\0\0\0\0{}", 10));
  Expect({{"bench", dir.path()}, 1, {"model.safetensors", "65535"}});
  // A model without a tokenizer, and a damaged one.
  dir.Write("model.safetensors", ReadAll(kModel + "/model.safetensors"));
  Expect({{"run", dir.path(), "-p", "x"}, 1, {"tokenizer.json"}});
  dir.Write("tokenizer.json", "[");
  Expect({{"run", dir.path(), "-p", "x"}, 1, {dir / "tokenizer.json: line 1, "}});
  dir.Write("tokenizer.json", "[]");
  Expect({{"run", dir.path(), "-p", "x"}, 1, {"tokenizer.json"}});
  dir.Write("tokenizer.json", ReadAll(kModel + "/tokenizer.json"));
  dir.Write("generation_config.json", R"({"temperature": "hot"})");
  Expect({{"run", dir.path(), "-p", "x"}, 1, {"generation_config.json", "temperature", "hot"}});
}

TEST(Errors, NoModelHere) {
  const TempDir empty;
  ProcessOptions options;
  options.directory = empty.path();
  Expect({{"run", "-p", "x"}, 2, {"models/stories-mla-9m"}}, options);
}

TEST(Errors, Prompts) {
  Expect({{"run", kModel, "-p", "One\xff day"}, 1, {"UTF-8", "3"}});
  ProcessOptions invalid;
  invalid.input = "Once\xc3(";
  Expect({{"run", kModel}, 1, {"standard input", "UTF-8", "4"}}, invalid);
  Expect({{"run", kModel, "--context", "4", "-p", "Once upon a time there was"},
          1,
          {"prompt", "tokens", "at most 4"}});
  std::string text;
  for (int i = 0; i < 1100; ++i) text += " the";
  Expect({{"run", kModel, "-p", text}, 1, {"1101", "1024"}});
  Expect({{"tokenize", kModel, "\xff"}, 1, {"UTF-8"}});
  Expect({{"tokenize", kModel, "--decode", "4096"}, 1, {"4096", "4095"}});
}

TEST(Errors, Files) {
  const TempDir dir;
  Expect({{"perplexity", kModel, "--file", dir / "absent"}, 1, {dir / "absent"}});
  Expect({{"perplexity", kModel, "--file", dir.path()}, 1, {dir.path()}});
  Expect({{"perplexity", kModel, "--file", dir.Write("bad", "ab\xfe")}, 1, {"UTF-8", "2"}});
  const std::string blank = dir.Write("blank", "  \n");
  Expect({{"perplexity", kModel, "--file", blank, "--separator", "X"}, 1, {"no token"}});
  Expect({{"perplexity", kModel, "--file", blank, "--context", "1"}, 1, {"1", "at least 2"}});
}

TEST(Errors, TokenIds) {
  const TempDir dir;
  const std::string out = dir / "out.safetensors";
  const auto logits = [&](const std::string& ids) {
    return std::vector<std::string>{"logits", kModel, "--tokens", ids, "-o", out};
  };
  Expect({logits("0,4096"), 1, {"4096", "4095", "entry 2"}});
  Expect({logits("0,-1"), 1, {"\"-1\""}});
  Expect({logits("0,one"), 1, {"\"one\""}});
  Expect({logits(""), 1, {"--tokens", "empty"}});
  Expect({logits("@" + (dir / "absent")), 1, {"absent"}});
  Expect({logits(JoinIds(std::vector<int32_t>(1025, 5))), 1, {"1025", "1024"}});
  EXPECT_TRUE(dir.Names().empty());
}

TEST(Errors, AFullDiskLeavesNothing) {
  const TempDir dir;
  const std::string ids = JoinIds(std::vector<int32_t>(100, 5));  // 1.6 MB of logits
  ProcessOptions full;
  full.max_file_bytes = 500000;
  Expect({{"logits", kModel, "--tokens", ids, "-o", dir / "new"}, 1, {dir / "new", "too large"}},
         full);
  EXPECT_TRUE(dir.Names().empty());
  dir.Write("old", "as before");
  Expect({{"logits", kModel, "--tokens", ids, "-o", dir / "old"}, 1, {dir / "old"}}, full);
  EXPECT_EQ(dir.Names(), std::vector<std::string>{"old"});
  EXPECT_EQ(ReadAll(dir / "old"), "as before");
  Expect({{"logits", kModel, "--tokens", ids, "-o", "/dev/full"}, 1, {"/dev/full", "No space"}});
  Expect({{"logits", kModel, "--tokens", ids, "-o", dir / "no/where"}, 1, {"no/where"}});
}

}  // namespace
}  // namespace mla::test
