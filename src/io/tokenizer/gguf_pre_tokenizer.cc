// tokenizer.ggml.pre: names of ways to cut text into words, as GGUF files state them.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/tokenizer/gguf_tokenizer.h"

namespace mla {
namespace {

using nlohmann::json;

// Steps other than regular expressions.
constexpr const char* kDigits = "digits";  // each digit is a word
constexpr const char* kGpt2 = "gpt2";      // ByteLevel's own expression

// Expressions that are the models' own, from their tokenizer.json.
constexpr const char* kThreeDigits = R"(\p{N}{1,3})";
constexpr const char* kLlama3 =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
constexpr const char* kQwen2 =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
constexpr const char* kDeepseek3Cjk = "[一-龥぀-ゟ゠-ヿ]+";
constexpr const char* kDeepseek3 =
    R"re([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
// Kimi-K2's, from its Python code: letters other than Han, with or without a beginning in capitals.
constexpr const char* kKimi =
    R"re(\p{Han}+|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])*(?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])+(?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
constexpr const char* kLineBreak = R"([\r\n])";
constexpr const char* kDeepseekCjk = "[一-龥ࠀ-一가-퟿]+";
// Letters with case; not those of mathematics.
constexpr const char* kDeepseekLetters =
    R"re(\s?(?:(?![\x{1D400}-\x{1D7FF}])[\p{Lu}\p{Ll}\p{Lt}])+)re";
constexpr const char* kDeepseekPunctuation = R"re(\s?[!-/:-~！-／：-～‘-‟　-。]+)re";

struct PreKind {
  std::vector<std::string_view> names;  // the first is written
  std::vector<std::string_view> steps;
};

const std::vector<PreKind>& Kinds() {
  static const std::vector<PreKind> kinds = {
      {{"gpt-2", "mpt", "olmo", "jais", "gpt2"}, {kGpt2}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx"}, {kLlama3}},
      {{"glm4", "chatglm-bpe"}, {kLlama3}},
      {{"qwen2", "deepseek-r1-qwen", "stablelm2"}, {kQwen2}},
      {{"kimi-k2"}, {kKimi}},
      {{"deepseek-v3", "hunyuan-dense"}, {kThreeDigits, kDeepseek3Cjk, kDeepseek3}},
      {{"deepseek-llm"},
       {kLineBreak, kDeepseekLetters, kDeepseekPunctuation, R"(\s+$)", kDeepseekCjk, R"(\p{N}+)"}},
      {{"deepseek-coder"}, {kLineBreak, R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepseekCjk, R"(\p{N})"}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}, {kDigits, kGpt2}},
      {{"default"}, {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
  };
  return kinds;
}

json SplitStep(std::string_view pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

json ByteLevelStep(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

// The expression of ByteLevel, for the kinds that go on cutting after it.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// One spelling of an expression: line ends escaped, quotes not.
std::string Canonical(std::string_view pattern) {
  std::string text;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\n') {
      text += "\\n";
    } else if (pattern[i] == '\r') {
      text += "\\r";
    } else if (pattern[i] == '\\' && i + 1 < pattern.size()) {
      if (pattern[i + 1] != '"') text += '\\';
      text += pattern[++i];
    } else {
      text += pattern[i];
    }
  }
  return text;
}

std::string Field(const json& object, const char* key) {
  const auto field = object.find(key);
  return field != object.end() && field->is_string() ? field->get<std::string>() : std::string();
}

bool Flag(const json& object, const char* key, bool fallback) {
  const auto field = object.find(key);
  return field != object.end() && field->is_boolean() ? field->get<bool>() : fallback;
}

// The steps of a tokenizer.json's pre_tokenizer in the words above; "?" for any other.
void AppendSteps(const json& step, std::vector<std::string>* steps) {
  if (!step.is_object()) return;
  const std::string type = Field(step, "type");
  if (type == "Sequence") {
    const auto list = step.find("pretokenizers");
    if (list == step.end() || !list->is_array()) return;
    for (const json& item : *list) {
      if (Field(item, "type") == "Sequence") {
        steps->push_back("?");  // never seen; not worth a recursion to bound
      } else {
        AppendSteps(item, steps);
      }
    }
  } else if (type == "ByteLevel") {
    if (Flag(step, "add_prefix_space", true)) steps->push_back("?");
    if (Flag(step, "use_regex", true)) steps->push_back(kGpt2);
  } else if (type == "Digits" && Flag(step, "individual_digits", false)) {
    steps->push_back(kDigits);
  } else if (type == "Split" && Field(step, "behavior") == "Isolated" &&
             !Flag(step, "invert", false) && step.contains("pattern") &&
             step["pattern"].is_object()) {
    steps->push_back(Canonical(Field(step["pattern"], "Regex")));
  } else {
    steps->push_back("?");
  }
}

}  // namespace

json PreTokenizerOfGguf(std::string_view pre) {
  for (const PreKind& kind : Kinds()) {
    if (std::find(kind.names.begin(), kind.names.end(), pre) == kind.names.end()) continue;
    json list = json::array();
    for (const std::string_view& step : kind.steps) {
      const bool last = &step == &kind.steps.back();
      if (step == kDigits) {
        list.push_back({{"type", "Digits"}, {"individual_digits", true}});
      } else if (step == kGpt2) {
        if (last) {
          list.push_back(ByteLevelStep(true));
        } else {
          list.push_back(SplitStep(kGpt2Pattern));
        }
      } else {
        list.push_back(SplitStep(step));
      }
    }
    if (kind.steps.back() != kGpt2) list.push_back(ByteLevelStep(false));
    return {{"type", "Sequence"}, {"pretokenizers", std::move(list)}};
  }
  return nullptr;
}

bool GgufPreIgnoresMerges(std::string_view pre) {
  return pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3" || pre == "kimi-k2";
}

std::string KnownGgufPreTokenizers() {
  std::string names;
  for (const PreKind& kind : Kinds()) {
    for (const std::string_view name : kind.names) {
      names += (names.empty() ? "" : ", ") + std::string(name);
    }
  }
  return names;
}

std::string GgufPreOf(const json& pre_tokenizer, bool ignore_merges) {
  std::vector<std::string> steps;
  AppendSteps(pre_tokenizer, &steps);
  for (const PreKind& kind : Kinds()) {
    std::vector<std::string> want;
    for (const std::string_view step : kind.steps) {
      want.push_back(step == kDigits || step == kGpt2 ? std::string(step) : Canonical(step));
    }
    // The two kinds that cut alike differ in this.
    if (want == steps && GgufPreIgnoresMerges(kind.names[0]) == ignore_merges) {
      return std::string(kind.names[0]);
    }
  }
  return {};
}

}  // namespace mla
