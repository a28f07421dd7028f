// Tokenizers put into GGUF files cut texts as they did in their directories, or are refused.
#include "io/tokenizer/gguf_tokenizer_writer.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/chat_template/chat_template.h"
#include "io/temp_dir.h"
#include "io/tokenizer/gguf_tokenizer.h"
#include "io/tokenizer_fixtures.h"

namespace mla::test {
namespace {

using nlohmann::json;

constexpr char kBundled[] = MLA_SOURCE_DIR "/models/stories-mla-9m";

struct Written {
  std::string bytes;
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<std::string> notes;
  std::string error;
};

// The tokenizer of `dir`, by way of a file.
Written WriteAndRead(const std::string& dir, const GgufTokenizerOptions& options) {
  Written written;
  GgufMetadata metadata;
  auto notes = AddGgufTokenizer(dir, options, metadata);
  if (!notes.ok()) {
    written.error = notes.message();
    return written;
  }
  written.notes = *notes;
  written.bytes = *GgufHeader(metadata, {});
  const auto file = GgufFile::Parse(std::as_bytes(std::span(written.bytes)), "written");
  EXPECT_TRUE(file.ok()) << file.message();
  auto tokenizer = LoadGgufTokenizer(*file);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.message();
  if (tokenizer.ok()) written.tokenizer = *std::move(tokenizer);
  return written;
}

GgufFile Open(const Written& written) {
  return *GgufFile::Parse(std::as_bytes(std::span(written.bytes)), "written");
}

TEST(GgufTokenizerWriter, BundledModel) {
  const Written written = WriteAndRead(kBundled, {.vocab_size = 4100, .eos_ids = {1, 2}});
  ASSERT_NE(written.tokenizer, nullptr) << written.error;
  ExpectFixture(*written.tokenizer, Fixture("stories-mla-9m"));
  const auto source = Tokenizer::Load(kBundled);
  ASSERT_TRUE(source.ok());
  EXPECT_EQ(*written.tokenizer->Encode("One day"), *(*source)->Encode("One day"));
  EXPECT_EQ(written.tokenizer->bos_id(), (*source)->bos_id());
  const GgufFile file = Open(written);
  EXPECT_EQ(*file.GetString("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(*file.GetString("tokenizer.ggml.pre"), "deepseek-v3");
  EXPECT_TRUE(*file.GetBoolOr("tokenizer.ggml.add_bos_token", false));
  EXPECT_FALSE(*file.GetBoolOr("tokenizer.ggml.add_eos_token", true));
  EXPECT_EQ(*file.GetInt("tokenizer.ggml.padding_token_id", 0, 9), 2);
  EXPECT_EQ(*file.GetInt("tokenizer.ggml.eos_token_id", 0, 9), 1);
  EXPECT_EQ(*file.GetInt("tokenizer.ggml.eot_token_id", 0, 9), 2);
  // Ids beyond the tokenizer's are filled up, as unused.
  EXPECT_EQ(file.GetStrings("tokenizer.ggml.tokens")->at(4097), "[PAD4097]");
  EXPECT_EQ(file.GetInts("tokenizer.ggml.token_type")->at(4097), 5);
  EXPECT_EQ(file.GetInts("tokenizer.ggml.token_type")->at(0), 3);
}

TEST(GgufTokenizerWriter, ReleasedTokenizers) {
  const std::pair<const char*, const char*> cases[] = {
      {"deepseek_v3", "deepseek-v3"}, {"qwen2_5", "qwen2"}, {"gpt2", "gpt-2"}};
  for (const auto& [name, pre] : cases) {
    const std::string dir = SharedDir() + "/tokenizers/" + name;
    if (!Exists(dir + "/tokenizer.json")) GTEST_SKIP() << dir << " is absent";
    SCOPED_TRACE(name);
    const Written written = WriteAndRead(dir, {.vocab_size = 152064, .eos_ids = {}});
    ASSERT_NE(written.tokenizer, nullptr) << written.error;
    ExpectFixture(*written.tokenizer, Fixture(name));
    EXPECT_EQ(*Open(written).GetString("tokenizer.ggml.pre"), pre);
    const auto templates = ReadChatTemplates(dir);
    EXPECT_EQ(templates.ok(), Open(written).Find("tokenizer.chat_template") != nullptr);
    if (templates.ok()) {
      EXPECT_EQ(*Open(written).GetString("tokenizer.chat_template"), templates->at(0).text);
    }
  }
}

TEST(GgufTokenizerWriter, SentencePieces) {
  const std::string shared = SharedDir() + "/models/stories15m";
  if (!Exists(shared + "/tokenizer.model")) GTEST_SKIP() << shared << " is absent";
  const TempDir dir;
  std::filesystem::copy(shared + "/tokenizer.model", dir / "tokenizer.model");
  dir.Write("added_tokens.json", R"({"<|im_end|>": 32000, "<tool>": 32001})");
  dir.Write("special_tokens_map.json", R"({"additional_special_tokens": ["<|im_end|>"]})");
  const Written written = WriteAndRead(dir.path(), {.vocab_size = 32002, .eos_ids = {}});
  ASSERT_NE(written.tokenizer, nullptr) << written.error;
  const json fixture = Fixture("stories15m");
  for (const auto& item : fixture["cases"]) {
    const auto ids = written.tokenizer->Encode(item["text"].get<std::string>(), {false, false});
    ASSERT_TRUE(ids.ok()) << ids.message();
    EXPECT_EQ(*ids, Ids(item["ids"])) << item["text"];
    EXPECT_EQ(DecodeBothWays(*written.tokenizer, *ids, true), item["decoded"].get<std::string>());
  }
  const GgufFile file = Open(written);
  EXPECT_EQ(*file.GetString("tokenizer.ggml.model"), "llama");
  EXPECT_EQ(file.GetInts("tokenizer.ggml.token_type")->at(3), 6);  // <0x00>
  EXPECT_EQ(file.GetInts("tokenizer.ggml.token_type")->at(32000), 3);
  EXPECT_EQ(file.GetInts("tokenizer.ggml.token_type")->at(32001), 4);
  EXPECT_EQ(*file.GetInt("tokenizer.ggml.unknown_token_id", 0, 9), 0);
  EXPECT_TRUE(*file.GetBoolOr("tokenizer.ggml.add_bos_token", false));
}

// SentencePiece's BPE in tokenizer.json: merges instead of scores.
json LlamaJson() {
  json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  char text[8];
  for (int i = 0; i < 256; ++i) {
    std::snprintf(text, sizeof(text), "<0x%02X>", i);
    vocab[text] = 3 + i;
  }
  int id = 259;
  for (const char* piece : {"\u2581", "a", "b", "c", "bc", "ab", "\u2581a", "\u2581ab"}) {
    vocab[piece] = id++;
  }
  json added = json::array();
  for (const auto& [token, i] : {std::pair("<unk>", 0), {"<s>", 1}, {"</s>", 2}}) {
    added.push_back({{"id", i}, {"content", token}, {"special", true}, {"normalized", false}});
  }
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers",
             {{{"type", "Prepend"}, {"prepend", "\u2581"}},
              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}}},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
              {{"type", "ByteFallback"}},
              {{"type", "Fuse"}},
              {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges", {"b c", "a b", "\u2581 a", "\u2581 ab"}}}}};
}

TEST(GgufTokenizerWriter, SentencePiecesOfJson) {
  const TempDir dir;
  dir.Write("tokenizer.json", LlamaJson().dump());
  dir.Write("tokenizer_config.json",
            R"({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true})");
  const auto source = Tokenizer::Load(dir.path());
  ASSERT_TRUE(source.ok()) << source.message();
  const Written written = WriteAndRead(dir.path(), {.vocab_size = 267, .eos_ids = {}});
  ASSERT_NE(written.tokenizer, nullptr) << written.error;
  EXPECT_EQ(*Open(written).GetString("tokenizer.ggml.model"), "llama");
  for (const char* text : {"abc", "ab ab c", "bcabc", "a~\u00e9b", ""}) {
    EXPECT_EQ(*written.tokenizer->Encode(text), *(*source)->Encode(text)) << text;
  }
  EXPECT_EQ(written.tokenizer->Encode("abc")->front(), 1);
}

TEST(GgufTokenizerWriter, RefusesWhatGgufCannotState) {
  const json bundled = json::parse(ReadAll(std::string(kBundled) + "/tokenizer.json"));
  const auto error = [](const json& tokenizer, int32_t vocab_size = 4096, int32_t bos_id = 0) {
    const TempDir dir;
    dir.Write("tokenizer.json", tokenizer.dump());
    return WriteAndRead(dir.path(), {.vocab_size = vocab_size, .bos_id = bos_id, .eos_ids = {}})
        .error;
  };
  EXPECT_EQ(error(bundled), "");
  EXPECT_NE(error(bundled, 4095).find("has 4096 tokens, want at most the model's vocab_size, 4095"),
            std::string::npos);
  json other = bundled;
  other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\p{N}{1,2}";
  EXPECT_NE(error(other).find("pre_tokenizer cuts words in a way that has no name in GGUF"),
            std::string::npos)
      << error(other);
  other = bundled;
  other["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_NE(error(other).find("GGUF cannot state this tokenizer: of the text \"Once upon"),
            std::string::npos)
      << error(other);
  // Only BOS and EOS around a text; this one is neither, no config naming any.
  const std::string around = error(bundled, 4096, -1);
  EXPECT_NE(around.find("puts token 0 around a text"), std::string::npos) << around;
  const TempDir empty;
  GgufMetadata metadata;
  const auto none = AddGgufTokenizer(empty.path(), {.vocab_size = 8, .eos_ids = {}}, metadata);
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(metadata.count(), 0u);
}

TEST(GgufTokenizerWriter, NotesWhatIsLost) {
  json tokenizer = json::parse(ReadAll(std::string(kBundled) + "/tokenizer.json"));
  tokenizer["added_tokens"][2]["rstrip"] = true;
  const TempDir dir;
  dir.Write("tokenizer.json", tokenizer.dump());
  dir.Write("tokenizer_config.json", ReadAll(std::string(kBundled) + "/tokenizer_config.json"));
  const Written written = WriteAndRead(dir.path(), {.vocab_size = 4096, .eos_ids = {5, 6, 7, 8}});
  ASSERT_EQ(written.notes.size(), 2u) << written.error;
  EXPECT_NE(written.notes[0].find("1 added token takes the spaces beside them"), std::string::npos)
      << written.notes[0];
  EXPECT_NE(written.notes[1].find("of 5 tokens that end a text the first 3 are named"),
            std::string::npos)
      << written.notes[1];
}

}  // namespace
}  // namespace mla::test
