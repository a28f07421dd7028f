#include "io/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>
#include <utility>

#include "io/tokenizer/unicode.h"

namespace mla {
namespace {

constexpr size_t kMaxSteps = 32;
constexpr int kMaxDepth = 8;
constexpr size_t kMaxContentBytes = 1024;

Status CheckSize(size_t bytes, size_t limit) {
  if (bytes <= limit) return {};
  return Unsupported("the normalizer makes this text larger than ", limit, " bytes");
}

// Appends the normal form of one run to `out`.
Status AppendNormalForm(std::string_view run, int options, std::string* out) {
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
                   static_cast<utf8proc_ssize_t>(run.size()), &mapped,
                   static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  if (size < 0) return Unsupported("Unicode normalization: ", utf8proc_errmsg(size));
  out->append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
  return {};
}

// ASCII is its own normal form in all four and never joins what stands before it, so only runs of
// other characters, each with the ASCII character before it, need work.
Status NormalForm(int options, std::string* text) {
  const auto ascii = [](char c) { return static_cast<uint8_t>(c) < 0x80; };
  std::string out;
  size_t done = 0, i = 0;
  while (i < text->size()) {
    if (ascii((*text)[i])) {
      ++i;
      continue;
    }
    const size_t begin = i > done ? i - 1 : i;
    while (i < text->size() && !ascii((*text)[i])) ++i;
    out.append(*text, done, begin - done);
    MLA_RETURN_IF_ERROR(
        AppendNormalForm(std::string_view(*text).substr(begin, i - begin), options, &out));
    done = i;
  }
  if (done == 0) return {};
  out.append(*text, done);
  *text = std::move(out);
  return {};
}

void Lowercase(std::string* text) {
  std::string out;
  out.reserve(text->size());
  for (std::string_view rest = *text; !rest.empty();) {
    const CodePoint c = DecodeCodePoint(rest);
    rest.remove_prefix(c.length);
    if (c.value == 0x130) {  // the one character whose lower case is two: i with a dot above
      out += "i\xcc\x87";
    } else {
      AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.value))),
                 &out);
    }
  }
  *text = std::move(out);
}

void Strip(bool left, bool right, std::string* text) {
  std::string_view rest = *text;
  while (left && !rest.empty()) {
    const CodePoint c = DecodeCodePoint(rest);
    if (!IsWhiteSpace(c.value)) break;
    rest.remove_prefix(c.length);
  }
  while (right && !rest.empty()) {
    const size_t last = PreviousCodePoint(rest, rest.size());
    if (!IsWhiteSpace(DecodeCodePoint(rest.substr(last)).value)) break;
    rest = rest.substr(0, last);
  }
  *text = std::string(rest);
}

Status ReplaceAll(const Regex& pattern, std::string_view content, size_t limit,
                  RegexScratch* scratch, std::string* text) {
  std::vector<RegexMatch> matches;
  MLA_RETURN_IF_ERROR(pattern.FindAll(*text, scratch, &matches));
  if (matches.empty()) return {};
  MLA_RETURN_IF_ERROR(CheckSize(text->size() + matches.size() * content.size(), 2 * limit));
  std::string out;
  size_t done = 0;
  for (const RegexMatch& match : matches) {
    out.append(*text, done, match.begin - done);
    out += content;
    done = match.end;
  }
  out.append(*text, done);
  *text = std::move(out);
  return {};
}

Result<std::string> ContentField(const Json& json, std::string_view key, std::string_view where) {
  MLA_ASSIGN_OR_RETURN(std::string content, StringField(json, key, where));
  if (content.size() > kMaxContentBytes) {
    return Unsupported(where, ": ", key, " has ", content.size(), " bytes, the limit is ",
                       kMaxContentBytes);
  }
  return content;
}

}  // namespace

Result<Normalizer> Normalizer::FromJson(const Json* json) {
  Normalizer normalizer;
  if (json != nullptr) MLA_RETURN_IF_ERROR(normalizer.AddSteps(*json, "normalizer", 0));
  return normalizer;
}

Status Normalizer::AddSteps(const Json& json, const std::string& where, int depth) {
  MLA_ASSIGN_OR_RETURN(const std::string type, TypeField(json, where));
  if (type == "Sequence") {
    if (depth == kMaxDepth) return Unsupported(where, ": sequences nested ", depth, " deep");
    MLA_ASSIGN_OR_RETURN(const Json* list, ObjectListField(json, "normalizers", where));
    for (size_t i = 0; i < list->size(); ++i) {
      MLA_RETURN_IF_ERROR(AddSteps((*list)[i], Concat(where, " step ", i), depth + 1));
    }
    return {};
  }
  constexpr std::pair<std::string_view, Kind> kPlain[] = {{"NFC", Kind::kNfc},
                                                          {"NFD", Kind::kNfd},
                                                          {"NFKC", Kind::kNfkc},
                                                          {"NFKD", Kind::kNfkd},
                                                          {"Lowercase", Kind::kLowercase},
                                                          {"Strip", Kind::kStrip},
                                                          {"Prepend", Kind::kPrepend},
                                                          {"Replace", Kind::kReplace}};
  Step step{};
  bool known = false;
  for (const auto& [name, kind] : kPlain) {
    if (type == name) {
      step.kind = kind;
      known = true;
    }
  }
  if (!known) return Unsupported(where, " of type ", Quote(type));
  if (step.kind == Kind::kStrip) {
    MLA_ASSIGN_OR_RETURN(step.strip_left, BoolField(json, "strip_left", where, false));
    MLA_ASSIGN_OR_RETURN(step.strip_right, BoolField(json, "strip_right", where, false));
  } else if (step.kind == Kind::kPrepend) {
    MLA_ASSIGN_OR_RETURN(step.content, ContentField(json, "prepend", where));
  } else if (step.kind == Kind::kReplace) {
    MLA_ASSIGN_OR_RETURN(step.content, ContentField(json, "content", where));
    MLA_ASSIGN_OR_RETURN(const PatternField pattern, ReadPattern(json, where));
    MLA_ASSIGN_OR_RETURN(step.pattern, pattern.is_regex ? Regex::Compile(pattern.text)
                                                        : Regex::CompileLiteral(pattern.text));
  }
  if (steps_.size() == kMaxSteps) return Unsupported(where, ": more than ", kMaxSteps, " steps");
  steps_.push_back(std::move(step));
  return {};
}

Status Normalizer::Run(std::string* text, RegexScratch* scratch) const {
  const size_t limit = MaxGrownBytes(text->size());
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kNfc: MLA_RETURN_IF_ERROR(NormalForm(UTF8PROC_COMPOSE, text)); break;
      case Kind::kNfd: MLA_RETURN_IF_ERROR(NormalForm(UTF8PROC_DECOMPOSE, text)); break;
      case Kind::kNfkc:
        MLA_RETURN_IF_ERROR(NormalForm(UTF8PROC_COMPOSE | UTF8PROC_COMPAT, text));
        break;
      case Kind::kNfkd:
        MLA_RETURN_IF_ERROR(NormalForm(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, text));
        break;
      case Kind::kLowercase: Lowercase(text); break;
      case Kind::kStrip: Strip(step.strip_left, step.strip_right, text); break;
      case Kind::kPrepend:
        if (!text->empty()) text->insert(0, step.content);
        break;
      case Kind::kReplace:
        MLA_RETURN_IF_ERROR(ReplaceAll(*step.pattern, step.content, limit, scratch, text));
        break;
    }
    MLA_RETURN_IF_ERROR(CheckSize(text->size(), limit));
  }
  return {};
}

}  // namespace mla
