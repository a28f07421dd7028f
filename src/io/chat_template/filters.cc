// Filters of single values, and the table of all.
#include "io/chat_template/filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "io/chat_template/lexer.h"
#include "io/json.h"
#include "io/tokenizer/unicode.h"

namespace mla::jinja {
namespace {

// str(value), charged for.
Result<Text> Str(const FilterCall& call) {
  MLA_RETURN_IF_ERROR(call.env.budget->Allocate(128 * WeightOf(call.value)));
  return ToText(call.value);
}

Result<Value> Trim(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"chars"}));
  MLA_ASSIGN_OR_RETURN(const Text text, Str(call));
  std::optional<Text> characters;
  if (bound[0] && !bound[0]->IsNone()) {
    MLA_ASSIGN_OR_RETURN(characters, TextOr(call.name, bound[0], ""));
    MLA_RETURN_IF_ERROR(call.env.budget->Step(text.size() * characters->size() / 64));
  }
  return Value(Strip(text, true, true, characters));
}

Text Title(const Text& text) {
  // Words are what white space, hyphens and opening brackets separate.
  Text out, word;
  const auto flush = [&] {
    out.Append(Capitalize(word));
    word = Text();
  };
  for (const Text& character : SplitCharacters(text)) {
    const bool separates = StripLeft(character.bytes()).empty() ||
                           std::string_view("-({[<").find(character.bytes()) != std::string::npos;
    if (separates) flush();
    (separates ? out : word).Append(character);
  }
  flush();
  return out;
}

Result<Value> Case(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound none, Bind(call.name, call.arguments, {}));
  MLA_ASSIGN_OR_RETURN(const Text text, Str(call));
  if (call.name == "upper") return Value(ToUpper(text));
  if (call.name == "lower") return Value(ToLower(text));
  if (call.name == "capitalize") return Value(Capitalize(text));
  MLA_RETURN_IF_ERROR(call.env.budget->Allocate(text.size() * sizeof(Text)));
  return Value(Title(text));
}

Result<Value> String(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound none, Bind(call.name, call.arguments, {}));
  MLA_ASSIGN_OR_RETURN(Text text, Str(call));
  return Value(std::move(text));
}

// Nothing is escaped, so nothing needs marking as safe.
Result<Value> Safe(const FilterCall& call) { return String(call); }

Result<Value> Default(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound,
                       Bind(call.name, call.arguments, {"default_value", "boolean"}));
  const bool replace =
      call.value.IsUndefined() || (TruthOr(bound[1], false) && !IsTrue(call.value));
  return replace ? bound[0].value_or(Value::String("")) : call.value;
}

Result<Value> Replace(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"old", "new", "count"}));
  MLA_ASSIGN_OR_RETURN(const Text text, Str(call));
  CallArguments arguments;
  for (size_t i = 0; i < 3; ++i) {
    if (i == 2 && (!bound[2] || bound[2]->IsNone())) break;
    if (!bound[i]) return InvalidArgument("replace needs two strings");
    arguments.positional.push_back(*bound[i]);
  }
  return CallMethod(call.env, Value(text), "replace", arguments);
}

Result<Value> ToJsonFilter(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(
      const Bound bound,
      Bind(call.name, call.arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = TruthOr(bound[0], false);
  style.sort_keys = TruthOr(bound[3], false);
  if (bound[1] && !bound[1]->IsNone()) {
    MLA_ASSIGN_OR_RETURN(const int64_t indent, IntegerOr("tojson", bound[1], 0));
    constexpr int64_t kMaxIndent = 32;
    if (indent > kMaxIndent) {
      return InvalidArgument("tojson: indent is ", indent, ", the limit is ", kMaxIndent);
    }
    style.indent = static_cast<int>(std::max<int64_t>(indent, 0));
    style.item_separator = std::string(",");
  }
  if (bound[2] && !bound[2]->IsNone()) {
    const List* separators = bound[2]->list();
    if (separators == nullptr || separators->items.size() != 2 ||
        separators->items[0].text() == nullptr || separators->items[1].text() == nullptr) {
      return InvalidArgument("tojson: separators is a ", KindName(*bound[2]),
                             ", want a pair of strings");
    }
    style.item_separator = separators->items[0].text()->bytes();
    style.key_separator = separators->items[1].text()->bytes();
  }
  // Up to six bytes for one, and on each line as many spaces as it is deep.
  const size_t per_value = style.item_separator.size() + style.key_separator.size() + 16 +
                           static_cast<size_t>(std::max(style.indent, 0) * kMaxValueDepth / 4);
  MLA_RETURN_IF_ERROR(call.env.budget->Allocate(WeightOf(call.value) * (64 + per_value)));
  MLA_ASSIGN_OR_RETURN(Text json, ToJson(call.value, style));
  return Value(std::move(json));
}

Result<Value> Int(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"default", "base"}));
  MLA_ASSIGN_OR_RETURN(const int64_t base, IntegerOr(call.name, bound[1], 10));
  const Value fallback = bound[0].value_or(Value(int64_t{0}));
  if (base != 10) return Unsupported("int: base ", base, " is not supported");
  if (call.value.IsInteger()) return Value(call.value.ToInteger());
  double number = 0;
  if (call.value.IsNumber()) {
    number = call.value.ToDouble();
  } else if (const Text* text = call.value.text()) {
    const Text stripped = Strip(*text, true, true, std::nullopt);
    std::string_view digits = stripped.bytes();
    if (digits.starts_with('+')) digits.remove_prefix(1);
    int64_t integer = 0;
    const char* end = digits.data() + digits.size();
    auto result = std::from_chars(digits.data(), end, integer);
    if (result.ec == std::errc() && result.ptr == end) return Value(integer);
    result = std::from_chars(digits.data(), end, number);
    if (digits.empty() || result.ec != std::errc() || result.ptr != end) return fallback;
  } else {
    return fallback;
  }
  if (!(std::abs(number) < 9.2e18)) return fallback;
  return Value(static_cast<int64_t>(number));
}

Result<Value> Float(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"default"}));
  if (call.value.IsNumber()) return Value(call.value.ToDouble());
  double number = 0;
  if (const Text* text = call.value.text()) {
    const Text stripped = Strip(*text, true, true, std::nullopt);
    std::string_view digits = stripped.bytes();
    if (digits.starts_with('+')) digits.remove_prefix(1);
    const char* end = digits.data() + digits.size();
    const auto result = std::from_chars(digits.data(), end, number);
    if (!digits.empty() && result.ec == std::errc() && result.ptr == end) return Value(number);
  }
  return bound[0].value_or(Value(0.0));
}

Result<Value> Abs(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound none, Bind(call.name, call.arguments, {}));
  if (!call.value.IsNumber()) return InvalidArgument("abs of a ", KindName(call.value));
  if (call.value.ToDouble() < 0) return Negate(call.value);
  return call.value.IsInteger() ? Value(call.value.ToInteger()) : call.value;
}

Result<Value> Round(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"precision", "method"}));
  MLA_ASSIGN_OR_RETURN(const int64_t precision, IntegerOr(call.name, bound[0], 0));
  MLA_ASSIGN_OR_RETURN(const Text method, TextOr(call.name, bound[1], "common"));
  if (!call.value.IsNumber()) return InvalidArgument("round of a ", KindName(call.value));
  if (precision < 0 || precision > 15) {
    return Unsupported("round: precision ", precision, " is not supported, want 0 to 15");
  }
  const double number = call.value.ToDouble();
  if (!std::isfinite(number)) return Value(number);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method.bytes() == "ceil") return Value(std::ceil(number * scale) / scale);
  if (method.bytes() == "floor") return Value(std::floor(number * scale) / scale);
  if (method.bytes() != "common") {
    return InvalidArgument("round: method is ", Quote(method.bytes()),
                           ", want common, ceil or floor");
  }
  // To the nearest decimal of the exact value, half to even: what printing does.
  char buffer[400];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), number, std::chars_format::fixed,
                                 static_cast<int>(precision));
  double rounded = number;
  std::from_chars(buffer, end.ptr, rounded);
  return Value(call.value.IsInteger() ? Value(call.value.ToInteger()) : Value(rounded));
}

Result<Value> Indent(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound,
                       Bind(call.name, call.arguments, {"width", "first", "blank"}));
  if (call.value.text() == nullptr) return InvalidArgument("indent of a ", KindName(call.value));
  Text indent;
  if (bound[0] && bound[0]->text() != nullptr) {
    indent = *bound[0]->text();
  } else {
    MLA_ASSIGN_OR_RETURN(const int64_t width, IntegerOr(call.name, bound[0], 4));
    MLA_RETURN_IF_ERROR(
        call.env.budget->Allocate(static_cast<size_t>(std::max<int64_t>(width, 0))));
    indent.Append(std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' '));
  }
  MLA_ASSIGN_OR_RETURN(Text text, Str(call));
  const auto line_count =
      static_cast<size_t>(std::count(text.bytes().begin(), text.bytes().end(), '\n'));
  MLA_RETURN_IF_ERROR(call.env.budget->Allocate(
      2 * (text.size() + (line_count + 2) * indent.size()) + text.size() * sizeof(Text)));
  const bool blank = TruthOr(bound[2], false);
  text.Append("\n");  // as Jinja does, so that a last empty line counts
  Text out;
  const std::vector<Text> lines = SplitLines(text, false);
  for (size_t i = 0; i < lines.size(); ++i) {
    const bool indents = i == 0 ? TruthOr(bound[1], false) : blank || !lines[i].empty();
    if (i > 0) out.Append("\n");
    if (indents) out.Append(indent);
    out.Append(lines[i]);
  }
  return Value(std::move(out));
}

Result<Value> WordCount(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Text text, Str(call));
  int64_t words = 0;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint code = DecodeCodePoint(std::string_view(text.bytes()).substr(at));
    const bool word = IsWordCharacter(code.value);
    words += word && !in_word ? 1 : 0;
    in_word = word;
    at += static_cast<size_t>(code.length);
  }
  return Value(words);
}

constexpr FilterEntry kFilters[] = {
    {"abs", Abs},         {"capitalize", Case},     {"d", Default},
    {"default", Default}, {"float", Float},         {"indent", Indent},
    {"int", Int},         {"lower", Case},          {"replace", Replace},
    {"round", Round},     {"safe", Safe},           {"string", String},
    {"title", Case},      {"tojson", ToJsonFilter}, {"trim", Trim},
    {"upper", Case},      {"wordcount", WordCount}};

const FilterEntry* FindFilter(std::string_view name) {
  const std::span<const FilterEntry> all[] = {kFilters, SequenceFilters()};
  for (const auto& table : all) {
    for (const FilterEntry& entry : table) {
      if (entry.name == name) return &entry;
    }
  }
  return nullptr;
}

}  // namespace

bool HasFilter(std::string_view name) { return FindFilter(name) != nullptr; }

Result<Value> ApplyFilter(const Environment& env, std::string_view name, const Value& value,
                          const CallArguments& arguments) {
  const FilterEntry* entry = FindFilter(name);
  if (entry == nullptr) return Unsupported("the filter ", Quote(name), " is not supported");
  MLA_RETURN_IF_ERROR(env.budget->Step());
  return entry->apply({env, entry->name, value, arguments});
}

Result<Bound> Bind(std::string_view function, const CallArguments& arguments,
                   std::initializer_list<std::string_view> parameters) {
  if (arguments.positional.size() > parameters.size()) {
    return InvalidArgument(function, " takes at most ", parameters.size(), " arguments, not ",
                           arguments.positional.size());
  }
  Bound bound(parameters.size());
  std::copy(arguments.positional.begin(), arguments.positional.end(), bound.begin());
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(parameters.begin(), parameters.end(), name);
    const auto at = static_cast<size_t>(found - parameters.begin());
    if (found == parameters.end()) {
      return Unsupported(function, ": the argument ", Quote(name), " is not supported");
    }
    if (bound[at]) return InvalidArgument(function, ": the argument ", Quote(name), " given twice");
    bound[at] = value;
  }
  return bound;
}

Result<int64_t> IntegerOr(std::string_view function, const std::optional<Value>& argument,
                          int64_t fallback) {
  if (!argument) return fallback;
  if (argument->IsInteger()) return argument->ToInteger();
  return InvalidArgument(function, ": an argument is a ", KindName(*argument), ", want an int");
}

Result<Text> TextOr(std::string_view function, const std::optional<Value>& argument,
                    std::string_view fallback) {
  if (!argument) return Text(fallback);
  if (argument->text() != nullptr) return *argument->text();
  return InvalidArgument(function, ": an argument is a ", KindName(*argument), ", want a str");
}

bool TruthOr(const std::optional<Value>& argument, bool fallback) {
  return argument ? IsTrue(*argument) : fallback;
}

}  // namespace mla::jinja
