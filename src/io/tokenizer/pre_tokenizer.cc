#include "io/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/unicode.h"

namespace mla {
namespace {

constexpr size_t kMaxSteps = 32;
constexpr int kMaxDepth = 8;

// GPT-2's word pattern (Radford et al., 2019).
constexpr std::string_view kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// \w+|[^\w\s]+ with Rust's \w, which differs from Ruby's.
constexpr std::string_view kWords = R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}]+)"
                                    R"(|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}\s]+)";

}  // namespace

Result<PreTokenizer> PreTokenizer::FromJson(const Json* json) {
  PreTokenizer pre_tokenizer;
  if (json == nullptr) return pre_tokenizer;
  MLA_RETURN_IF_ERROR(pre_tokenizer.AddSteps(*json, "pre_tokenizer", 0));
  auto& steps = pre_tokenizer.steps_;
  if (!steps.empty() && steps.back().map_bytes) {
    pre_tokenizer.byte_level_ = true;
    steps.pop_back();
  }
  return pre_tokenizer;
}

Status PreTokenizer::AddSteps(const Json& json, const std::string& where, int depth) {
  MLA_ASSIGN_OR_RETURN(const std::string type, TypeField(json, where));
  if (type == "Sequence") {
    if (depth == kMaxDepth) return Unsupported(where, ": sequences nested ", depth, " deep");
    MLA_ASSIGN_OR_RETURN(const Json* list, ObjectListField(json, "pretokenizers", where));
    for (size_t i = 0; i < list->size(); ++i) {
      MLA_RETURN_IF_ERROR(AddSteps((*list)[i], Concat(where, " step ", i), depth + 1));
    }
    return {};
  }
  MLA_RETURN_IF_ERROR(AddStep(json, type, where));
  if (steps_.size() > kMaxSteps) return Unsupported(where, ": more than ", kMaxSteps, " steps");
  return {};
}

Status PreTokenizer::AddStep(const Json& json, std::string_view type, std::string_view where) {
  if (type == "Split") return AddSplit(json, where);
  if (type == "ByteLevel") return AddByteLevel(json, where);
  if (type == "Metaspace") return AddMetaspace(json, where);
  if (type == "Digits") {
    MLA_ASSIGN_OR_RETURN(const bool single, BoolField(json, "individual_digits", where, false));
    return AddRegex(R"(\p{N})", single ? Behavior::kIsolated : Behavior::kContiguous, false);
  }
  if (type == "Whitespace") return AddRegex(kWords, Behavior::kRemoved, true);
  if (type == "WhitespaceSplit") return AddRegex(R"(\s)", Behavior::kRemoved, false);
  if (type == "Punctuation") {
    MLA_ASSIGN_OR_RETURN(const Behavior behavior, ReadBehavior(json, where));
    return AddRegex(R"([\p{P}$+<=>^`|~])", behavior, false);
  }
  return Unsupported(where, " of type ", Quote(type));
}

Result<PreTokenizer::Behavior> PreTokenizer::ReadBehavior(const Json& json,
                                                          std::string_view where) {
  if (FindField(json, "behavior") == nullptr) return Behavior::kIsolated;
  MLA_ASSIGN_OR_RETURN(const std::string name, StringField(json, "behavior", where));
  constexpr std::pair<std::string_view, Behavior> kNames[] = {
      {"Isolated", Behavior::kIsolated},
      {"Removed", Behavior::kRemoved},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  for (const auto& [known, behavior] : kNames) {
    if (name == known) return behavior;
  }
  return Unsupported(where, ": behavior ", Quote(name));
}

Status PreTokenizer::AddRegex(std::string_view regex, Behavior behavior, bool invert) {
  Step step;
  MLA_ASSIGN_OR_RETURN(step.pattern, Regex::Compile(regex));
  step.behavior = behavior;
  step.invert = invert;
  steps_.push_back(std::move(step));
  return {};
}

Status PreTokenizer::AddSplit(const Json& json, std::string_view where) {
  Step step;
  MLA_ASSIGN_OR_RETURN(const PatternField pattern, ReadPattern(json, where));
  MLA_ASSIGN_OR_RETURN(step.pattern, pattern.is_regex ? Regex::Compile(pattern.text)
                                                      : Regex::CompileLiteral(pattern.text));
  MLA_ASSIGN_OR_RETURN(step.behavior, ReadBehavior(json, where));
  MLA_ASSIGN_OR_RETURN(step.invert, BoolField(json, "invert", where, false));
  steps_.push_back(std::move(step));
  return {};
}

Status PreTokenizer::AddByteLevel(const Json& json, std::string_view where) {
  MLA_ASSIGN_OR_RETURN(const bool prefix, BoolField(json, "add_prefix_space", where, true));
  MLA_ASSIGN_OR_RETURN(const bool use_regex, BoolField(json, "use_regex", where, true));
  if (prefix) {
    Step step;
    step.prefix = " ";
    step.prepend = Prepend::kAlways;
    steps_.push_back(std::move(step));
  }
  if (use_regex) MLA_RETURN_IF_ERROR(AddRegex(kGpt2Words, Behavior::kIsolated, false));
  Step map;
  map.map_bytes = true;
  steps_.push_back(std::move(map));
  return {};
}

Status PreTokenizer::AddMetaspace(const Json& json, std::string_view where) {
  Step step;
  MLA_ASSIGN_OR_RETURN(step.replacement, StringField(json, "replacement", where));
  if (step.replacement.empty() ||
      DecodeCodePoint(step.replacement).length != static_cast<int>(step.replacement.size())) {
    return CorruptFile(where, ": replacement is ", Quote(step.replacement), ", want one character");
  }
  step.prefix = step.replacement;
  MLA_ASSIGN_OR_RETURN(const bool legacy_prefix, BoolField(json, "add_prefix_space", where, true));
  step.prepend = legacy_prefix ? Prepend::kAlways : Prepend::kNever;
  if (FindField(json, "prepend_scheme") != nullptr) {
    MLA_ASSIGN_OR_RETURN(const std::string scheme, StringField(json, "prepend_scheme", where));
    if (scheme == "always") {
      step.prepend = Prepend::kAlways;
    } else if (scheme == "first") {
      step.prepend = Prepend::kFirst;
    } else if (scheme == "never") {
      step.prepend = Prepend::kNever;
    } else {
      return Unsupported(where, ": prepend_scheme ", Quote(scheme));
    }
  }
  MLA_ASSIGN_OR_RETURN(const bool split, BoolField(json, "split", where, true));
  if (split) {
    MLA_ASSIGN_OR_RETURN(step.pattern, Regex::CompileLiteral(step.replacement));
    step.behavior = Behavior::kMergedWithNext;
  }
  steps_.push_back(std::move(step));
  return {};
}

Status PreTokenizer::Run(std::vector<TextPiece>* pieces, PreTokenizerScratch* scratch) const {
  size_t bytes = 0;
  for (const TextPiece& piece : *pieces) bytes += piece.text.size();
  const size_t limit = MaxGrownBytes(bytes);
  for (const Step& step : steps_) {
    scratch->next.clear();
    size_t grown = 0;
    for (TextPiece& piece : *pieces) {
      Rewrite(step, &piece, scratch);
      grown += piece.text.size();
      if (grown > limit) {
        return Unsupported("the pre_tokenizer makes this text larger than ", limit, " bytes");
      }
      MLA_RETURN_IF_ERROR(Split(step, piece, scratch));
    }
    pieces->swap(scratch->next);
  }
  return {};
}

void PreTokenizer::Rewrite(const Step& step, TextPiece* piece, PreTokenizerScratch* scratch) {
  const bool wants_prefix =
      step.prepend == Prepend::kAlways || (step.prepend == Prepend::kFirst && piece->at_start);
  if (!wants_prefix && step.replacement.empty() && !step.map_bytes) return;
  std::string text;
  if (step.map_bytes) {
    AppendByteLevel(piece->text, &text);
  } else if (!step.replacement.empty()) {
    for (const char c : piece->text) c == ' ' ? text += step.replacement : text += c;
  } else {
    text = piece->text;
  }
  if (wants_prefix && !text.starts_with(step.prefix)) text.insert(0, step.prefix);
  scratch->storage.push_back(std::move(text));
  piece->text = scratch->storage.back();
}

// Appends the parts of one piece to scratch->next; empty parts are left out.
Status PreTokenizer::Split(const Step& step, const TextPiece& piece, PreTokenizerScratch* scratch) {
  const auto emit = [&](size_t begin, size_t end) {
    if (begin == end) return;
    scratch->next.push_back({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
  };
  if (!step.pattern || piece.text.empty()) {
    emit(0, piece.text.size());
    return {};
  }
  auto& matches = scratch->matches;
  matches.clear();
  MLA_RETURN_IF_ERROR(step.pattern->FindAll(piece.text, &scratch->regex, &matches));
  // The text as alternating parts, matches and what lies between them; a run of parts that belong
  // together is held back in [begin, end) until its end is known.
  size_t begin = 0, end = 0, at = 0;
  bool previous_match = false;
  const auto part = [&](size_t part_end, bool is_match) {
    bool joins = false;
    switch (step.behavior) {
      case Behavior::kIsolated: break;
      case Behavior::kRemoved:
        if (is_match) {
          emit(begin, end);
          begin = end = part_end;
          return;
        }
        break;
      case Behavior::kMergedWithPrevious: joins = is_match && !previous_match; break;
      case Behavior::kMergedWithNext: joins = previous_match && !is_match; break;
      case Behavior::kContiguous: joins = is_match == previous_match; break;
    }
    if (!joins) {
      emit(begin, end);
      begin = end;
    }
    end = part_end;
    previous_match = is_match;
  };
  for (const RegexMatch& match : matches) {
    if (match.begin > at) part(match.begin, step.invert);
    part(match.end, !step.invert);
    at = match.end;
  }
  if (at < piece.text.size()) part(piece.text.size(), step.invert);
  emit(begin, end);
  return {};
}

}  // namespace mla
