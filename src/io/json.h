// Reading of JSON that is not trusted: limits on size, depth and count, no duplicate keys, and
// errors that say where. No exception leaves these functions. Thread-safe.
#ifndef MLA_IO_JSON_H_
#define MLA_IO_JSON_H_

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "mla/result.h"

namespace mla {

struct JsonLimits {
  size_t max_bytes = size_t{256} << 20;  // of the text
  size_t max_values = size_t{8} << 20;   // numbers, strings, lists, objects: bounds the memory used
  int max_depth = 64;                    // of nested lists and objects
};

// Parses one UTF-8 document. `what` names it in errors: "config.json: line 3, column 9 (byte 41):
// duplicate key "hidden_size"". Numbers that do not fit a double are refused; an integer beyond 64
// bits becomes a double. kCorruptFile if the text is not JSON or passes a limit.
Result<nlohmann::json> ParseJson(std::string_view text, std::string_view what,
                                 const JsonLimits& limits = {});

// The same for a file, named by its path. kNotFound or kIoError if it cannot be read.
Result<nlohmann::json> ReadJsonFile(const std::string& path, const JsonLimits& limits = {});

// A value in an error message: -3, 0.5, "text" (quoted and cut), null, true, "a list of 3", "an
// object". One short line whatever the value.
std::string DescribeJson(const nlohmann::json& value);

// `text` (UTF-8) in double quotes, control characters escaped, cut after about 80 bytes: for names
// that come from a file and go into a message.
std::string Quote(std::string_view text);

}  // namespace mla

#endif  // MLA_IO_JSON_H_
