// Tokenizer::FromSentencePiece: tokenizer.model, read and applied by libsentencepiece.
#include <sentencepiece_processor.h>

#include <algorithm>
#include <cctype>
#include <exception>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "io/json.h"
#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/tokenizer_config.h"
#include "io/tokenizer/unicode.h"
#include "io/tokenizer/vocabulary.h"

namespace sentencepiece::logging {
void SetMinLogLevel(int level);  // exported by the library, in none of its installed headers
}

namespace mla {
namespace {

constexpr size_t kMaxModelBytes = size_t{64} << 20;
constexpr int kLogFatalOnly = 3;
constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581: a space inside a piece

class SentencePieceTokenizer : public Tokenizer {
 public:
  static Result<std::unique_ptr<Tokenizer>> Make(std::string_view model,
                                                 std::string_view config_json);

  int32_t vocab_size() const override { return std::max(num_pieces(), added_.end_id()); }
  bool HasId(int32_t id) const override { return IsPiece(id) || added_.Has(id); }
  bool IsSpecial(int32_t id) const override {
    return (IsPiece(id) && processor_.IsControl(id)) || special_ids_.count(id) > 0;
  }
  std::optional<int32_t> PieceToId(std::string_view piece) const override {
    if (const int32_t id = added_.Find(piece); id >= 0) return id;
    // The library answers unknown pieces with the unknown token's id.
    const int32_t id = processor_.PieceToId(piece);
    if (!IsPiece(id) || processor_.IdToPiece(id) != piece) return std::nullopt;
    return id;
  }
  std::unique_ptr<TokenStream> NewStream() const override;

 protected:
  Status EncodeText(std::string_view text, bool parse_special,
                    std::vector<int32_t>* ids) const override;
  std::string_view Piece(int32_t id) const override {
    return IsPiece(id) ? processor_.IdToPiece(id) : added_.Piece(id);
  }

 private:
  class Stream;
  Status Init(std::string_view model);
  Status AddTokens(std::string_view config_json);

  int32_t num_pieces() const { return processor_.GetPieceSize(); }
  bool IsPiece(int32_t id) const { return id >= 0 && id < num_pieces(); }

  sentencepiece::SentencePieceProcessor processor_;
  Vocabulary added_;                 // tokens beyond the model's pieces
  std::set<int32_t> special_ids_;    // beside control pieces
  AddedTokenMatcher whole_tokens_;   // control pieces and added tokens
  std::string unknown_text_;         // what an unknown token decodes to
  bool drops_first_space_ = false;   // decoding drops the space that encoding puts first
  bool drops_first_spaces_ = false;  // and any more of them
};

// The library's decoding, id by id.
class SentencePieceTokenizer::Stream : public TokenStream {
 public:
  explicit Stream(const SentencePieceTokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void Push(int32_t id, bool skip_special, std::string* out) override {
    const auto& processor = tokenizer_.processor_;
    std::string text;
    if (!tokenizer_.IsPiece(id)) return PushAdded(id, skip_special, out);
    if (processor.IsByte(id)) {
      const std::string& piece = processor.IdToPiece(id);  // <0x41>
      assembler_.Push(std::string(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16))),
                      &text);
      started_ |= !text.empty();
      *out += text;
      return;
    }
    assembler_.Flush(&text);
    if (first_space_dropped_ || !text.empty()) started_ = true;
    first_space_dropped_ = false;
    if (processor.IsControl(id)) {
      if (!skip_special) text += processor.IdToPiece(id);
    } else if (processor.IsUnknown(id)) {
      text += tokenizer_.unknown_text_;
    } else {
      AppendPiece(processor.IdToPiece(id), &text);
    }
    started_ |= !text.empty();
    *out += text;
  }

  void Flush(std::string* out) override { assembler_.Flush(out); }

 private:
  void PushAdded(int32_t id, bool skip_special, std::string* out) {
    assembler_.Flush(out);
    if (!skip_special || !tokenizer_.IsSpecial(id)) *out += tokenizer_.Piece(id);
    started_ = true;
    first_space_dropped_ = false;
  }

  void AppendPiece(std::string_view piece, std::string* text) {
    if (!started_ && tokenizer_.drops_first_space_ && piece.starts_with(kSpace)) {
      piece.remove_prefix(kSpace.size());
      first_space_dropped_ = !tokenizer_.drops_first_spaces_;
    }
    while (!piece.empty()) {
      const size_t space = std::min(piece.find(kSpace), piece.size());
      *text += piece.substr(0, space);
      piece.remove_prefix(space);
      if (piece.empty()) break;
      *text += ' ';
      piece.remove_prefix(kSpace.size());
    }
  }

  const SentencePieceTokenizer& tokenizer_;
  Utf8Assembler assembler_{Utf8Assembler::Replace::kPerByte};
  bool started_ = false;              // a space is no longer the first
  bool first_space_dropped_ = false;  // by the piece before
};

Result<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Make(std::string_view model,
                                                                std::string_view config_json) {
  auto tokenizer = std::make_unique<SentencePieceTokenizer>();
  MLA_RETURN_IF_ERROR(tokenizer->Init(model));
  MLA_RETURN_IF_ERROR(tokenizer->AddTokens(config_json));
  MLA_RETURN_IF_ERROR(tokenizer->ApplyConfig(config_json));
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

Status SentencePieceTokenizer::Init(std::string_view model) {
  if (model.empty() || model.size() > kMaxModelBytes) {
    return CorruptFile("SentencePiece model of ", model.size(), " bytes, want 1 to ",
                       kMaxModelBytes);
  }
  sentencepiece::logging::SetMinLogLevel(kLogFatalOnly);
  try {
    const auto status = processor_.LoadFromSerializedProto(model);
    if (!status.ok()) return CorruptFile("SentencePiece model: ", status.ToString());
  } catch (const std::exception& error) {  // from the trie it builds
    return CorruptFile("SentencePiece model: ", error.what());
  }
  for (int32_t id = 0; id < num_pieces(); ++id) {
    const std::string& piece = processor_.IdToPiece(id);
    if (processor_.IsByte(id)) {
      const auto hex = [&](size_t i) {
        return std::isxdigit(static_cast<unsigned char>(piece[i]));
      };
      if (piece.size() != 6 || !piece.starts_with("<0x") || !hex(3) || !hex(4)) {
        return CorruptFile("SentencePiece model: byte piece ", id, " is ", Quote(piece));
      }
    }
    if (!processor_.IsControl(id) || piece.empty()) continue;
    AddedToken token;
    token.content = piece;
    token.id = id;
    token.special = true;
    MLA_RETURN_IF_ERROR(whole_tokens_.Add(token, piece));
  }
  if (processor_.unk_id() >= 0) unknown_text_ = processor_.DecodeIds({processor_.unk_id()});
  // The options are in no public interface; what they do is.
  const std::string space(kSpace);
  drops_first_space_ = processor_.DecodePieces(std::vector<std::string>{space + "a"}) == "a";
  drops_first_spaces_ =
      processor_.DecodePieces(std::vector<std::string>{space, space + "a"}) == "a";

  bos_id_ = processor_.bos_id();
  if (processor_.eos_id() >= 0) eos_ids_.push_back(processor_.eos_id());
  if (bos_id_ >= 0) prefix_.push_back(bos_id_);  // as Llama's tokenizer does
  return {};
}

// Those of added_tokens_decoder. One that is a piece of the model has that piece's id.
Status SentencePieceTokenizer::AddTokens(std::string_view config_json) {
  if (config_json.empty()) return {};
  MLA_ASSIGN_OR_RETURN(const Json config, ParseJson(config_json, "tokenizer_config.json"));
  MLA_ASSIGN_OR_RETURN(const std::vector<AddedToken> tokens, AddedTokensOf(config));
  for (const AddedToken& token : tokens) {
    if (IsPiece(token.id)) {
      if (processor_.IdToPiece(token.id) != token.content) {
        return CorruptFile("tokenizer_config.json: added token ", Quote(token.content), " has id ",
                           token.id, ", which is ", Quote(processor_.IdToPiece(token.id)),
                           " in tokenizer.model");
      }
      // Control pieces and unknown ones are dealt with as such.
      if (processor_.IsControl(token.id) || processor_.IsUnknown(token.id)) continue;
    } else {
      MLA_RETURN_IF_ERROR(added_.Add(token.content, token.id));
    }
    if (token.special) special_ids_.insert(token.id);
    MLA_RETURN_IF_ERROR(whole_tokens_.Add(token, token.content));
  }
  return {};
}

Status SentencePieceTokenizer::EncodeText(std::string_view text, bool parse_special,
                                          std::vector<int32_t>* ids) const {
  std::vector<AddedSegment> segments;
  whole_tokens_.Split(text, parse_special, &segments);
  std::vector<int> part;
  for (const AddedSegment& segment : segments) {
    if (segment.id >= 0) {
      ids->push_back(segment.id);
      continue;
    }
    const auto status = processor_.Encode(segment.text, &part);
    if (!status.ok()) return InvalidArgument("SentencePiece: ", status.ToString());
    ids->insert(ids->end(), part.begin(), part.end());
  }
  return {};
}

std::unique_ptr<TokenStream> SentencePieceTokenizer::NewStream() const {
  return std::make_unique<Stream>(*this);
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromSentencePiece(std::string_view model,
                                                                std::string_view config_json) {
  return SentencePieceTokenizer::Make(model, config_json);
}

}  // namespace mla
