#include "io/tokenizer/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "io/gguf.h"
#include "io/read_file.h"
#include "io/tokenizer/gguf_tokenizer.h"
#include "io/tokenizer/json_fields.h"
#include "io/tokenizer/tiktoken.h"
#include "io/tokenizer/tokenizer_config.h"
#include "io/tokenizer/unicode.h"

namespace mla {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;  // so that positions in a text fit 32 bits
constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr size_t kMaxRanksBytes = size_t{32} << 20;

// "bos_token": a string or an object with its "content"; empty if there is none.
Result<std::string> TokenField(const Json& config, std::string_view key) {
  const Json* field = FindField(config, key);
  if (field == nullptr) return std::string();
  if (field->is_string()) return field->get<std::string>();
  if (field->is_object()) return StringField(*field, "content", key);
  return CorruptFile(key, " is ", DescribeJson(*field), ", want a string or an object");
}

Result<std::unique_ptr<Tokenizer>> FromTiktoken(std::string_view ranks,
                                                const std::string& config_json) {
  Json config = Json::object();
  if (!config_json.empty()) {
    MLA_ASSIGN_OR_RETURN(config, ParseJson(config_json, "tokenizer_config.json"));
  }
  MLA_ASSIGN_OR_RETURN(const Json json, TiktokenToJson(ranks, config));
  return Tokenizer::FromJson(json.dump(), config_json);
}

Result<std::unique_ptr<Tokenizer>> WithPath(Result<std::unique_ptr<Tokenizer>> result,
                                            const std::string& path) {
  if (result.ok()) return result;
  std::string_view message = result.error().message;
  // An error of the text itself names the file already.
  const std::string name = Concat(path.substr(path.rfind('/') + 1), ": ");
  if (message.starts_with(name)) message.remove_prefix(name.size());
  return Error{result.error().code, Concat(path, ": ", message)};
}

}  // namespace

Status ValidateUtf8(std::string_view text) {
  const size_t valid = ValidUtf8Prefix(text);
  if (valid == text.size()) return {};
  constexpr char kDigits[] = "0123456789abcdef";
  const auto byte = static_cast<uint8_t>(text[valid]);
  return InvalidArgument("text is not UTF-8: byte 0x", kDigits[byte >> 4], kDigits[byte & 15],
                         " at offset ", valid);
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  std::error_code error;
  if (std::filesystem::is_regular_file(model_dir, error)) {
    MLA_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(model_dir));
    return LoadGgufTokenizer(file);
  }
  MLA_ASSIGN_OR_RETURN(const std::string config, ReadTokenizerConfig(model_dir));
  const std::string json_path = model_dir + "/tokenizer.json";
  Result<std::string> json = ReadFile(json_path, kMaxFileBytes);
  if (json.ok()) return WithPath(FromJson(*json, config), json_path);
  if (json.error().code != ErrorCode::kNotFound) return json.error();
  const std::string ranks_path = model_dir + "/tiktoken.model";
  const Result<std::string> ranks = ReadFile(ranks_path, kMaxRanksBytes);
  if (ranks.ok()) return WithPath(FromTiktoken(*ranks, config), ranks_path);
  if (ranks.error().code != ErrorCode::kNotFound) return ranks.error();
  const std::string model_path = model_dir + "/tokenizer.model";
  Result<std::string> model = ReadFile(model_path, kMaxFileBytes);
  if (model.ok()) return WithPath(FromSentencePiece(*model, config), model_path);
  if (model.error().code != ErrorCode::kNotFound) return model.error();
  return NotFound(
      model_dir,
      ": no tokenizer: none of tokenizer.json, tiktoken.model and tokenizer.model is there");
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > kMaxTextBytes) {
    return InvalidArgument("text of ", text.size(), " bytes, the limit is ", kMaxTextBytes);
  }
  MLA_RETURN_IF_ERROR(ValidateUtf8(text));
  std::vector<int32_t> ids;
  if (options.add_special_tokens) ids = prefix_;
  MLA_RETURN_IF_ERROR(EncodeText(text, options.parse_special, &ids));
  if (options.add_special_tokens) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

Result<std::string> Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  for (const int32_t id : ids) MLA_RETURN_IF_ERROR(CheckId(id));
  const std::unique_ptr<TokenStream> stream = NewStream();
  std::string text;
  for (const int32_t id : ids) stream->Push(id, skip_special, &text);
  stream->Flush(&text);
  return text;
}

Result<std::string> Tokenizer::IdToPiece(int32_t id) const {
  MLA_RETURN_IF_ERROR(CheckId(id));
  return std::string(Piece(id));
}

Status Tokenizer::CheckId(int32_t id) const {
  if (HasId(id)) return {};
  if (id < 0 || id >= vocab_size()) {
    return InvalidArgument("token id ", id, " is out of range, want 0 to ", vocab_size() - 1);
  }
  return InvalidArgument("token id ", id, " is not in use");
}

Status Tokenizer::ApplyConfig(std::string_view config_json) {
  if (config_json.empty()) return {};
  constexpr std::string_view kName = "tokenizer_config.json";
  MLA_ASSIGN_OR_RETURN(const Json config, ParseJson(config_json, kName));
  if (!config.is_object()) {
    return CorruptFile(kName, " is ", DescribeJson(config), ", want an object");
  }
  int32_t eos_id = eos_ids_.empty() ? -1 : eos_ids_.front();
  const std::pair<std::string_view, int32_t*> named[] = {{"bos_token", &bos_id_},
                                                         {"eos_token", &eos_id}};
  for (const auto& [key, id] : named) {
    MLA_ASSIGN_OR_RETURN(const std::string token, TokenField(config, key));
    if (token.empty()) continue;
    const std::optional<int32_t> found = PieceToId(token);
    if (!found) {
      return CorruptFile(kName, ": ", key, " ", Quote(token), " is not in the vocabulary");
    }
    *id = *found;
  }
  eos_ids_.clear();
  if (eos_id >= 0) eos_ids_.push_back(eos_id);

  const std::pair<std::string_view, std::vector<int32_t>*> added[] = {{"add_bos_token", &prefix_},
                                                                      {"add_eos_token", &suffix_}};
  for (const auto& [key, around] : added) {
    if (FindField(config, key) == nullptr) continue;
    MLA_ASSIGN_OR_RETURN(const bool add, BoolField(config, key, kName, false));
    const int32_t id = around == &prefix_ ? bos_id_ : eos_id;
    const auto at = std::find(around->begin(), around->end(), id);
    if (add && id < 0) {
      return CorruptFile(kName, ": ", key, " is true, but the token is not named");
    }
    if (add && at == around->end()) {
      around->insert(around == &prefix_ ? around->begin() : around->end(), id);
    } else if (!add && at != around->end()) {
      around->erase(at);
    }
  }
  return {};
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special), stream_(tokenizer.NewStream()) {}

Result<std::string> StreamDecoder::Push(int32_t id) {
  MLA_RETURN_IF_ERROR(tokenizer_.CheckId(id));
  std::string text;
  stream_->Push(id, skip_special_, &text);
  return text;
}

std::string StreamDecoder::Flush() {
  std::string text;
  stream_->Flush(&text);
  stream_ = tokenizer_.NewStream();
  return text;
}

}  // namespace mla
