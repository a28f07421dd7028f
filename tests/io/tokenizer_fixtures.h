// The fixtures of tests/data/tokenizer, made by tools/make_tokenizer_fixtures.py.
#ifndef MLA_TESTS_IO_TOKENIZER_FIXTURES_H_
#define MLA_TESTS_IO_TOKENIZER_FIXTURES_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "io/tokenizer/tokenizer.h"

namespace mla {

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline nlohmann::json Fixture(const std::string& name) {
  return nlohmann::json::parse(
      ReadAll(std::string(MLA_SOURCE_DIR) + "/tests/data/tokenizer/" + name + ".json"));
}

// The folder with tokenizers, models and texts that are too large for the repository.
inline std::string SharedDir() {
  const char* shared = std::getenv("MLA_SHARED");
  return shared != nullptr ? shared : std::string(MLA_SOURCE_DIR) + "/../shared";
}

inline bool Exists(const std::string& path) { return std::ifstream(path).good(); }

inline uint64_t Fnv1a64(std::span<const int32_t> ids) {
  uint64_t value = 0xcbf29ce484222325u;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      value = (value ^ ((static_cast<uint32_t>(id) >> shift) & 0xff)) * 0x100000001b3u;
    }
  }
  return value;
}

inline std::vector<int32_t> Ids(const nlohmann::json& json) {
  return json.get<std::vector<int32_t>>();
}

// Decodes as one text and as a stream, whose parts must be valid and add up to the same.
inline std::string DecodeBothWays(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                                  bool skip_special) {
  Result<std::string> whole = tokenizer.Decode(ids, skip_special);
  EXPECT_TRUE(whole.ok()) << whole.message();
  if (!whole.ok()) return {};
  StreamDecoder stream(tokenizer, skip_special);
  std::string streamed;
  for (const int32_t id : ids) {
    Result<std::string> part = stream.Push(id);
    EXPECT_TRUE(part.ok()) << part.message();
    if (!part.ok()) return {};
    EXPECT_TRUE(ValidateUtf8(*part).ok()) << *part;
    streamed += *part;
  }
  streamed += stream.Flush();
  EXPECT_EQ(streamed, *whole);
  return *whole;
}

// Every case of a fixture made with Hugging Face's tokenizers.
inline void ExpectFixture(const Tokenizer& tokenizer, const nlohmann::json& fixture) {
  for (const auto& item : fixture["cases"]) {
    const auto text = item["text"].get<std::string>();
    SCOPED_TRACE("text: " + text.substr(0, 60));
    for (const bool parse_special : {false, true}) {
      const auto ids = tokenizer.Encode(text, {false, parse_special});
      ASSERT_TRUE(ids.ok()) << ids.message();
      EXPECT_EQ(*ids, Ids(item[parse_special ? "ids_parse_special" : "ids"])) << parse_special;
    }
    if (!item.contains("decoded")) continue;
    const std::vector<int32_t> ids = Ids(item["ids_parse_special"]);
    EXPECT_EQ(DecodeBothWays(tokenizer, ids, false), item["decoded"].get<std::string>());
    EXPECT_EQ(DecodeBothWays(tokenizer, ids, true),
              item["decoded_skip_special"].get<std::string>());
  }
  for (const auto& item : fixture["random_ids"]) {
    SCOPED_TRACE("ids: " + item["ids"].dump());
    EXPECT_EQ(DecodeBothWays(tokenizer, Ids(item["ids"]), false),
              item["decoded"].get<std::string>());
  }
}

}  // namespace mla

#endif  // MLA_TESTS_IO_TOKENIZER_FIXTURES_H_
