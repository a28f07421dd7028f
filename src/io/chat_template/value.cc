#include "io/chat_template/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "io/tokenizer/unicode.h"
#include "utf8proc.h"

namespace mla::jinja {
namespace {

int DepthOf(const Value& value) {
  if (const List* list = value.list()) return list->depth;
  if (const Map* map = value.map()) return map->depth;
  return 0;
}

template <typename T>
void Count(const Value& value, T* container) {
  container->depth = std::max(container->depth, DepthOf(value) + 1);
  container->weight = std::min(container->weight + WeightOf(value), kMaxValueWeight + 1);
}

bool IsPrintable(char32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return code == ' ';
    default: return true;
  }
}

std::string Hex(char32_t code, int digits) {
  std::string hex(static_cast<size_t>(digits), '0');
  for (size_t i = hex.size(); i-- > 0; code >>= 4) hex[i] = "0123456789abcdef"[code & 15];
  return hex;
}

// A character as Python's repr writes it within quotes; empty: as it is.
std::string ReprEscape(char32_t code, char quote) {
  if (code == static_cast<char32_t>(quote) || code == '\\') {
    return {'\\', static_cast<char>(code)};
  }
  if (code == '\n') return "\\n";
  if (code == '\r') return "\\r";
  if (code == '\t') return "\\t";
  if (IsPrintable(code)) return {};
  if (code < 0x100) return "\\x" + Hex(code, 2);
  return code < 0x10000 ? "\\u" + Hex(code, 4) : "\\U" + Hex(code, 8);
}

void AppendRepr(const Text& text, Text* out) {
  const std::string& bytes = text.bytes();
  const bool has_single = bytes.find('\'') != bytes.npos;
  const char quote = has_single && bytes.find('"') == bytes.npos ? '"' : '\'';
  out->Append(std::string(1, quote));
  for (size_t at = 0; at < bytes.size();) {
    const CodePoint code = DecodeCodePoint(std::string_view(bytes).substr(at));
    const size_t end = at + static_cast<size_t>(code.length);
    const std::string escape = ReprEscape(code.value, quote);
    if (escape.empty()) {
      out->Append(text, at, end);
    } else {
      out->Append(escape, text.origins()[at]);
    }
    at = end;
  }
  out->Append(std::string(1, quote));
}

Status AppendText(const Value& value, bool repr, Text* out);

Status AppendList(const List& list, Text* out) {
  const bool tuple = list.form == List::Form::kTuple;
  if (!tuple && list.form != List::Form::kList) {
    return Unsupported("writing a view of a dict or a generator as text is not supported; |list ",
                       "makes it a list");
  }
  out->Append(tuple ? "(" : "[");
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) out->Append(", ");
    MLA_RETURN_IF_ERROR(AppendText(list.items[i], true, out));
  }
  if (tuple && list.items.size() == 1) out->Append(",");
  out->Append(tuple ? ")" : "]");
  return {};
}

Status AppendMap(const Map& map, Text* out) {
  out->Append("{");
  for (size_t i = 0; i < map.entries.size(); ++i) {
    if (i > 0) out->Append(", ");
    MLA_RETURN_IF_ERROR(AppendText(map.entries[i].first, true, out));
    out->Append(": ");
    MLA_RETURN_IF_ERROR(AppendText(map.entries[i].second, true, out));
  }
  out->Append("}");
  return {};
}

// `repr`: within a list or dict.
Status AppendText(const Value& value, bool repr, Text* out) {
  if (const Text* text = value.text()) {
    if (repr) {
      AppendRepr(*text, out);
    } else {
      out->Append(*text);
    }
  } else if (const List* list = value.list()) {
    return AppendList(*list, out);
  } else if (const Map* map = value.map()) {
    return AppendMap(*map, out);
  } else if (value.IsUndefined()) {
    if (repr) out->Append("Undefined");
  } else if (value.IsNone()) {
    out->Append("None");
  } else if (const bool* truth = std::get_if<bool>(&value)) {
    out->Append(*truth ? "True" : "False");
  } else if (value.Is<int64_t>()) {
    out->Append(std::to_string(value.ToInteger()));
  } else if (value.Is<double>()) {
    out->Append(FormatDouble(value.ToDouble()));
  } else {
    return Unsupported("writing a ", KindName(value), " as text is not supported");
  }
  return {};
}

// Of two numbers; a NaN is unordered, which Python's comparisons report as false.
int CompareNumbers(const Value& a, const Value& b) {
  if (a.IsInteger() && b.IsInteger()) {
    return a.ToInteger() < b.ToInteger() ? -1 : a.ToInteger() > b.ToInteger();
  }
  return a.ToDouble() < b.ToDouble() ? -1 : a.ToDouble() > b.ToDouble();
}

bool EqualLists(const List& a, const List& b) {
  return a.form == b.form &&
         std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(), Equal);
}

bool EqualMaps(const Map& a, const Map& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.Find(key);
    if (other == nullptr || !Equal(value, *other)) return false;
  }
  return true;
}

}  // namespace

Value::Value(List list) {
  list.depth = 1;
  list.weight = 1;
  for (const Value& item : list.items) Count(item, &list);
  *this = Value(std::make_shared<const List>(std::move(list)));
}

Value::Value(Map map) {
  map.depth = 1;
  map.weight = 1;
  for (const auto& [key, value] : map.entries) {
    Count(key, &map);
    Count(value, &map);
  }
  *this = Value(std::make_shared<const Map>(std::move(map)));
}

int64_t Value::ToInteger() const {
  if (const bool* truth = std::get_if<bool>(this)) return *truth ? 1 : 0;
  return std::get<int64_t>(*this);
}

double Value::ToDouble() const {
  if (const double* number = std::get_if<double>(this)) return *number;
  return static_cast<double>(ToInteger());
}

const Value* Map::Find(const Value& key) const {
  for (const auto& [name, value] : entries) {
    if (Equal(name, key)) return &value;
  }
  return nullptr;
}

const Value* Map::Find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    const Text* text = name.text();
    if (text != nullptr && text->bytes() == key) return &value;
  }
  return nullptr;
}

void Map::Set(Value key, Value value) {
  for (auto& [name, old] : entries) {
    if (Equal(name, key)) {
      old = std::move(value);
      return;
    }
  }
  entries.emplace_back(std::move(key), std::move(value));
}

const Value* Namespace::Find(std::string_view name) const {
  for (const auto& [field, value] : fields) {
    if (field == name) return &value;
  }
  return nullptr;
}

void Namespace::Set(std::string_view name, Value value) {
  for (auto& [field, old] : fields) {
    if (field == name) {
      old = std::move(value);
      return;
    }
  }
  fields.emplace_back(name, std::move(value));
}

size_t WeightOf(const Value& value) {
  if (const Text* text = value.text()) return 1 + text->size() / 64;
  if (const List* list = value.list()) return list->weight;
  if (const Map* map = value.map()) return map->weight;
  return 1;
}

Status CheckSize(const Value& value) {
  if (DepthOf(value) > kMaxValueDepth) {
    return InvalidArgument("lists and dicts are nested deeper than ", kMaxValueDepth);
  }
  if (WeightOf(value) > kMaxValueWeight) {
    return InvalidArgument("a list or dict holds more than ", kMaxValueWeight, " values");
  }
  return {};
}

std::string_view KindName(const Value& value) {
  if (value.text() != nullptr) return "str";
  if (value.map() != nullptr) return "dict";
  if (const List* list = value.list()) {
    switch (list->form) {
      case List::Form::kList: return "list";
      case List::Form::kTuple: return "tuple";
      case List::Form::kView: return "view of a dict";
      case List::Form::kGenerator: return "generator";
    }
  }
  if (value.IsUndefined()) return "undefined value";
  if (value.IsNone()) return "NoneType";
  if (value.Is<bool>()) return "bool";
  if (value.Is<int64_t>()) return "int";
  if (value.Is<double>()) return "float";
  if (value.Is<Namespace*>()) return "namespace";
  if (value.Is<const Loop*>()) return "loop";
  return value.Is<const Closure*>() ? "macro" : "function";
}

bool IsTrue(const Value& value) {
  if (const Text* text = value.text()) return !text->empty();
  if (const Map* map = value.map()) return !map->entries.empty();
  if (const List* list = value.list()) {
    return list->form == List::Form::kGenerator || !list->items.empty();
  }
  if (value.IsNumber()) return value.ToDouble() != 0;
  return !value.IsUndefined() && !value.IsNone();
}

bool Equal(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    return !std::isnan(a.ToDouble()) && !std::isnan(b.ToDouble()) && CompareNumbers(a, b) == 0;
  }
  if (a.index() != b.index()) return false;
  if (const Text* text = a.text()) return text->bytes() == b.text()->bytes();
  if (const List* list = a.list()) return EqualLists(*list, *b.list());
  if (const Map* map = a.map()) return EqualMaps(*map, *b.map());
  if (a.Is<Namespace*>()) return std::get<Namespace*>(a) == std::get<Namespace*>(b);
  if (a.Is<const Closure*>()) return std::get<const Closure*>(a) == std::get<const Closure*>(b);
  return a.IsUndefined() || a.IsNone();
}

Result<int> Compare(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) return CompareNumbers(a, b);
  if (a.text() != nullptr && b.text() != nullptr) {
    // The order of UTF-8's bytes is that of code points.
    const int order = a.text()->bytes().compare(b.text()->bytes());
    return order < 0 ? -1 : order > 0;
  }
  const List *left = a.list(), *right = b.list();
  if (left != nullptr && right != nullptr && left->form == right->form &&
      (left->form == List::Form::kList || left->form == List::Form::kTuple)) {
    for (size_t i = 0; i < std::min(left->items.size(), right->items.size()); ++i) {
      if (!Equal(left->items[i], right->items[i])) return Compare(left->items[i], right->items[i]);
    }
    return left->items.size() < right->items.size() ? -1 : left->items.size() > right->items.size();
  }
  return InvalidArgument("cannot order a ", KindName(a), " and a ", KindName(b));
}

Result<Text> ToText(const Value& value) {
  if (const Text* text = value.text()) return *text;
  Text out;
  MLA_RETURN_IF_ERROR(AppendText(value, false, &out));
  return out;
}

std::string FormatDouble(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto result =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view shortest(buffer, static_cast<size_t>(result.ptr - buffer));
  const size_t mark = shortest.find('e');
  int exponent = 0;
  const size_t digits_at = shortest[mark + 1] == '+' ? mark + 2 : mark + 1;
  std::from_chars(buffer + digits_at, result.ptr, exponent);
  if (exponent < -4 || exponent >= 16) {
    const int size = std::abs(exponent);
    return Concat(shortest.substr(0, mark), exponent < 0 ? "e-" : "e+", size < 10 ? "0" : "", size);
  }
  char plain[64];
  const auto end = std::to_chars(plain, plain + sizeof(plain), value, std::chars_format::fixed);
  std::string fixed(plain, end.ptr);
  if (fixed.find('.') == fixed.npos) fixed += ".0";
  return fixed;
}

Result<std::vector<Value>> Iterate(const Value& value, Budget* budget) {
  std::vector<Value> items;
  if (const List* list = value.list()) {
    MLA_RETURN_IF_ERROR(budget->Allocate(list->items.size() * sizeof(Value)));
    items = list->items;
  } else if (const Map* map = value.map()) {
    MLA_RETURN_IF_ERROR(budget->Allocate(map->entries.size() * sizeof(Value)));
    for (const auto& entry : map->entries) items.push_back(entry.first);
  } else if (const Text* text = value.text()) {
    MLA_RETURN_IF_ERROR(budget->Allocate(text->size() * (sizeof(Value) + sizeof(Text))));
    for (Text& character : SplitCharacters(*text)) items.emplace_back(std::move(character));
  } else if (!value.IsUndefined()) {
    return InvalidArgument("a ", KindName(value), " cannot be iterated over");
  }
  return items;
}

size_t CountCharacters(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; }));
}

std::vector<Text> SplitCharacters(const Text& text) {
  std::vector<Text> characters;
  for (size_t at = 0; at < text.size();) {
    const auto rest = std::string_view(text.bytes()).substr(at);
    const size_t end = at + static_cast<size_t>(DecodeCodePoint(rest).length);
    characters.push_back(text.Slice(at, end));
    at = end;
  }
  return characters;
}

}  // namespace mla::jinja
