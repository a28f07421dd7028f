// Values from JSON, and as JSON.
#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "io/chat_template/value.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/unicode.h"

namespace mla::jinja {
namespace {

std::string UnicodeEscape(char32_t code) {
  constexpr char kHex[] = "0123456789abcdef";
  if (code >= 0x10000) {
    const char32_t offset = code - 0x10000;
    return UnicodeEscape(0xd800 + (offset >> 10)) + UnicodeEscape(0xdc00 + (offset & 0x3ff));
  }
  return {
      '\\',           'u', kHex[(code >> 12) & 15], kHex[(code >> 8) & 15], kHex[(code >> 4) & 15],
      kHex[code & 15]};
}

// A character within JSON's quotes; empty: as it is.
std::string JsonEscape(char32_t code, bool ensure_ascii) {
  switch (code) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    case '\b': return "\\b";
    case '\f': return "\\f";
    default: break;
  }
  return code < 0x20 || (ensure_ascii && code >= 0x7f) ? UnicodeEscape(code) : std::string();
}

class Writer {
 public:
  explicit Writer(const JsonStyle& style) : style_(style) {}

  Status Write(const Value& value) {
    if (const Text* text = value.text()) {
      WriteString(*text);
    } else if (const List* list = value.list()) {
      return WriteList(*list, value);
    } else if (const Map* map = value.map()) {
      return WriteMap(*map);
    } else {
      MLA_ASSIGN_OR_RETURN(const std::string scalar, Scalar(value));
      out_.Append(scalar);
    }
    return {};
  }

  Text Take() { return std::move(out_); }

 private:
  static Result<std::string> Scalar(const Value& value) {
    if (value.IsNone()) return std::string("null");
    if (value.Is<bool>()) return std::string(std::get<bool>(value) ? "true" : "false");
    if (value.Is<int64_t>()) return std::to_string(value.ToInteger());
    if (value.Is<double>()) {
      const double number = value.ToDouble();
      if (std::isnan(number)) return std::string("NaN");
      if (std::isinf(number)) return std::string(number < 0 ? "-Infinity" : "Infinity");
      return FormatDouble(number);
    }
    return InvalidArgument("tojson: a ", KindName(value), " cannot be written as JSON");
  }

  void WriteString(const Text& text) {
    out_.Append("\"");
    const std::string_view bytes = text.bytes();
    for (size_t at = 0; at < bytes.size();) {
      const CodePoint code = DecodeCodePoint(bytes.substr(at));
      const size_t end = at + static_cast<size_t>(code.length);
      const std::string escape = JsonEscape(code.value, style_.ensure_ascii);
      if (escape.empty()) {
        out_.Append(text, at, end);
      } else {
        out_.Append(escape, text.origins()[at]);
      }
      at = end;
    }
    out_.Append("\"");
  }

  void NewLine() {
    if (style_.indent < 0) return;
    out_.Append("\n");
    out_.Append(std::string(static_cast<size_t>(style_.indent * level_), ' '));
  }

  Status WriteList(const List& list, const Value& value) {
    if (list.form != List::Form::kList && list.form != List::Form::kTuple) {
      return InvalidArgument("tojson: a ", KindName(value),
                             " cannot be written as JSON; |list makes it a list");
    }
    out_.Append("[");
    ++level_;
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_.Append(style_.item_separator);
      NewLine();
      MLA_RETURN_IF_ERROR(Write(list.items[i]));
    }
    --level_;
    if (!list.items.empty()) NewLine();
    out_.Append("]");
    return {};
  }

  Status WriteMap(const Map& map) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : map.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      Status ordered;
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        const Result<int> order = Compare(a->first, b->first);
        if (!order.ok()) ordered = order.error();
        return order.ok() && *order < 0;
      });
      MLA_RETURN_IF_ERROR(ordered);
    }
    out_.Append("{");
    ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_.Append(style_.item_separator);
      NewLine();
      if (const Text* key = entries[i]->first.text()) {
        WriteString(*key);
      } else {
        MLA_ASSIGN_OR_RETURN(const std::string scalar, Scalar(entries[i]->first));
        out_.Append("\"" + scalar + "\"");
      }
      out_.Append(style_.key_separator);
      MLA_RETURN_IF_ERROR(Write(entries[i]->second));
    }
    --level_;
    if (!entries.empty()) NewLine();
    out_.Append("}");
    return {};
  }

  const JsonStyle& style_;
  Text out_;
  int level_ = 0;
};

Result<Value> InputString(const std::string& text) {
  MLA_RETURN_IF_ERROR(ValidateUtf8(text));
  return Value(Text(text, Text::kInput));
}

}  // namespace

Result<Text> ToJson(const Value& value, const JsonStyle& style) {
  Writer writer(style);
  MLA_RETURN_IF_ERROR(writer.Write(value));
  return writer.Take();
}

Result<Value> FromJson(const nlohmann::ordered_json& json, int depth) {
  if (depth > kMaxValueDepth) {
    return InvalidArgument("lists and objects are nested deeper than ", kMaxValueDepth);
  }
  if (json.is_null()) return Value(None{});
  if (json.is_boolean()) return Value(json.get<bool>());
  if (json.is_number_unsigned()) {
    const auto number = json.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return InvalidArgument("the number ", number, " is beyond 64-bit integers");
    }
    return Value(static_cast<int64_t>(number));
  }
  if (json.is_number_integer()) return Value(json.get<int64_t>());
  if (json.is_number_float()) return Value(json.get<double>());
  if (json.is_string()) return InputString(json.get_ref<const std::string&>());
  if (json.is_array()) {
    List list;
    for (const auto& item : json) {
      MLA_ASSIGN_OR_RETURN(Value value, FromJson(item, depth + 1));
      list.items.push_back(std::move(value));
    }
    return Value(std::move(list));
  }
  if (!json.is_object()) return InvalidArgument("JSON with a value of type ", json.type_name());
  Map map;
  for (const auto& [name, item] : json.items()) {
    MLA_ASSIGN_OR_RETURN(Value key, InputString(name));
    MLA_ASSIGN_OR_RETURN(Value value, FromJson(item, depth + 1));
    map.entries.emplace_back(std::move(key), std::move(value));
  }
  return Value(std::move(map));
}

}  // namespace mla::jinja
