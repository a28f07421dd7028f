#include "io/tokenizer/decoder.h"

#include <algorithm>
#include <utility>

#include "io/tokenizer/unicode.h"

namespace mla {
namespace {

constexpr size_t kMaxSteps = 32;
constexpr int kMaxDepth = 8;
constexpr size_t kMaxContentBytes = 1024;
constexpr size_t kMaxReplacedBytes = 1 << 20;

// Without a decoder tokens are words.
class JoinStage : public DecodeStage {
 public:
  void Push(std::string_view text, bool begins) override {
    if (begins && !first_) next_->Push(" ", true);
    first_ = false;
    next_->Push(text, begins);
  }

 private:
  bool first_ = true;
};

// Characters of GPT-2's alphabet to bytes, the bytes of all tokens to one valid text. A token with
// any other character stands for itself.
class ByteLevelStage : public DecodeStage {
 public:
  void Push(std::string_view text, bool begins) override {
    bytes_.clear();
    for (std::string_view rest = text; !rest.empty();) {
      const CodePoint c = DecodeCodePoint(rest);
      rest.remove_prefix(c.length);
      const int byte = ByteOfAlphabet(c.value);
      if (byte < 0) {
        bytes_ = text;
        break;
      }
      bytes_.push_back(static_cast<char>(byte));
    }
    text_.clear();
    assembler_.Push(bytes_, &text_);
    Emit();
  }
  void Flush() override {
    text_.clear();
    assembler_.Flush(&text_);
    Emit();
    next_->Flush();
  }

 private:
  void Emit() {
    if (text_.empty()) return;
    next_->Push(text_, first_);
    first_ = false;
  }
  Utf8Assembler assembler_;
  std::string bytes_, text_;
  bool first_ = true;
};

class ReplaceStage : public DecodeStage {
 public:
  ReplaceStage(const Regex* pattern, std::string_view content)
      : pattern_(pattern), content_(content) {}

  void Push(std::string_view text, bool begins) override {
    matches_.clear();
    text_.clear();
    size_t done = 0;
    // Where a hostile file would backtrack or grow without end, nothing is replaced.
    if (!pattern_->FindAll(text, &scratch_, &matches_).ok() ||
        matches_.size() * content_.size() > kMaxReplacedBytes) {
      matches_.clear();
    }
    for (const RegexMatch& match : matches_) {
      text_ += text.substr(done, match.begin - done);
      text_ += content_;
      done = match.end;
    }
    text_ += text.substr(done);
    next_->Push(text_, begins);
  }

 private:
  const Regex* pattern_;
  std::string_view content_;
  RegexScratch scratch_;
  std::vector<RegexMatch> matches_;
  std::string text_;
};

// A run of tokens <0x00> to <0xFF> is one token: the text with these bytes or, if they are not
// valid UTF-8, U+FFFD for each. So a run is held back until it ends.
class ByteFallbackStage : public DecodeStage {
 public:
  void Push(std::string_view text, bool begins) override {
    const int byte = ByteOf(text);
    if (byte >= 0) {
      run_.push_back(static_cast<char>(byte));
      return;
    }
    EndRun();
    next_->Push(text, begins);
  }
  void Flush() override {
    EndRun();
    next_->Flush();
  }

 private:
  static int ByteOf(std::string_view text) {
    if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
    int byte = 0;
    for (const char c : text.substr(3, 2)) {
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                               : -1;
      if (digit < 0) return -1;
      byte = 16 * byte + digit;
    }
    return byte;
  }
  void EndRun() {
    if (run_.empty()) return;
    if (ValidUtf8Prefix(run_) == run_.size()) {
      next_->Push(run_, true);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) next_->Push("\xef\xbf\xbd", true);
    }
    run_.clear();
  }
  std::string run_;
};

class FuseStage : public DecodeStage {
 public:
  void Push(std::string_view text, bool begins) override {
    next_->Push(text, first_);
    first_ = false;
  }

 private:
  bool first_ = true;
};

// Takes up to `start` characters `content` off the beginning of each token, up to `stop` off its
// end.
class StripStage : public DecodeStage {
 public:
  StripStage(std::string_view content, int64_t start, int64_t stop)
      : content_(content), start_(start), stop_(stop) {}

  void Push(std::string_view text, bool begins) override {
    if (begins) {
      held_ = 0;  // the end of the token before: stripped
      start_left_ = start_;
      begins_ = true;
    }
    while (start_left_ > 0 && text.starts_with(content_)) {
      text.remove_prefix(content_.size());
      --start_left_;
    }
    if (text.empty()) return;
    start_left_ = 0;
    // The last `stop` of the contents at the end may be the token's end: held back.
    int64_t trailing = 0;
    std::string_view body = text;
    while (trailing < stop_ && body.ends_with(content_)) {
      body.remove_suffix(content_.size());
      ++trailing;
    }
    if (!body.empty()) {
      Emit(held_, body);
      held_ = trailing;
    } else {
      const int64_t keep = std::min(stop_, held_ + trailing);
      Emit(held_ + trailing - keep, {});
      held_ = keep;
    }
  }
  void Flush() override {
    held_ = 0;
    next_->Flush();
  }

 private:
  void Emit(int64_t contents, std::string_view body) {
    text_.clear();
    for (int64_t i = 0; i < contents; ++i) text_ += content_;
    text_ += body;
    if (text_.empty()) return;
    next_->Push(text_, begins_);
    begins_ = false;
  }
  std::string_view content_;
  int64_t start_, stop_;
  int64_t start_left_ = 0;
  int64_t held_ = 0;    // contents at the end so far
  bool begins_ = true;  // nothing of this token has been passed on
  std::string text_;
};

class MetaspaceStage : public DecodeStage {
 public:
  MetaspaceStage(std::string_view replacement, bool drop_first)
      : replacement_(replacement), drop_(drop_first) {}

  void Push(std::string_view text, bool begins) override {
    text_.clear();
    while (!text.empty()) {
      if (text.starts_with(replacement_)) {
        if (!drop_) text_ += ' ';
        text.remove_prefix(replacement_.size());
      } else {
        const int length = DecodeCodePoint(text).length;
        text_ += text.substr(0, length);
        text.remove_prefix(length);
      }
    }
    drop_ = false;
    next_->Push(text_, begins);
  }

 private:
  std::string_view replacement_;
  bool drop_;
  std::string text_;
};

}  // namespace

class DecodeChain::Collector : public DecodeStage {
 public:
  void Push(std::string_view text, bool begins) override { out->append(text); }
  void Flush() override {}
  std::string* out = nullptr;
};

DecodeChain::DecodeChain(std::vector<std::unique_ptr<DecodeStage>> stages)
    : stages_(std::move(stages)) {
  auto collector = std::make_unique<Collector>();
  collector_ = collector.get();
  stages_.push_back(std::move(collector));
  for (size_t i = 0; i + 1 < stages_.size(); ++i) stages_[i]->set_next(stages_[i + 1].get());
}

void DecodeChain::Push(std::string_view token, std::string* out) {
  collector_->out = out;
  stages_[0]->Push(token, true);
}

void DecodeChain::Flush(std::string* out) {
  collector_->out = out;
  stages_[0]->Flush();
}

Result<Decoder> Decoder::FromJson(const Json* json) {
  Decoder decoder;
  if (json == nullptr) {
    decoder.steps_.push_back({Kind::kJoin, {}, {}});
    return decoder;
  }
  MLA_RETURN_IF_ERROR(decoder.AddSteps(*json, "decoder", 0));
  bool joined = false;  // several tokens are one: a stage would see it in parts
  for (const Step& step : decoder.steps_) {
    if (joined && step.kind != Kind::kStrip && step.kind != Kind::kFuse) {
      return Unsupported("decoder: a step other than Strip after Fuse or ByteLevel");
    }
    joined |= step.kind == Kind::kFuse || step.kind == Kind::kByteLevel;
  }
  return decoder;
}

Status Decoder::AddSteps(const Json& json, const std::string& where, int depth) {
  MLA_ASSIGN_OR_RETURN(const std::string type, TypeField(json, where));
  if (type == "Sequence") {
    if (depth == kMaxDepth) return Unsupported(where, ": sequences nested ", depth, " deep");
    MLA_ASSIGN_OR_RETURN(const Json* list, ObjectListField(json, "decoders", where));
    for (size_t i = 0; i < list->size(); ++i) {
      MLA_RETURN_IF_ERROR(AddSteps((*list)[i], Concat(where, " step ", i), depth + 1));
    }
    return {};
  }
  MLA_ASSIGN_OR_RETURN(Step step, ReadStep(json, type, where));
  if (steps_.size() == kMaxSteps) return Unsupported(where, ": more than ", kMaxSteps, " steps");
  steps_.push_back(std::move(step));
  return {};
}

Result<Decoder::Step> Decoder::ReadStep(const Json& json, std::string_view type,
                                        std::string_view where) {
  if (type == "ByteLevel") return Step{Kind::kByteLevel, {}, {}};
  if (type == "ByteFallback") return Step{Kind::kByteFallback, {}, {}};
  if (type == "Fuse") return Step{Kind::kFuse, {}, {}};
  Step step{};
  if (type == "Replace") {
    step.kind = Kind::kReplace;
    MLA_ASSIGN_OR_RETURN(const PatternField pattern, ReadPattern(json, where));
    MLA_ASSIGN_OR_RETURN(step.pattern, pattern.is_regex ? Regex::Compile(pattern.text)
                                                        : Regex::CompileLiteral(pattern.text));
    MLA_ASSIGN_OR_RETURN(step.content, StringField(json, "content", where));
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    MLA_ASSIGN_OR_RETURN(step.content, StringField(json, "content", where));
    MLA_ASSIGN_OR_RETURN(step.start, IntField(json, "start", where));
    MLA_ASSIGN_OR_RETURN(step.stop, IntField(json, "stop", where));
    if (step.start < 0 || step.stop < 0) {
      return CorruptFile(where, ": start is ", step.start, " and stop ", step.stop, ", want >= 0");
    }
  } else if (type == "Metaspace") {
    step.kind = Kind::kMetaspace;
    MLA_ASSIGN_OR_RETURN(step.content, StringField(json, "replacement", where));
    MLA_ASSIGN_OR_RETURN(step.drop_first, BoolField(json, "add_prefix_space", where, true));
    if (FindField(json, "prepend_scheme") != nullptr) {
      MLA_ASSIGN_OR_RETURN(const std::string scheme, StringField(json, "prepend_scheme", where));
      step.drop_first = scheme != "never";
    }
  } else {
    return Unsupported(where, " of type ", Quote(type));
  }
  if (step.content.size() > kMaxContentBytes || (step.content.empty() && type != "Replace")) {
    return Unsupported(where, ": a text of ", step.content.size(), " bytes, want 1 to ",
                       kMaxContentBytes);
  }
  return step;
}

std::unique_ptr<DecodeStage> Decoder::NewStage(const Step& step) {
  switch (step.kind) {
    case Kind::kJoin: return std::make_unique<JoinStage>();
    case Kind::kByteLevel: return std::make_unique<ByteLevelStage>();
    case Kind::kReplace: return std::make_unique<ReplaceStage>(&*step.pattern, step.content);
    case Kind::kByteFallback: return std::make_unique<ByteFallbackStage>();
    case Kind::kFuse: return std::make_unique<FuseStage>();
    case Kind::kStrip: return std::make_unique<StripStage>(step.content, step.start, step.stop);
    case Kind::kMetaspace: return std::make_unique<MetaspaceStage>(step.content, step.drop_first);
  }
  return nullptr;
}

std::unique_ptr<DecodeChain> Decoder::NewChain() const {
  std::vector<std::unique_ptr<DecodeStage>> stages;
  for (const Step& step : steps_) stages.push_back(NewStage(step));
  return std::make_unique<DecodeChain>(std::move(stages));
}

}  // namespace mla
