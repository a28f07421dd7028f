#include "io/tokenizer/json_fields.h"

namespace mla {

const Json* FindField(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Result<std::string> StringField(const Json& object, std::string_view key, std::string_view where) {
  const Json* field = FindField(object, key);
  if (field == nullptr || !field->is_string()) {
    return CorruptFile(where, ": ", key, " is ",
                       field == nullptr ? std::string("missing") : DescribeJson(*field),
                       ", want a string");
  }
  return field->get<std::string>();
}

Result<bool> BoolField(const Json& object, std::string_view key, std::string_view where,
                       bool fallback) {
  const Json* field = FindField(object, key);
  if (field == nullptr) return fallback;
  if (!field->is_boolean()) {
    return CorruptFile(where, ": ", key, " is ", DescribeJson(*field), ", want true or false");
  }
  return field->get<bool>();
}

Result<int64_t> IntField(const Json& object, std::string_view key, std::string_view where) {
  const Json* field = FindField(object, key);
  if (field == nullptr || !field->is_number_integer()) {
    return CorruptFile(where, ": ", key, " is ",
                       field == nullptr ? std::string("missing") : DescribeJson(*field),
                       ", want an integer");
  }
  return field->get<int64_t>();
}

Result<const Json*> ObjectListField(const Json& object, std::string_view key,
                                    std::string_view where) {
  const Json* field = FindField(object, key);
  if (field == nullptr || !field->is_array()) {
    return CorruptFile(where, ": ", key, " is ",
                       field == nullptr ? std::string("missing") : DescribeJson(*field),
                       ", want a list");
  }
  for (const Json& item : *field) {
    if (!item.is_object()) {
      return CorruptFile(where, ": ", key, " holds ", DescribeJson(item), ", want objects");
    }
  }
  return field;
}

Result<std::string> TypeField(const Json& step, std::string_view where) {
  if (!step.is_object()) {
    return CorruptFile(where, " is ", DescribeJson(step), ", want an object or null");
  }
  return StringField(step, "type", where);
}

Result<PatternField> ReadPattern(const Json& object, std::string_view where) {
  const Json* pattern = FindField(object, "pattern");
  if (pattern != nullptr && pattern->is_string()) {
    return PatternField{pattern->get<std::string>(), false};
  }
  if (pattern != nullptr && pattern->is_object() && pattern->size() == 1) {
    for (const char* kind : {"String", "Regex"}) {
      const Json* text = FindField(*pattern, kind);
      if (text != nullptr && text->is_string()) {
        return PatternField{text->get<std::string>(), kind[0] == 'R'};
      }
    }
  }
  return CorruptFile(where, ": pattern is ",
                     pattern == nullptr ? std::string("missing") : DescribeJson(*pattern),
                     ", want {\"String\": ...} or {\"Regex\": ...}");
}

}  // namespace mla
