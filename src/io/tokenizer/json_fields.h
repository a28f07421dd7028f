// Reading the members of tokenizer.json's objects, with errors that name the place.
#ifndef MLA_IO_TOKENIZER_JSON_FIELDS_H_
#define MLA_IO_TOKENIZER_JSON_FIELDS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "io/json.h"
#include "mla/result.h"

namespace mla {

using Json = nlohmann::json;

// The member `key` of an object; null if the object lacks it or holds JSON's null there.
const Json* FindField(const Json& object, std::string_view key);

// A member of the type wanted; `where` ("decoder", "pre_tokenizer step 2") begins the message.
// Those with a fallback give it where the member is absent or null.
Result<std::string> StringField(const Json& object, std::string_view key, std::string_view where);
Result<bool> BoolField(const Json& object, std::string_view key, std::string_view where,
                       bool fallback);
Result<int64_t> IntField(const Json& object, std::string_view key, std::string_view where);

// The members of a list, of objects: normalizers, pretokenizers, decoders, processors.
Result<const Json*> ObjectListField(const Json& object, std::string_view key,
                                    std::string_view where);

// The "type" of a step, as an error if `step` is no object.
Result<std::string> TypeField(const Json& step, std::string_view where);

// {"String": S} or {"Regex": S}, or a plain string.
struct PatternField {
  std::string text;
  bool is_regex = false;
};
Result<PatternField> ReadPattern(const Json& object, std::string_view where);

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_JSON_FIELDS_H_
