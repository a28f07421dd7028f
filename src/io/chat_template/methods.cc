// Methods of strings and dicts.
#include <algorithm>

#include "io/chat_template/functions.h"
#include "io/chat_template/lexer.h"
#include "io/json.h"
#include "io/tokenizer/unicode.h"
#include "utf8proc.h"

namespace mla::jinja {
namespace {

constexpr std::string_view kTextMethods[] = {
    "capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
    "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
    "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
    "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
    "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
    "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
    "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
    "swapcase",     "title",       "translate", "upper",      "zfill"};
constexpr std::string_view kListMethods[] = {"append", "clear",   "copy",   "count",
                                             "extend", "index",   "insert", "pop",
                                             "remove", "reverse", "sort"};
constexpr std::string_view kMapMethods[] = {"clear",      "copy",   "fromkeys", "get",
                                            "items",      "keys",   "pop",      "popitem",
                                            "setdefault", "update", "values"};

struct Call {
  const Environment& env;
  std::string_view name;
  const CallArguments& arguments;
};

Result<Value> StripMethod(const Call& call, const Text& self) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"chars"}));
  std::optional<Text> characters;
  if (bound[0] && !bound[0]->IsNone()) {
    MLA_ASSIGN_OR_RETURN(characters, TextOr(call.name, bound[0], ""));
    MLA_RETURN_IF_ERROR(call.env.budget->Step(self.size() * characters->size() / 64));
  }
  return Value(Strip(self, call.name != "rstrip", call.name != "lstrip", characters));
}

// On white space, runs of it counting once.
std::vector<Text> SplitSpace(const Text& text, int64_t max_splits, bool from_right) {
  std::vector<Text> parts;
  size_t begin = 0, end = text.size();
  const std::string_view bytes = text.bytes();
  for (;;) {
    begin = bytes.size() - StripLeft(bytes.substr(begin)).size();
    if (from_right || begin > end) break;
    if (begin >= end) return parts;
    if (max_splits-- == 0) {
      parts.push_back(text.Slice(begin, end));
      return parts;
    }
    size_t stop = begin;
    while (stop < end) {
      const CodePoint code = DecodeCodePoint(bytes.substr(stop));
      if (IsPythonSpace(code.value)) break;
      stop += static_cast<size_t>(code.length);
    }
    parts.push_back(text.Slice(begin, stop));
    begin = stop;
  }
  while (from_right) {
    end = StripRight(bytes.substr(0, end)).size();
    if (end == 0) break;
    size_t start = max_splits-- == 0 ? 0 : end;
    while (start > 0) {
      const size_t previous = PreviousCodePoint(bytes, start);
      if (IsPythonSpace(DecodeCodePoint(bytes.substr(previous)).value)) break;
      start = previous;
    }
    parts.push_back(text.Slice(start, end));
    end = start;
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Text> SplitAt(const Text& text, const Text& separator, int64_t max_splits,
                          bool from_right) {
  std::vector<size_t> cuts;
  if (from_right) {
    // rfind is quadratic at worst; separators are short.
    size_t end = text.size();
    while (max_splits-- != 0 && end >= separator.size()) {
      const size_t found = text.bytes().rfind(separator.bytes(), end - separator.size());
      if (found == std::string::npos) break;
      cuts.push_back(found);
      end = found;
    }
    std::reverse(cuts.begin(), cuts.end());
  } else {
    for (size_t at = 0; max_splits-- != 0; at = cuts.back() + separator.size()) {
      const size_t found = FindBytes(text.bytes(), separator.bytes(), at);
      if (found == std::string::npos) break;
      cuts.push_back(found);
    }
  }
  std::vector<Text> parts;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    parts.push_back(text.Slice(begin, cut));
    begin = cut + separator.size();
  }
  parts.push_back(text.Slice(begin, text.size()));
  return parts;
}

Result<Value> SplitMethod(const Call& call, const Text& self) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"sep", "maxsplit"}));
  MLA_ASSIGN_OR_RETURN(const int64_t max_splits, IntegerOr(call.name, bound[1], -1));
  // A part is at least a character; its value costs more than its bytes.
  MLA_RETURN_IF_ERROR(call.env.budget->Allocate(self.size() * 16 + 256));
  const bool from_right = call.name == "rsplit";
  std::vector<Text> parts;
  if (!bound[0] || bound[0]->IsNone()) {
    parts = SplitSpace(self, max_splits, from_right);
  } else {
    MLA_ASSIGN_OR_RETURN(const Text separator, TextOr(call.name, bound[0], ""));
    if (separator.empty()) return InvalidArgument(call.name, ": the separator is empty");
    if (from_right) {
      MLA_RETURN_IF_ERROR(call.env.budget->Step(self.size() * separator.size() / 64));
    }
    parts = SplitAt(self, separator, max_splits, from_right);
  }
  MLA_RETURN_IF_ERROR(call.env.budget->Allocate(parts.size() * (sizeof(Value) + sizeof(Text))));
  List list;
  for (Text& part : parts) list.items.emplace_back(std::move(part));
  return Value(std::move(list));
}

Result<Value> PartitionMethod(const Call& call, const Text& self) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"sep"}));
  MLA_ASSIGN_OR_RETURN(const Text separator, TextOr(call.name, bound[0], ""));
  if (separator.empty()) return InvalidArgument(call.name, ": the separator is empty");
  const bool last = call.name == "rpartition";
  MLA_RETURN_IF_ERROR(call.env.budget->Allocate(self.size() * (last ? separator.size() : 1) + 256));
  const size_t at =
      last ? self.bytes().rfind(separator.bytes()) : FindBytes(self.bytes(), separator.bytes(), 0);
  List parts{List::Form::kTuple, {}};
  if (at == std::string::npos) {
    for (int i = 0; i < 3; ++i) parts.items.emplace_back(i == (last ? 2 : 0) ? self : Text());
  } else {
    parts.items = {Value(self.Slice(0, at)), Value(separator),
                   Value(self.Slice(at + separator.size(), self.size()))};
  }
  return Value(std::move(parts));
}

// A string, or any of a tuple of them.
Result<Value> AffixMethod(const Call& call, const Text& self) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"affix"}));
  const Value affix = bound[0].value_or(Value(Undefined{}));
  std::vector<Value> choices = {affix};
  if (const List* list = affix.list(); list != nullptr && list->form == List::Form::kTuple) {
    choices = list->items;
  }
  bool found = false;
  for (const Value& choice : choices) {
    if (choice.text() == nullptr) {
      return InvalidArgument(call.name, ": the argument is a ", KindName(choice), ", want a str");
    }
    const std::string& part = choice.text()->bytes();
    found |=
        call.name == "startswith" ? self.bytes().starts_with(part) : self.bytes().ends_with(part);
  }
  return Value(found);
}

Result<Value> ReplaceMethod(const Call& call, const Text& self) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"old", "new", "count"}));
  if (!bound[0] || !bound[1]) return InvalidArgument("replace needs two strings");
  MLA_ASSIGN_OR_RETURN(const Text from, TextOr(call.name, bound[0], ""));
  MLA_ASSIGN_OR_RETURN(const Text to, TextOr(call.name, bound[1], ""));
  MLA_ASSIGN_OR_RETURN(const int64_t count, IntegerOr(call.name, bound[2], -1));
  const size_t most = self.size() / std::max<size_t>(from.size(), 1) + 1;
  MLA_RETURN_IF_ERROR(call.env.budget->Allocate(
      2 * (self.size() + most * std::min<size_t>(to.size(), size_t{1} << 40)) +
      (from.empty() ? self.size() * sizeof(Text) : 0)));
  return Value(ReplaceAll(self, from, to, count));
}

Result<Value> FindMethod(const Call& call, const Text& self) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"sub"}));
  MLA_ASSIGN_OR_RETURN(const Text sub, TextOr(call.name, bound[0], ""));
  MLA_RETURN_IF_ERROR(call.env.budget->Step(self.size() * (sub.size() + 1) / 64));
  const std::string_view bytes = self.bytes();
  if (call.name == "count") {
    if (sub.empty()) return Value(static_cast<int64_t>(CountCharacters(bytes)) + 1);
    int64_t count = 0;
    for (size_t at = 0; (at = FindBytes(bytes, sub.bytes(), at)) != bytes.npos; ++count) {
      at += sub.size();
    }
    return Value(count);
  }
  const bool last = call.name[0] == 'r';
  const size_t at = last ? bytes.rfind(sub.bytes()) : FindBytes(bytes, sub.bytes(), 0);
  if (at != bytes.npos) return Value(static_cast<int64_t>(CountCharacters(bytes.substr(0, at))));
  if (call.name.ends_with("index")) return InvalidArgument(call.name, ": the text is not there");
  return Value(int64_t{-1});
}

Result<Value> JoinMethod(const Call& call, const Text& self) {
  CallArguments separator;
  separator.positional.push_back(Value(self));
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"iterable"}));
  const Value items = bound[0].value_or(Value(Undefined{}));
  MLA_ASSIGN_OR_RETURN(const std::vector<Value> parts, Iterate(items, call.env.budget));
  for (const Value& part : parts) {
    if (part.text() == nullptr) {
      return InvalidArgument("join: an item is a ", KindName(part), ", want a str");
    }
  }
  return ApplyFilter(call.env, "join", items, separator);
}

// True if there are characters and all are of the kind.
Result<Value> ClassMethod(const Call& call, const Text& self) {
  MLA_ASSIGN_OR_RETURN(const Bound none, Bind(call.name, call.arguments, {}));
  const auto category = [](char32_t code) {
    return utf8proc_category(static_cast<utf8proc_int32_t>(code));
  };
  const auto is_alpha = [&](char32_t code) {
    const utf8proc_category_t kind = category(code);
    return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
  };
  const auto is_digit = [&](char32_t code) { return category(code) == UTF8PROC_CATEGORY_ND; };
  bool all = !self.empty(), cased = false;
  for (size_t at = 0; at < self.size();) {
    const CodePoint code = DecodeCodePoint(std::string_view(self.bytes()).substr(at));
    const utf8proc_category_t kind = category(code.value);
    if (call.name == "isspace") all &= IsPythonSpace(code.value);
    if (call.name == "isalpha") all &= is_alpha(code.value);
    if (call.name == "isalnum") all &= is_alpha(code.value) || is_digit(code.value);
    if (call.name == "isdigit" || call.name == "isdecimal") all &= is_digit(code.value);
    if (call.name == "isupper") all &= kind != UTF8PROC_CATEGORY_LL;
    if (call.name == "islower") all &= kind != UTF8PROC_CATEGORY_LU;
    cased |= kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LU;
    at += static_cast<size_t>(code.length);
  }
  const bool of_case = call.name == "isupper" || call.name == "islower";
  return Value(all && (!of_case || cased));
}

Result<Value> TextMethod(const Call& call, const Text& self) {
  const std::string_view name = call.name;
  MLA_RETURN_IF_ERROR(call.env.budget->Allocate(2 * self.size()));
  if (name == "strip" || name == "lstrip" || name == "rstrip") return StripMethod(call, self);
  if (name == "split" || name == "rsplit") return SplitMethod(call, self);
  if (name == "partition" || name == "rpartition") return PartitionMethod(call, self);
  if (name == "startswith" || name == "endswith") return AffixMethod(call, self);
  if (name == "replace") return ReplaceMethod(call, self);
  if (name == "join") return JoinMethod(call, self);
  for (const std::string_view find : {"find", "rfind", "index", "rindex", "count"}) {
    if (name == find) return FindMethod(call, self);
  }
  for (const std::string_view test :
       {"isspace", "isalpha", "isalnum", "isdigit", "isdecimal", "isupper", "islower"}) {
    if (name == test) return ClassMethod(call, self);
  }
  if (name == "removeprefix" || name == "removesuffix") {
    MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(name, call.arguments, {"affix"}));
    MLA_ASSIGN_OR_RETURN(const Text affix, TextOr(name, bound[0], ""));
    const bool prefix = name == "removeprefix";
    if (prefix && self.bytes().starts_with(affix.bytes())) {
      return Value(self.Slice(affix.size(), self.size()));
    }
    if (!prefix && self.bytes().ends_with(affix.bytes())) {
      return Value(self.Slice(0, self.size() - affix.size()));
    }
    return Value(self);
  }
  if (name == "splitlines") {
    MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(name, call.arguments, {"keepends"}));
    MLA_RETURN_IF_ERROR(call.env.budget->Allocate(self.size() * sizeof(Text)));
    List lines;
    for (Text& line : SplitLines(self, TruthOr(bound[0], false))) {
      lines.items.emplace_back(std::move(line));
    }
    return Value(std::move(lines));
  }
  if (name == "title") {
    MLA_ASSIGN_OR_RETURN(const Bound none, Bind(name, call.arguments, {}));
    return Value(TitleWords(self));
  }
  for (const std::string_view filter : {"upper", "lower", "capitalize"}) {
    if (name == filter) return ApplyFilter(call.env, name, Value(self), call.arguments);
  }
  return Unsupported("the method ", Quote(name), " of a str is not supported");
}

Result<Value> MapMethod(const Call& call, const Map& self) {
  const std::string_view name = call.name;
  MLA_RETURN_IF_ERROR(
      call.env.budget->Allocate(self.entries.size() * (2 * sizeof(Value) + sizeof(List))));
  if (name == "get") {
    MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(name, call.arguments, {"key", "default"}));
    if (!bound[0]) return InvalidArgument("get needs a key");
    const Value* found = self.Find(*bound[0]);
    return found != nullptr ? *found : bound[1].value_or(Value(None{}));
  }
  if (name == "items" || name == "keys" || name == "values") {
    MLA_ASSIGN_OR_RETURN(const Bound none, Bind(name, call.arguments, {}));
    List list{List::Form::kView, {}};
    for (const auto& [key, value] : self.entries) {
      if (name == "items") {
        list.items.emplace_back(List{List::Form::kTuple, {key, value}});
      } else {
        list.items.push_back(name == "keys" ? key : value);
      }
    }
    return Value(std::move(list));
  }
  if (name == "copy") return Value(self);
  return Unsupported("the method ", Quote(name), " of a dict is not supported");
}

Result<Value> ListMethod(const Call& call, const List& self) {
  if (call.name != "index" && call.name != "count") {
    return Unsupported("the method ", Quote(call.name), " of a list is not supported");
  }
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"value"}));
  if (!bound[0]) return InvalidArgument(call.name, " needs a value");
  const auto begin = self.items.begin(), end = self.items.end();
  const auto equal = [&](const Value& item) { return Equal(item, *bound[0]); };
  if (call.name == "count") return Value(static_cast<int64_t>(std::count_if(begin, end, equal)));
  const auto found = std::find_if(begin, end, equal);
  if (found == end) return InvalidArgument("index: the value is not in the list");
  return Value(static_cast<int64_t>(found - begin));
}

}  // namespace

bool IsMethod(const Value& value, std::string_view name) {
  const auto has = [&](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  if (value.text() != nullptr) return has(kTextMethods);
  if (value.map() != nullptr) return has(kMapMethods);
  const List* list = value.list();
  if (list != nullptr && list->form == List::Form::kTuple)
    return name == "count" || name == "index";
  return list != nullptr && list->form == List::Form::kList && has(kListMethods);
}

Result<Value> GetAttribute(const Value& container, std::string_view name, Budget* budget) {
  if (IsMethod(container, name)) {
    const auto find = [&](const auto& names) {
      const auto found = std::find(std::begin(names), std::end(names), name);
      return found != std::end(names) ? *found : std::string_view();
    };
    std::string_view known = find(kTextMethods);  // of static storage, unlike `name`
    if (known.empty()) known = find(kListMethods);
    if (known.empty()) known = find(kMapMethods);
    return Value(Builtin{known, std::make_shared<const Value>(container)});
  }
  if (const Map* map = container.map()) {
    MLA_RETURN_IF_ERROR(budget->Step(map->entries.size() / 8 + 1));
    if (const Value* found = map->Find(name)) return *found;
  }
  return Value(Undefined{});
}

Result<Value> CallMethod(const Environment& env, const Value& self, std::string_view name,
                         const CallArguments& arguments) {
  const Call call{env, name, arguments};
  MLA_RETURN_IF_ERROR(env.budget->Step(WeightOf(self)));
  if (const Text* text = self.text()) return TextMethod(call, *text);
  if (const Map* map = self.map()) return MapMethod(call, *map);
  if (const List* list = self.list()) return ListMethod(call, *list);
  return Unsupported("the method ", Quote(name), " of a ", KindName(self), " is not supported");
}

}  // namespace mla::jinja
