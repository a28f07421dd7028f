#include "io/tokenizer/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "io/read_file.h"
#include "io/tokenizer/vocabulary.h"

namespace mla {
namespace {

constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr const char* kDecoder = "added_tokens_decoder";

// An object in a file that may be absent.
Result<std::optional<Json>> ReadOptionalObject(const std::string& path) {
  const Result<std::string> text = ReadFile(path, kMaxFileBytes);
  if (!text.ok()) {
    if (text.error().code == ErrorCode::kNotFound) return std::optional<Json>();
    return text.error();
  }
  MLA_ASSIGN_OR_RETURN(Json json, ParseJson(*text, path));
  if (!json.is_object()) return CorruptFile(path, " is ", DescribeJson(json), ", want an object");
  return std::optional<Json>(std::move(json));
}

// The text of a token: a string, or an object's content; empty for anything else.
std::string Content(const Json& token) {
  if (token.is_string()) return token.get<std::string>();
  if (!token.is_object()) return {};
  const Json* content = FindField(token, "content");
  return content != nullptr && content->is_string() ? content->get<std::string>() : std::string();
}

// The tokens that a config names for a purpose: "bos_token", "additional_special_tokens", ...
std::set<std::string> NamedTokens(const Json& config) {
  std::set<std::string> names;
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token") && key != "additional_special_tokens") continue;
    if (!value.is_array()) names.insert(Content(value));
    for (const Json& item : value.is_array() ? value : Json::array()) names.insert(Content(item));
  }
  return names;
}

// added_tokens.json ({"<|im_end|>": 32000}) in the words of the newer file.
Result<Json> DecoderOf(const Json& added, const Json& config, const std::string& path) {
  const std::set<std::string> special = NamedTokens(config);
  Json decoder = Json::object();
  for (const auto& [content, id] : added.items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() >= Vocabulary::kMaxIds) {
      return CorruptFile(path, ": ", Quote(content), " is ", DescribeJson(id),
                         ", want an id from 0 to ", Vocabulary::kMaxIds - 1);
    }
    const std::string key = std::to_string(id.get<int64_t>());
    if (decoder.contains(key)) return CorruptFile(path, ": two tokens have id ", key);
    const bool is_special = special.count(content) > 0;
    decoder[key] = {{"content", content}, {"special", is_special}, {"normalized", !is_special}};
  }
  return decoder;
}

}  // namespace

Result<std::string> ReadTokenizerConfig(const std::string& model_dir) {
  MLA_ASSIGN_OR_RETURN(std::optional<Json> config,
                       ReadOptionalObject(JoinPath(model_dir, "tokenizer_config.json")));
  if (config && FindField(*config, kDecoder) != nullptr) return config->dump();
  MLA_ASSIGN_OR_RETURN(const std::optional<Json> map,
                       ReadOptionalObject(JoinPath(model_dir, "special_tokens_map.json")));
  const std::string added_path = JoinPath(model_dir, "added_tokens.json");
  MLA_ASSIGN_OR_RETURN(const std::optional<Json> added, ReadOptionalObject(added_path));
  if (!config && !map && !added) return std::string();
  Json merged = config.value_or(Json::object());
  if (map) merged.update(*map);
  if (added) {
    MLA_ASSIGN_OR_RETURN(merged[kDecoder], DecoderOf(*added, merged, added_path));
  }
  return merged.dump();
}

Result<std::vector<AddedToken>> AddedTokensOf(const Json& config) {
  std::vector<AddedToken> tokens;
  const Json* decoder = FindField(config, kDecoder);
  if (decoder == nullptr) return tokens;
  if (!decoder->is_object()) {
    return CorruptFile(kDecoder, " is ", DescribeJson(*decoder), ", want an object");
  }
  for (const auto& [key, value] : decoder->items()) {
    AddedToken token;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    if (error != std::errc() || end != key.data() + key.size() || token.id < 0 ||
        token.id >= Vocabulary::kMaxIds) {
      return CorruptFile(kDecoder, " has the id ", Quote(key), ", want 0 to ",
                         Vocabulary::kMaxIds - 1);
    }
    const std::string where = Concat(kDecoder, ".", key);
    if (!value.is_object()) {
      return CorruptFile(where, " is ", DescribeJson(value), ", want an object");
    }
    MLA_ASSIGN_OR_RETURN(token.content, StringField(value, "content", where));
    MLA_ASSIGN_OR_RETURN(token.special, BoolField(value, "special", where, false));
    MLA_ASSIGN_OR_RETURN(token.lstrip, BoolField(value, "lstrip", where, false));
    MLA_ASSIGN_OR_RETURN(token.rstrip, BoolField(value, "rstrip", where, false));
    MLA_ASSIGN_OR_RETURN(token.single_word, BoolField(value, "single_word", where, false));
    tokens.push_back(std::move(token));
  }
  // In the order of ids, not of their digits.
  std::sort(tokens.begin(), tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return tokens;
}

}  // namespace mla
