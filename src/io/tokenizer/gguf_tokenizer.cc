#include "io/tokenizer/gguf_tokenizer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>
#include <vector>

#include "io/json.h"
#include "io/tokenizer/unicode.h"
#include "io/tokenizer/vocabulary.h"

namespace mla {
namespace {

using nlohmann::json;

constexpr size_t kMaxPieceBytes = 64 << 10;
constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kScores = "tokenizer.ggml.scores";

// Protocol buffers, as far as a SentencePiece model needs them (protobuf.dev/programming-guides/
// encoding): fields of varints, 32-bit numbers and bytes.
class ProtoWriter {
 public:
  void Varint(uint32_t field, uint64_t value) {
    Raw(field << 3);
    Raw(value);
  }
  void Float(uint32_t field, float value) {
    Raw(field << 3 | 5);
    const auto bits = std::bit_cast<uint32_t>(value);
    text_.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
  }
  void Bytes(uint32_t field, std::string_view bytes) {
    Raw(field << 3 | 2);
    Raw(bytes.size());
    text_ += bytes;
  }
  const std::string& text() const { return text_; }

 private:
  void Raw(uint64_t value) {
    for (; value >= 128; value >>= 7) text_ += static_cast<char>((value & 127) | 128);
    text_ += static_cast<char>(value);
  }
  std::string text_;
};

class Loader {
 public:
  explicit Loader(const GgufFile& file) : file_(file) {}

  Result<std::unique_ptr<Tokenizer>> Load() {
    MLA_ASSIGN_OR_RETURN(const std::string_view model, file_.GetString("tokenizer.ggml.model"));
    if (model != "gpt2" && model != "llama") {
      return Unsupported(file_.path(), ": tokenizer.ggml.model is ", Quote(model),
                         ", want \"gpt2\" or \"llama\"");
    }
    MLA_RETURN_IF_ERROR(ReadVocabulary());
    Result<std::unique_ptr<Tokenizer>> tokenizer =
        model == "gpt2" ? LoadBytePairs() : LoadSentencePieces();
    if (tokenizer.ok() || tokenizer.message().starts_with(file_.path())) return tokenizer;
    return Error{tokenizer.error().code, Concat(file_.path(), ": ", tokenizer.message())};
  }

 private:
  template <typename... Parts>
  Error Bad(const Parts&... parts) const {
    return CorruptFile(file_.path(), ": ", parts...);
  }

  Status ReadVocabulary() {
    MLA_ASSIGN_OR_RETURN(tokens_, file_.GetStrings(kTokens));
    if (tokens_.empty() || tokens_.size() > Vocabulary::kMaxIds) {
      return file_.BadValue(kTokens, Concat("1 to ", Vocabulary::kMaxIds, " tokens"));
    }
    std::unordered_set<std::string_view> seen;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const std::string_view token = tokens_[i];
      if (token.size() > kMaxPieceBytes) {
        return Bad(kTokens, "[", i, "] has ", token.size(), " bytes, want at most ",
                   kMaxPieceBytes);
      }
      if (ValidUtf8Prefix(token) != token.size()) return Bad(kTokens, "[", i, "] is not UTF-8");
      if (!seen.insert(token).second) {
        return Bad(kTokens, "[", i, "] is ", Quote(token), ", which is there before");
      }
    }
    return ReadTypes();
  }

  Status ReadTypes() {
    types_.assign(tokens_.size(), static_cast<int32_t>(GgufTokenType::kNormal));
    if (file_.Find(kTypes) == nullptr) return {};
    MLA_ASSIGN_OR_RETURN(types_, file_.GetInts(kTypes));
    if (types_.size() != tokens_.size()) {
      return file_.BadValue(kTypes, Concat(tokens_.size(), ", one per token"));
    }
    for (size_t i = 0; i < types_.size(); ++i) {
      if (types_[i] < 1 || types_[i] > 6) {
        return Bad(kTypes, "[", i, "] is ", types_[i], ", want 1 to 6");
      }
    }
    return {};
  }

  GgufTokenType Type(size_t id) const { return static_cast<GgufTokenType>(types_[id]); }

  // The id under tokenizer.ggml.NAME_token_id; -1: not stated.
  Result<int64_t> SpecialId(std::string_view name) const {
    return file_.GetIntOr(Concat("tokenizer.ggml.", name, "_token_id"), -1, 0,
                          std::ssize(tokens_) - 1);
  }

  // What tokenizer_config.json would say.
  Result<std::string> Config(bool add_bos_default) const {
    json config = json::object();
    for (const char* name : {"bos", "eos"}) {
      MLA_ASSIGN_OR_RETURN(const int64_t id, SpecialId(name));
      const bool fallback = add_bos_default && std::string_view(name) == "bos" && id >= 0;
      MLA_ASSIGN_OR_RETURN(
          const bool add, file_.GetBoolOr(Concat("tokenizer.ggml.add_", name, "_token"), fallback));
      if (id >= 0) config[Concat(name, "_token")] = tokens_[id];
      config[Concat("add_", name, "_token")] = add;
    }
    return config.dump();
  }

  Result<std::unique_ptr<Tokenizer>> LoadBytePairs() {
    MLA_ASSIGN_OR_RETURN(const std::string_view pre,
                         file_.GetStringOr("tokenizer.ggml.pre", "default"));
    json tokenizer = {{"version", "1.0"}};
    json& pre_tokenizer = tokenizer["pre_tokenizer"] = PreTokenizerOfGguf(pre);
    if (pre_tokenizer.is_null()) {
      return Unsupported("tokenizer.ggml.pre is ", Quote(pre), ", want one of ",
                         KnownGgufPreTokenizers());
    }
    MLA_ASSIGN_OR_RETURN(const std::vector<std::string_view> merges,
                         file_.GetStrings("tokenizer.ggml.merges"));
    const bool llama3 = pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3";
    if (pre == "qwen2") tokenizer["normalizer"] = {{"type", "NFC"}};
    tokenizer["decoder"] = {{"type", "ByteLevel"}};
    json vocab = json::object(), added = json::array();
    for (size_t id = 0; id < tokens_.size(); ++id) {
      const GgufTokenType type = Type(id);
      const bool special = type == GgufTokenType::kControl || type == GgufTokenType::kUnknown;
      if ((special || type == GgufTokenType::kUserDefined) && !tokens_[id].empty()) {
        added.push_back(
            {{"id", id}, {"content", tokens_[id]}, {"special", special}, {"normalized", false}});
      } else {
        vocab[std::string(tokens_[id])] = id;
      }
    }
    tokenizer["added_tokens"] = std::move(added);
    tokenizer["model"] = {
        {"type", "BPE"}, {"vocab", std::move(vocab)}, {"ignore_merges", GgufPreIgnoresMerges(pre)}};
    json& list = tokenizer["model"]["merges"] = json::array();
    for (size_t i = 0; i < merges.size(); ++i) {
      if (ValidUtf8Prefix(merges[i]) != merges[i].size()) {
        return Bad("tokenizer.ggml.merges[", i, "] is not UTF-8");
      }
      list.push_back(merges[i]);
    }
    MLA_ASSIGN_OR_RETURN(const std::string config, Config(llama3));
    return Tokenizer::FromJson(tokenizer.dump(), config);
  }

  Result<std::unique_ptr<Tokenizer>> LoadSentencePieces() {
    MLA_ASSIGN_OR_RETURN(const std::vector<float> scores, file_.GetFloats(kScores));
    if (scores.size() != tokens_.size()) {
      return file_.BadValue(kScores, Concat(tokens_.size(), ", one per token"));
    }
    MLA_ASSIGN_OR_RETURN(const int64_t unknown, SpecialId("unknown"));
    const auto is_unknown = [](int32_t type) {
      return type == static_cast<int32_t>(GgufTokenType::kUnknown);
    };
    if (unknown >= 0 && std::none_of(types_.begin(), types_.end(), is_unknown)) {
      types_[unknown] = static_cast<int32_t>(GgufTokenType::kUnknown);
    }
    ProtoWriter model;
    bool has_bytes = false;
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (!std::isfinite(scores[id])) return Bad(kScores, "[", id, "] is ", scores[id]);
      if (Type(id) == GgufTokenType::kByte) {
        has_bytes = true;
        if (ParseByteToken(tokens_[id]) < 0) {
          return Bad(kTokens, "[", id, "] is the byte token ", Quote(tokens_[id]),
                     ", want <0x00> to <0xFF>");
        }
      }
      ProtoWriter piece;
      piece.Bytes(1, tokens_[id]);
      piece.Float(2, scores[id]);
      piece.Varint(3, static_cast<uint64_t>(types_[id]));
      model.Bytes(1, piece.text());
    }
    MLA_ASSIGN_OR_RETURN(const std::string trainer, TrainerSpec(has_bytes));
    model.Bytes(2, trainer);
    ProtoWriter normalizer;
    MLA_ASSIGN_OR_RETURN(const bool space,
                         file_.GetBoolOr("tokenizer.ggml.add_space_prefix", true));
    MLA_ASSIGN_OR_RETURN(const bool strip,
                         file_.GetBoolOr("tokenizer.ggml.remove_extra_whitespaces", false));
    normalizer.Bytes(1, "identity");
    normalizer.Varint(3, space);
    normalizer.Varint(4, strip);
    normalizer.Varint(5, 1);  // spaces are U+2581 inside pieces
    model.Bytes(3, normalizer.text());
    MLA_ASSIGN_OR_RETURN(const std::string config, Config(true));
    return Tokenizer::FromSentencePiece(model.text(), config);
  }

  Result<std::string> TrainerSpec(bool byte_fallback) const {
    constexpr uint32_t kModelType = 3, kByteFallback = 35, kBytePairs = 2;
    ProtoWriter trainer;
    trainer.Varint(kModelType, kBytePairs);
    trainer.Varint(kByteFallback, byte_fallback);
    const std::pair<const char*, uint32_t> named[] = {{"unknown", 45}, {"bos", 46}, {"eos", 47}};
    for (const auto& [name, field] : named) {
      MLA_ASSIGN_OR_RETURN(const int64_t id, SpecialId(name));
      if (id >= 0) trainer.Bytes(field, tokens_[id]);
    }
    return trainer.text();
  }

  const GgufFile& file_;
  std::vector<std::string_view> tokens_;
  std::vector<int32_t> types_;
};

}  // namespace

int ParseByteToken(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int byte = 0;
  for (const char c : piece.substr(3, 2)) {
    const bool digit = c >= '0' && c <= '9', letter = c >= 'A' && c <= 'F';
    if (!digit && !letter) return -1;
    byte = 16 * byte + (digit ? c - '0' : c - 'A' + 10);
  }
  return byte;
}

Result<std::unique_ptr<Tokenizer>> LoadGgufTokenizer(const GgufFile& file) {
  return Loader(file).Load();
}

Result<std::optional<std::string>> ReadGgufChatTemplate(const GgufFile& file) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  if (file.Find(kKey) == nullptr) return std::optional<std::string>();
  MLA_ASSIGN_OR_RETURN(const std::string_view text, file.GetString(kKey));
  if (ValidUtf8Prefix(text) != text.size()) {
    return CorruptFile(file.path(), ": ", kKey, " is not UTF-8");
  }
  return std::optional<std::string>(text);
}

}  // namespace mla
