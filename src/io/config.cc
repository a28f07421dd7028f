#include "io/config.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/json.h"
#include "io/read_file.h"

namespace mla {
namespace {

using nlohmann::json;

// The value as an integer, if it is a whole number that fits.
std::optional<int64_t> AsInt(const json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const auto number = value.get<double>();
  // Beyond 2^53 a double no longer says which integer was meant.
  if (!(std::abs(number) <= 0x1p53) || number != std::trunc(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

std::string WantInt(int64_t min, int64_t max) {
  return Concat("an integer from ", min, " to ", max);
}

std::optional<int64_t> AsIntIn(const json& value, int64_t min, int64_t max) {
  const std::optional<int64_t> number = AsInt(value);
  return number.has_value() && *number >= min && *number <= max ? number : std::nullopt;
}

std::string WantChoice(std::initializer_list<std::string_view> choices) {
  std::string want = choices.size() == 1 ? "" : "one of ";
  const char* separator = "";
  for (const std::string_view choice : choices) {
    want += Concat(separator, choice);
    separator = ", ";
  }
  return want;
}

// Turns a getter for a required member into one with a fallback.
template <typename T>
Result<T> ValueOr(Result<std::optional<T>> result, T fallback) {
  if (!result.ok()) return result.error();
  return std::move(*result).value_or(std::move(fallback));
}

}  // namespace

Result<json> ReadConfigFile(const std::string& dir) {
  struct stat info {};
  if (::stat(dir.c_str(), &info) != 0) {
    const Error error = FileError(dir, errno);
    if (error.code != ErrorCode::kNotFound) return error;
    return NotFound("no such directory: ", dir);
  }
  if (!S_ISDIR(info.st_mode)) {
    return NotFound(dir, " is a file, want a directory with config.json");
  }
  const std::string path = JoinPath(dir, "config.json");
  if (::stat(path.c_str(), &info) != 0 && errno == ENOENT) {
    return NotFound("no config.json in ", dir);
  }
  return ReadJsonFile(path, JsonLimits{.max_bytes = size_t{16} << 20});
}

Result<ConfigReader> ConfigReader::Create(const json& value, std::string what,
                                          std::set<std::string>* asked) {
  if (!value.is_object()) return CorruptFile(what, " is ", DescribeJson(value), ", want an object");
  return ConfigReader(&value, std::move(what) + ": ", "", asked);
}

const json* ConfigReader::Find(std::string_view key) const {
  if (asked_ != nullptr) asked_->insert(Concat(path_, key));
  const auto member = object_->find(key);
  return member == object_->end() || member->is_null() ? nullptr : &*member;
}

bool ConfigReader::IsNull(std::string_view key) const {
  return Find(key) == nullptr && object_->contains(key);
}

bool ConfigReader::Has(std::string_view key) const { return Find(key) != nullptr; }

Error ConfigReader::BadValue(std::string_view key, std::string_view want) const {
  const auto member = object_->find(key);
  if (member == object_->end()) return CorruptFile(prefix_, key, " is missing, want ", want);
  return CorruptFile(prefix_, key, " is ", DescribeJson(*member), ", want ", want);
}

Result<int64_t> ConfigReader::GetInt(std::string_view key, int64_t min, int64_t max) const {
  MLA_ASSIGN_OR_RETURN(const std::optional<int64_t> value, GetOptionalInt(key, min, max));
  if (!value.has_value()) return BadValue(key, WantInt(min, max));
  return *value;
}

Result<int64_t> ConfigReader::GetIntOr(std::string_view key, int64_t fallback, int64_t min,
                                       int64_t max) const {
  return ValueOr(GetOptionalInt(key, min, max), fallback);
}

Result<std::optional<int64_t>> ConfigReader::GetOptionalInt(std::string_view key, int64_t min,
                                                            int64_t max) const {
  const json* value = Find(key);
  if (value == nullptr) return std::optional<int64_t>();
  const std::optional<int64_t> number = AsIntIn(*value, min, max);
  if (!number.has_value()) return BadValue(key, WantInt(min, max));
  return number;
}

Result<double> ConfigReader::GetFloat(std::string_view key, double min, double max) const {
  MLA_ASSIGN_OR_RETURN(const std::optional<double> value, GetOptionalFloat(key, min, max));
  if (!value.has_value()) return BadValue(key, Concat("a number from ", min, " to ", max));
  return *value;
}

Result<double> ConfigReader::GetFloatOr(std::string_view key, double fallback, double min,
                                        double max) const {
  return ValueOr(GetOptionalFloat(key, min, max), fallback);
}

Result<std::optional<double>> ConfigReader::GetOptionalFloat(std::string_view key, double min,
                                                             double max) const {
  const json* value = Find(key);
  if (value == nullptr) return std::optional<double>();
  // A NaN compares false; JSON has none, but a document built in memory may.
  if (!value->is_number() || !(value->get<double>() >= min && value->get<double>() <= max)) {
    return BadValue(key, Concat("a number from ", min, " to ", max));
  }
  return std::optional<double>(value->get<double>());
}

Result<bool> ConfigReader::GetBool(std::string_view key) const {
  const json* value = Find(key);
  if (value == nullptr || !value->is_boolean()) return BadValue(key, "true or false");
  return value->get<bool>();
}

Result<bool> ConfigReader::GetBoolOr(std::string_view key, bool fallback) const {
  if (!Has(key)) return fallback;
  return GetBool(key);
}

Result<std::string> ConfigReader::GetString(std::string_view key) const {
  const json* value = Find(key);
  if (value == nullptr || !value->is_string()) return BadValue(key, "a string");
  return value->get_ref<const std::string&>();
}

Result<std::string> ConfigReader::GetStringOr(std::string_view key,
                                              std::string_view fallback) const {
  if (!Has(key)) return std::string(fallback);
  return GetString(key);
}

Result<std::string> ConfigReader::GetChoice(std::string_view key,
                                            std::initializer_list<std::string_view> choices) const {
  const json* value = Find(key);
  if (value == nullptr || !value->is_string()) return BadValue(key, WantChoice(choices));
  const auto& text = value->get_ref<const std::string&>();
  if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
    return BadValue(key, WantChoice(choices));
  }
  return text;
}

Result<std::string> ConfigReader::GetChoiceOr(
    std::string_view key, std::string_view fallback,
    std::initializer_list<std::string_view> choices) const {
  if (!Has(key)) return std::string(fallback);
  return GetChoice(key, choices);
}

Result<ConfigReader> ConfigReader::GetObject(std::string_view key) const {
  const json* value = Find(key);
  if (value == nullptr || !value->is_object()) return BadValue(key, "an object");
  return ConfigReader(value, Concat(prefix_, key, "."), Concat(path_, key, "."), asked_);
}

Result<std::optional<ConfigReader>> ConfigReader::GetOptionalObject(std::string_view key) const {
  if (!Has(key)) return std::optional<ConfigReader>();
  MLA_ASSIGN_OR_RETURN(ConfigReader reader, GetObject(key));
  return std::optional<ConfigReader>(std::move(reader));
}

Result<std::vector<int64_t>> ConfigReader::GetInts(std::string_view key, int64_t min,
                                                   int64_t max) const {
  const json* value = Find(key);
  if (value == nullptr) return std::vector<int64_t>();
  const std::string want = WantInt(min, max);
  if (!value->is_array()) {
    const std::optional<int64_t> number = AsIntIn(*value, min, max);
    if (!number.has_value()) return BadValue(key, want + ", or a list of such");
    return std::vector<int64_t>{*number};
  }
  std::vector<int64_t> numbers;
  for (const json& item : *value) {
    const std::optional<int64_t> number = AsIntIn(item, min, max);
    if (!number.has_value()) {
      return CorruptFile(prefix_, key, "[", numbers.size(), "] is ", DescribeJson(item), ", want ",
                         want);
    }
    numbers.push_back(*number);
  }
  return numbers;
}

Result<std::vector<double>> ConfigReader::GetFloats(std::string_view key, double min,
                                                    double max) const {
  const json* value = Find(key);
  if (value == nullptr) return std::vector<double>();
  if (!value->is_array()) return BadValue(key, "a list of numbers");
  std::vector<double> numbers;
  for (const json& item : *value) {
    if (!item.is_number() || !(item.get<double>() >= min && item.get<double>() <= max)) {
      return CorruptFile(prefix_, key, "[", numbers.size(), "] is ", DescribeJson(item),
                         ", want a number from ", min, " to ", max);
    }
    numbers.push_back(item.get<double>());
  }
  return numbers;
}

Result<std::vector<std::string>> ConfigReader::GetStrings(std::string_view key) const {
  const json* value = Find(key);
  if (value == nullptr) return std::vector<std::string>();
  if (!value->is_array()) return BadValue(key, "a list of strings");
  std::vector<std::string> strings;
  for (const json& item : *value) {
    if (!item.is_string()) {
      return CorruptFile(prefix_, key, "[", strings.size(), "] is ", DescribeJson(item),
                         ", want a string");
    }
    strings.push_back(item.get_ref<const std::string&>());
  }
  return strings;
}

}  // namespace mla
