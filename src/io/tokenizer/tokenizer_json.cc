// Tokenizer::FromJson: Hugging Face's tokenizer.json.
#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/bpe.h"
#include "io/tokenizer/decoder.h"
#include "io/tokenizer/json_fields.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/pre_tokenizer.h"
#include "io/tokenizer/tokenizer.h"

namespace mla {
namespace {

constexpr int kMaxDepth = 8;  // of nested post-processors
constexpr size_t kMaxAround = 64;

// The working memory of one call of Encode, kept for the next.
struct Session {
  PreTokenizerScratch pre;
  BpeScratch bpe;
  std::vector<AddedSegment> raw, segments;
  std::vector<TextPiece> pieces;
};

// Lends sessions: each to one caller at a time, so that calls in parallel share nothing but this.
class SessionPool {
 public:
  std::unique_ptr<Session> Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<Session>();
    std::unique_ptr<Session> session = std::move(free_.back());
    free_.pop_back();
    return session;
  }
  void GiveBack(std::unique_ptr<Session> session) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.size() < kMaxFree) free_.push_back(std::move(session));
  }

 private:
  static constexpr size_t kMaxFree = 16;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Session>> free_;
};

class JsonTokenizer : public Tokenizer {
 public:
  static Result<std::unique_ptr<Tokenizer>> Make(const Json& json, std::string_view config_json);

  int32_t vocab_size() const override {
    return std::max(bpe_.vocabulary().end_id(), added_.end_id());
  }
  bool HasId(int32_t id) const override { return added_.Has(id) || bpe_.vocabulary().Has(id); }
  bool IsSpecial(int32_t id) const override {
    return std::binary_search(special_ids_.begin(), special_ids_.end(), id);
  }
  std::optional<int32_t> PieceToId(std::string_view piece) const override;
  std::unique_ptr<TokenStream> NewStream() const override;

 protected:
  Status EncodeText(std::string_view text, bool parse_special,
                    std::vector<int32_t>* ids) const override;
  std::string_view Piece(int32_t id) const override {
    return added_.Has(id) ? added_.Piece(id) : bpe_.vocabulary().Piece(id);
  }

 private:
  class Stream;

  JsonTokenizer(Normalizer normalizer, PreTokenizer pre_tokenizer, BpeModel bpe, Decoder decoder)
      : normalizer_(std::move(normalizer)),
        pre_tokenizer_(std::move(pre_tokenizer)),
        bpe_(std::move(bpe)),
        decoder_(std::move(decoder)) {}

  Status ReadAddedTokens(const Json& json);
  Status AddToken(const Json& json, const std::string& where);
  Status ReadPostProcessor(const Json& json, const std::string& where, int depth);
  Status ReadTemplate(const Json& json, std::string_view where);
  Status AppendTemplateToken(const Json& json, const Json& item, std::string_view where,
                             std::vector<int32_t>* ids) const;

  Status EncodeSession(std::string_view text, bool parse_special, Session* session,
                       std::vector<int32_t>* ids) const;
  Status EncodePlain(std::string_view text, bool at_start, bool parse_special, Session* session,
                     std::vector<int32_t>* ids) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeModel bpe_;
  Decoder decoder_;
  Vocabulary added_;                                // the added tokens, by id
  std::vector<int32_t> special_ids_;                // sorted
  AddedTokenMatcher raw_matcher_, normal_matcher_;  // in the text as given; once normalized
  mutable SessionPool sessions_;
};

class JsonTokenizer::Stream : public TokenStream {
 public:
  explicit Stream(const JsonTokenizer& tokenizer)
      : tokenizer_(tokenizer), chain_(tokenizer.decoder_.NewChain()) {}
  void Push(int32_t id, bool skip_special, std::string* out) override {
    if (skip_special && tokenizer_.IsSpecial(id)) return;
    chain_->Push(tokenizer_.Piece(id), out);
  }
  void Flush(std::string* out) override { chain_->Flush(out); }

 private:
  const JsonTokenizer& tokenizer_;
  std::unique_ptr<DecodeChain> chain_;
};

Result<std::unique_ptr<Tokenizer>> JsonTokenizer::Make(const Json& json,
                                                       std::string_view config_json) {
  if (!json.is_object()) return CorruptFile("is ", DescribeJson(json), ", want an object");
  const Json* model = FindField(json, "model");
  if (model == nullptr) return CorruptFile("model is missing");
  MLA_ASSIGN_OR_RETURN(Normalizer normalizer, Normalizer::FromJson(FindField(json, "normalizer")));
  MLA_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer,
                       PreTokenizer::FromJson(FindField(json, "pre_tokenizer")));
  MLA_ASSIGN_OR_RETURN(BpeModel bpe, BpeModel::FromJson(*model, pre_tokenizer.byte_level()));
  MLA_ASSIGN_OR_RETURN(Decoder decoder, Decoder::FromJson(FindField(json, "decoder")));
  std::unique_ptr<JsonTokenizer> tokenizer(new JsonTokenizer(
      std::move(normalizer), std::move(pre_tokenizer), std::move(bpe), std::move(decoder)));
  MLA_RETURN_IF_ERROR(tokenizer->ReadAddedTokens(json));
  if (const Json* processor = FindField(json, "post_processor")) {
    MLA_RETURN_IF_ERROR(tokenizer->ReadPostProcessor(*processor, "post_processor", 0));
  }
  MLA_RETURN_IF_ERROR(tokenizer->ApplyConfig(config_json));
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

Status JsonTokenizer::ReadAddedTokens(const Json& json) {
  if (FindField(json, "added_tokens") != nullptr) {
    MLA_ASSIGN_OR_RETURN(const Json* list, ObjectListField(json, "added_tokens", "tokenizer"));
    for (size_t i = 0; i < list->size(); ++i) {
      MLA_RETURN_IF_ERROR(AddToken((*list)[i], Concat("added_tokens ", i)));
    }
  }
  std::sort(special_ids_.begin(), special_ids_.end());
  return {};
}

Status JsonTokenizer::AddToken(const Json& json, const std::string& where) {
  AddedToken token;
  MLA_ASSIGN_OR_RETURN(token.content, StringField(json, "content", where));
  MLA_ASSIGN_OR_RETURN(const int64_t id, IntField(json, "id", where));
  MLA_ASSIGN_OR_RETURN(token.special, BoolField(json, "special", where, false));
  MLA_ASSIGN_OR_RETURN(token.lstrip, BoolField(json, "lstrip", where, false));
  MLA_ASSIGN_OR_RETURN(token.rstrip, BoolField(json, "rstrip", where, false));
  MLA_ASSIGN_OR_RETURN(token.single_word, BoolField(json, "single_word", where, false));
  MLA_ASSIGN_OR_RETURN(token.normalized, BoolField(json, "normalized", where, !token.special));
  if (token.content.empty()) return CorruptFile(where, ": content is empty");
  const int32_t known = bpe_.vocabulary().Find(token.content);
  if (known >= 0 && known != id) {
    return CorruptFile(where, ": ", Quote(token.content), " has id ", id, ", but ", known,
                       " in the model's vocab");
  }
  if (known < 0 && bpe_.vocabulary().Has(id)) {
    return CorruptFile(where, ": ", Quote(token.content), " has id ", id, ", which is ",
                       Quote(bpe_.vocabulary().Piece(static_cast<int32_t>(id))),
                       " in the model's vocab");
  }
  if (Status status = added_.Add(token.content, id); !status.ok()) {
    return Error{status.error().code, Concat(where, ": ", status.message())};
  }
  token.id = static_cast<int32_t>(id);
  if (token.special) special_ids_.push_back(token.id);
  if (!token.normalized) return raw_matcher_.Add(token, token.content);
  RegexScratch scratch;
  std::string content = token.content;
  MLA_RETURN_IF_ERROR(normalizer_.Run(&content, &scratch));
  return normal_matcher_.Add(token, content);
}

Status JsonTokenizer::ReadPostProcessor(const Json& json, const std::string& where, int depth) {
  MLA_ASSIGN_OR_RETURN(const std::string type, TypeField(json, where));
  if (type == "ByteLevel") return {};  // it only moves offsets
  if (type == "TemplateProcessing") return ReadTemplate(json, where);
  if (type != "Sequence") return Unsupported(where, " of type ", Quote(type));
  if (depth == kMaxDepth) return Unsupported(where, ": sequences nested ", depth, " deep");
  MLA_ASSIGN_OR_RETURN(const Json* list, ObjectListField(json, "processors", where));
  for (size_t i = 0; i < list->size(); ++i) {
    MLA_RETURN_IF_ERROR(ReadPostProcessor((*list)[i], Concat(where, " step ", i), depth + 1));
  }
  return {};
}

// "single": special tokens, the text ("Sequence": A), special tokens.
Status JsonTokenizer::ReadTemplate(const Json& json, std::string_view where) {
  MLA_ASSIGN_OR_RETURN(const Json* items, ObjectListField(json, "single", where));
  std::vector<int32_t> before, after;
  bool seen_text = false;
  for (const Json& item : *items) {
    if (FindField(item, "SpecialToken") != nullptr) {
      MLA_RETURN_IF_ERROR(AppendTemplateToken(json, item, where, seen_text ? &after : &before));
    } else if (FindField(item, "Sequence") != nullptr && !seen_text) {
      seen_text = true;
    } else {
      return Unsupported(where, ": single holds ", DescribeJson(item),
                         ", want SpecialToken and one Sequence");
    }
  }
  if (!seen_text) return CorruptFile(where, ": single has no Sequence");
  // A processor after another works on what that one made.
  prefix_.insert(prefix_.begin(), before.begin(), before.end());
  suffix_.insert(suffix_.end(), after.begin(), after.end());
  if (prefix_.size() + suffix_.size() > kMaxAround) {
    return Unsupported(where, ": more than ", kMaxAround, " special tokens around a text");
  }
  return {};
}

// The ids that the template's "special_tokens" gives for one of its tokens.
Status JsonTokenizer::AppendTemplateToken(const Json& json, const Json& item,
                                          std::string_view where, std::vector<int32_t>* ids) const {
  const Json& reference = item["SpecialToken"];
  if (!reference.is_object()) {
    return CorruptFile(where, ": SpecialToken is ", DescribeJson(reference), ", want an object");
  }
  MLA_ASSIGN_OR_RETURN(const std::string name, StringField(reference, "id", where));
  const Json* tokens = FindField(json, "special_tokens");
  const Json* token = tokens != nullptr && tokens->is_object() ? FindField(*tokens, name) : nullptr;
  const Json* list = token != nullptr && token->is_object() ? FindField(*token, "ids") : nullptr;
  if (list == nullptr || !list->is_array()) {
    return CorruptFile(where, ": special_tokens has no ids for ", Quote(name));
  }
  for (const Json& id : *list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() >= Vocabulary::kMaxIds || !HasId(id.get<int32_t>())) {
      return CorruptFile(where, ": special token ", Quote(name), " has id ", DescribeJson(id),
                         ", which is not in the vocabulary");
    }
    ids->push_back(id.get<int32_t>());
    if (ids->size() > kMaxAround) break;
  }
  return {};
}

std::optional<int32_t> JsonTokenizer::PieceToId(std::string_view piece) const {
  int32_t id = added_.Find(piece);
  if (id < 0) id = bpe_.vocabulary().Find(piece);
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

std::unique_ptr<TokenStream> JsonTokenizer::NewStream() const {
  return std::make_unique<Stream>(*this);
}

Status JsonTokenizer::EncodeText(std::string_view text, bool parse_special,
                                 std::vector<int32_t>* ids) const {
  std::unique_ptr<Session> session = sessions_.Take();
  const Status status = EncodeSession(text, parse_special, session.get(), ids);
  sessions_.GiveBack(std::move(session));
  return status;
}

Status JsonTokenizer::EncodeSession(std::string_view text, bool parse_special, Session* session,
                                    std::vector<int32_t>* ids) const {
  session->raw.clear();
  raw_matcher_.Split(text, parse_special, &session->raw);
  for (const AddedSegment& segment : session->raw) {
    if (segment.id >= 0) {
      ids->push_back(segment.id);
    } else {
      const bool at_start = segment.text.data() == text.data();
      MLA_RETURN_IF_ERROR(EncodePlain(segment.text, at_start, parse_special, session, ids));
    }
  }
  return {};
}

// Text without raw added tokens: normalized, searched for the others, cut into words, encoded.
Status JsonTokenizer::EncodePlain(std::string_view text, bool at_start, bool parse_special,
                                  Session* session, std::vector<int32_t>* ids) const {
  std::string normal;
  if (!normalizer_.empty()) {
    normal = text;
    MLA_RETURN_IF_ERROR(normalizer_.Run(&normal, &session->pre.regex));
    text = normal;
  }
  session->segments.clear();
  normal_matcher_.Split(text, parse_special, &session->segments);
  for (const AddedSegment& segment : session->segments) {
    if (segment.id >= 0) {
      ids->push_back(segment.id);
      continue;
    }
    session->pre.storage.clear();
    session->pieces.assign(1,
                           TextPiece{segment.text, at_start && segment.text.data() == text.data()});
    MLA_RETURN_IF_ERROR(pre_tokenizer_.Run(&session->pieces, &session->pre));
    for (const TextPiece& piece : session->pieces) bpe_.Encode(piece.text, &session->bpe, ids);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view tokenizer_json,
                                                       std::string_view config_json) {
  MLA_ASSIGN_OR_RETURN(const Json json, ParseJson(tokenizer_json, "tokenizer.json"));
  return JsonTokenizer::Make(json, config_json);
}

}  // namespace mla
