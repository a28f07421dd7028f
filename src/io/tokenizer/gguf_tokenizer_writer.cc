#include "io/tokenizer/gguf_tokenizer_writer.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include "io/chat_template/chat_template.h"
#include "io/json.h"
#include "io/read_file.h"
#include "io/tokenizer/gguf_tokenizer.h"
#include "io/tokenizer/json_fields.h"
#include "io/tokenizer/sentencepiece_model.h"
#include "io/tokenizer/tiktoken.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/tokenizer_config.h"

namespace mla {
namespace {

constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581

// What ways to cut and to normalise differ in.
constexpr std::string_view kSamples[] = {
    "Once upon a time, I'll say: it's 1234567 o'clock; they've 3.14 + 2x^2 = y_1 -> \"done\"!",
    "  two  spaces\n\n\nand lines\r\n\ttabs \t end   ",
    "for (int i = 0; i < 10; ++i) { a[i] += b->c; } // C++ #define X_Y $5,000.00 %d",
    "na\u00efve caf\u00e9 e\u0301 \u00c5ngstr\u00f6m \ufb01 \u00bd \u2163 STRASSE \u00df",
    "\u4f60\u597d\u4e16\u754c\uff0c\u3053\u3093\u306b\u3061\u306f \uc548\ub155",
    "\u0645\u0631\u062d\u0628\u0627 \u041f\u0440\u0438\u0432\u0435\u0442 \u0e2a\u0e27\u0e31",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f \u20ac \u00a0\u202f|",
    "\u201cquoted\u201d \u2014 x"};

// tokenizer.ggml.* under way.
struct Tables {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;  // of the "llama" kind
};

int32_t TypeNumber(GgufTokenType type) { return static_cast<int32_t>(type); }

// tokenizer.json, or a tiktoken.model in its words; null if there is neither. Tokenizer::Load has
// read them before.
Result<Json> ReadJsonOf(const std::string& dir) {
  const std::string path = JoinPath(dir, "tokenizer.json");
  const Result<std::string> text = ReadFile(path, kMaxFileBytes);
  if (text.ok()) return ParseJson(*text, path);
  const Result<std::string> ranks = ReadFile(JoinPath(dir, "tiktoken.model"), kMaxFileBytes);
  if (!ranks.ok()) return Json();
  MLA_ASSIGN_OR_RETURN(const std::string config, ReadTokenizerConfig(dir));
  MLA_ASSIGN_OR_RETURN(const Json json, ParseJson(config, "tokenizer_config.json"));
  return TiktokenToJson(*ranks, json);
}

class Writer {
 public:
  Writer(std::string dir, const GgufTokenizerOptions& options, GgufMetadata& out)
      : dir_(std::move(dir)), options_(options), out_(out) {}

  Result<std::vector<std::string>> Run() {
    MLA_ASSIGN_OR_RETURN(source_, Tokenizer::Load(dir_));
    if (source_->vocab_size() > options_.vocab_size) {
      return Unsupported(dir_, ": the tokenizer has ", source_->vocab_size(),
                         " tokens, want at most the model's vocab_size, ", options_.vocab_size);
    }
    FillTokens();
    MLA_ASSIGN_OR_RETURN(json_, ReadJsonOf(dir_));
    MLA_RETURN_IF_ERROR(json_.is_null() ? AddSentencePieces() : AddJson());
    MLA_RETURN_IF_ERROR(AddSpecialIds());
    MLA_RETURN_IF_ERROR(AddAround());
    MLA_RETURN_IF_ERROR(AddTemplates());
    MLA_RETURN_IF_ERROR(CheckAgainstSource());
    return std::move(notes_);
  }

 private:
  // Every id of the model has a token, as readers expect.
  void FillTokens() {
    for (int32_t id = 0; id < options_.vocab_size; ++id) {
      const bool known = source_->HasId(id);
      tables_.tokens.push_back(known ? *source_->IdToPiece(id) : Concat("[PAD", id, "]"));
      GgufTokenType type = known ? GgufTokenType::kNormal : GgufTokenType::kUnused;
      if (known && source_->IsSpecial(id)) type = GgufTokenType::kControl;
      tables_.types.push_back(TypeNumber(type));
    }
  }

  void SetType(int64_t id, GgufTokenType type) { tables_.types[id] = TypeNumber(type); }

  Status AddJson() {
    MarkAddedTokens();
    const Json& model = json_["model"];
    const Json* pre_tokenizer = FindField(json_, "pre_tokenizer");
    const bool ignore_merges = model.value("ignore_merges", false);
    const std::string pre =
        pre_tokenizer == nullptr ? "" : GgufPreOf(*pre_tokenizer, ignore_merges);
    if (pre.empty() && model.value("byte_fallback", false)) return AddPiecesOfJson(model);
    if (pre.empty()) {
      return Unsupported(dir_, "/tokenizer.json: pre_tokenizer cuts words in a way that has no ",
                         "name in GGUF (tokenizer.ggml.pre), want one of ",
                         KnownGgufPreTokenizers());
    }
    out_.Str("tokenizer.ggml.model", "gpt2");
    out_.Str("tokenizer.ggml.pre", pre);
    AddTables();
    std::vector<std::string> merges;
    for (const Json& merge : model["merges"]) merges.push_back(MergeText(merge));
    out_.Strs("tokenizer.ggml.merges", merges);
    return {};
  }

  // "a b", or the newer ["a", "b"].
  static std::string MergeText(const Json& merge) {
    if (merge.is_string()) return merge.get<std::string>();
    return Concat(merge[0].get<std::string>(), " ", merge[1].get<std::string>());
  }

  // Tokenizer::Load has seen that they are as they should be.
  void MarkAddedTokens() {
    const Json* list = FindField(json_, "added_tokens");
    if (list == nullptr) return;
    int stripping = 0;
    for (const Json& token : *list) {
      const bool special = token.value("special", false);
      SetType(token["id"], special ? GgufTokenType::kControl : GgufTokenType::kUserDefined);
      stripping += token.value("lstrip", false) || token.value("rstrip", false) ||
                   token.value("single_word", false);
    }
    if (stripping > 0) {
      notes_.push_back(Concat(stripping,
                              stripping == 1 ? " added token takes" : " added tokens take",
                              " the spaces beside them or are whole words only, which GGUF does "
                              "not state"));
    }
  }

  void AddTables() {
    out_.Strs("tokenizer.ggml.tokens", tables_.tokens);
    if (!tables_.scores.empty()) out_.F32s("tokenizer.ggml.scores", tables_.scores);
    out_.I32s("tokenizer.ggml.token_type", tables_.types);
  }

  Status AddSentencePieces() {
    const std::string path = JoinPath(dir_, "tokenizer.model");
    MLA_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxFileBytes));
    MLA_ASSIGN_OR_RETURN(const SentencePieceModel model, ReadSentencePieceModel(bytes));
    if (model.kind != SentencePieceModel::kBytePairs) {
      return Unsupported(path, ": is a model of kind ", model.kind, " (1: unigram), want 2, BPE: ",
                         "GGUF's tokenizer \"llama\" joins pieces pair by pair");
    }
    tables_.scores.assign(tables_.tokens.size(), 0);
    for (size_t id = 0; id < model.pieces.size(); ++id) {
      tables_.scores[id] = model.pieces[id].score;
      tables_.types[id] = model.pieces[id].type;
    }
    // Tokens that were added to the model's own.
    for (size_t id = model.pieces.size(); id < tables_.tokens.size(); ++id) {
      const auto token = static_cast<int32_t>(id);
      if (!source_->HasId(token)) continue;
      SetType(token,
              source_->IsSpecial(token) ? GgufTokenType::kControl : GgufTokenType::kUserDefined);
    }
    return AddPieces(model.add_dummy_prefix, model.remove_extra_whitespaces);
  }

  Status AddPieces(bool space_prefix, bool strip) {
    out_.Str("tokenizer.ggml.model", "llama");
    out_.Str("tokenizer.ggml.pre", "default");
    AddTables();
    out_.Bool("tokenizer.ggml.add_space_prefix", space_prefix);
    if (strip) out_.Bool("tokenizer.ggml.remove_extra_whitespaces", true);
    return {};
  }

  // SentencePiece's BPE as tokenizer.json writes it: the order of the merges are the scores.
  Status AddPiecesOfJson(const Json& model) {
    std::unordered_map<std::string, float> ranks;
    for (const Json& merge : model["merges"]) {
      std::string joined = MergeText(merge);
      joined.erase(joined.find(' '), 1);
      ranks.emplace(std::move(joined), -static_cast<float>(ranks.size() + 1));
    }
    const float last = -static_cast<float>(ranks.size() + 1);
    for (size_t id = 0; id < tables_.tokens.size(); ++id) {
      const auto found = ranks.find(tables_.tokens[id]);
      tables_.scores.push_back(found == ranks.end() ? last : found->second);
      if (ParseByteToken(tables_.tokens[id]) >= 0) {
        SetType(static_cast<int64_t>(id), GgufTokenType::kByte);
      }
    }
    if (const Json* unknown = FindField(model, "unk_token"); unknown && unknown->is_string()) {
      if (const auto id = source_->PieceToId(unknown->get<std::string>())) {
        SetType(*id, GgufTokenType::kUnknown);
      }
    }
    return AddPieces(PutsSpaceFirst(), false);
  }

  // Whether "▁" is put before a text: by the normalizer or, in newer files, the pre-tokenizer.
  bool PutsSpaceFirst() const {
    for (const char* key : {"normalizer", "pre_tokenizer"}) {
      const Json* part = FindField(json_, key);
      if (part == nullptr || !part->is_object()) continue;
      const Json* list = FindField(*part, "normalizers");
      for (const Json& step : list != nullptr && list->is_array() ? *list : Json::array({*part})) {
        if (!step.is_object()) continue;
        const std::string type = step.value("type", "");
        if (type == "Prepend") return step.value("prepend", "") == kSpace;
        if (type == "Metaspace") return step.value("prepend_scheme", "always") != "never";
      }
    }
    return false;
  }

  Status AddSpecialIds() {
    const int32_t bos = source_->bos_id() >= 0 ? source_->bos_id() : options_.bos_id;
    if (bos >= 0) out_.U32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(bos));
    std::vector<int32_t> ends;
    for (const auto* list : {&source_->eos_ids(), &options_.eos_ids}) {
      for (const int32_t id : *list) {
        if (std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
      }
    }
    constexpr const char* kEnds[] = {"eos", "eot", "eom"};
    for (size_t i = 0; i < std::min(ends.size(), std::size(kEnds)); ++i) {
      out_.U32(Concat("tokenizer.ggml.", kEnds[i], "_token_id"), static_cast<uint32_t>(ends[i]));
    }
    if (ends.size() > std::size(kEnds)) {
      notes_.push_back(Concat("of ", ends.size(), " tokens that end a text the first ",
                              std::size(kEnds), " are named, as many as GGUF has names for"));
    }
    MLA_ASSIGN_OR_RETURN(const ChatVariables variables, ChatTemplate::LoadVariables(dir_));
    for (const auto& [name, piece] : variables.special_tokens) {
      const auto id = source_->PieceToId(piece);
      if (!id) continue;
      if (name == "unk_token") SetId("unknown", *id);
      if (name == "pad_token") SetId("padding", *id);
    }
    for (size_t id = 0; id < tables_.types.size(); ++id) {
      if (tables_.types[id] == TypeNumber(GgufTokenType::kUnknown)) {
        SetId("unknown", static_cast<int32_t>(id));
      }
    }
    return {};
  }

  void SetId(std::string_view name, int32_t id) {
    out_.U32(Concat("tokenizer.ggml.", name, "_token_id"), static_cast<uint32_t>(id));
  }

  // What is put around a text can only be BOS and EOS.
  Status AddAround() {
    MLA_ASSIGN_OR_RETURN(std::vector<int32_t> around, source_->Encode(""));
    const int32_t bos = source_->bos_id() >= 0 ? source_->bos_id() : options_.bos_id;
    const int32_t eos = source_->eos_ids().empty() ? -1 : source_->eos_ids().front();
    const bool add_bos = !around.empty() && around.front() == bos;
    if (add_bos) around.erase(around.begin());
    const bool add_eos = !around.empty() && around.back() == eos;
    if (add_eos) around.pop_back();
    if (!around.empty()) {
      return Unsupported(dir_, ": the tokenizer puts token ", around.front(),
                         " around a text, want only BOS before it and EOS after it");
    }
    out_.Bool("tokenizer.ggml.add_bos_token", add_bos);
    out_.Bool("tokenizer.ggml.add_eos_token", add_eos);
    return {};
  }

  Status AddTemplates() {
    Result<std::vector<NamedChatTemplate>> templates = ReadChatTemplates(dir_);
    if (!templates.ok()) {
      return templates.error().code == ErrorCode::kNotFound ? Status() : templates.error();
    }
    std::vector<std::string> names;
    for (const NamedChatTemplate& entry : *templates) {
      const bool is_default = entry.name == "default" || templates->size() == 1;
      out_.Str(
          is_default ? "tokenizer.chat_template" : Concat("tokenizer.chat_template.", entry.name),
          entry.text);
      if (!is_default) names.push_back(entry.name);
    }
    if (!names.empty()) out_.Strs("tokenizer.chat_templates", names);
    return {};
  }

  // The tokenizer that a reader of the file will have, against the directory's.
  Status CheckAgainstSource() const {
    MLA_ASSIGN_OR_RETURN(const std::string header, GgufHeader(out_, {}));
    MLA_ASSIGN_OR_RETURN(const GgufFile file,
                         GgufFile::ParseHeader(std::as_bytes(std::span(header)), dir_));
    MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> written, LoadGgufTokenizer(file));
    for (const std::string_view sample : kSamples) {
      MLA_ASSIGN_OR_RETURN(const std::vector<int32_t> want, source_->Encode(sample));
      MLA_ASSIGN_OR_RETURN(const std::vector<int32_t> got, written->Encode(sample));
      if (got == want) continue;
      const auto at = static_cast<size_t>(
          std::mismatch(got.begin(), got.end(), want.begin(), want.end()).first - got.begin());
      return Unsupported(dir_, ": GGUF cannot state this tokenizer: of the text ", Quote(sample),
                         " token ", at, " would be ", At(got, at), ", want ", At(want, at));
    }
    return {};
  }

  static std::string At(const std::vector<int32_t>& ids, size_t i) {
    return i < ids.size() ? std::to_string(ids[i]) : "none";
  }

  const std::string dir_;
  const GgufTokenizerOptions& options_;
  GgufMetadata& out_;
  std::unique_ptr<Tokenizer> source_;
  Json json_;
  Tables tables_;
  std::vector<std::string> notes_;
};

}  // namespace

Result<std::vector<std::string>> AddGgufTokenizer(const std::string& model_dir,
                                                  const GgufTokenizerOptions& options,
                                                  GgufMetadata& metadata) {
  return Writer(model_dir, options, metadata).Run();
}

}  // namespace mla
