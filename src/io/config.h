// Checked access to config.json: every value is tested against its range, and an error names the
// file, the key, the value and what would be right:
//   config.json: num_attention_heads is -3, want an integer from 1 to 65536
//   config.json: rope_scaling.factor is missing, want a number from 1 to 1000
#ifndef MLA_IO_CONFIG_H_
#define MLA_IO_CONFIG_H_

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla {

// DIR/config.json of a model. kNotFound says what is missing: the directory, or the file in it.
Result<nlohmann::json> ReadConfigFile(const std::string& dir);

// Reads members of a JSON object, which must outlive the reader. For every type:
//   GetX          the member must be there
//   GetXOr        `fallback` (not checked) if the member is missing or null
//   GetOptionalX  nothing if the member is missing or null
// A number with a whole value counts as an integer (32.0), a string never as a number. Errors are
// kCorruptFile. Copies are cheap; thread-safe, unless keys are collected.
class ConfigReader {
 public:
  // `what` names the object in errors. kCorruptFile if `value` is not an object.
  // `asked`, if given, collects the keys that are asked for, in nested objects too, there or not:
  // "rope_scaling.factor". It must outlive the reader.
  static Result<ConfigReader> Create(const nlohmann::json& value, std::string what,
                                     std::set<std::string>* asked = nullptr);

  bool Has(std::string_view key) const;     // there and not null
  bool IsNull(std::string_view key) const;  // there, and null: a config says that it has none

  Result<int64_t> GetInt(std::string_view key, int64_t min, int64_t max) const;
  Result<int64_t> GetIntOr(std::string_view key, int64_t fallback, int64_t min, int64_t max) const;
  Result<std::optional<int64_t>> GetOptionalInt(std::string_view key, int64_t min,
                                                int64_t max) const;

  Result<double> GetFloat(std::string_view key, double min, double max) const;
  Result<double> GetFloatOr(std::string_view key, double fallback, double min, double max) const;
  Result<std::optional<double>> GetOptionalFloat(std::string_view key, double min,
                                                 double max) const;

  Result<bool> GetBool(std::string_view key) const;
  Result<bool> GetBoolOr(std::string_view key, bool fallback) const;

  Result<std::string> GetString(std::string_view key) const;
  Result<std::string> GetStringOr(std::string_view key, std::string_view fallback) const;

  // A string that must be one of `choices`; the error lists them.
  Result<std::string> GetChoice(std::string_view key,
                                std::initializer_list<std::string_view> choices) const;
  Result<std::string> GetChoiceOr(std::string_view key, std::string_view fallback,
                                  std::initializer_list<std::string_view> choices) const;

  // A nested object; errors in it are named "outer.inner".
  Result<ConfigReader> GetObject(std::string_view key) const;
  Result<std::optional<ConfigReader>> GetOptionalObject(std::string_view key) const;

  // An integer or a list of integers (eos_token_id); missing or null gives an empty list.
  Result<std::vector<int64_t>> GetInts(std::string_view key, int64_t min, int64_t max) const;

  // A list of numbers; missing or null gives an empty list.
  Result<std::vector<double>> GetFloats(std::string_view key, double min, double max) const;

  // A list of strings (architectures); missing or null gives an empty list.
  Result<std::vector<std::string>> GetStrings(std::string_view key) const;

  // An error about a member that was read but does not fit others:
  //   BadValue("n_group", "a divisor of n_routed_experts (10)") ->
  //   "config.json: n_group is 4, want a divisor of n_routed_experts (10)"
  Error BadValue(std::string_view key, std::string_view want) const;

 private:
  ConfigReader(const nlohmann::json* object, std::string prefix, std::string path,
               std::set<std::string>* asked)
      : object_(object), prefix_(std::move(prefix)), path_(std::move(path)), asked_(asked) {}
  const nlohmann::json* Find(std::string_view key) const;  // null if missing or null

  const nlohmann::json* object_;
  std::string prefix_;  // "config.json: " or "config.json: rope_scaling."
  std::string path_;    // "" or "rope_scaling."
  std::set<std::string>* asked_;
};

}  // namespace mla

#endif  // MLA_IO_CONFIG_H_
