// Any bytes as config.json, read with every getter under the names that models use.
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/check.h"
#include "io/config.h"
#include "io/json.h"

namespace {

template <typename T>
void CheckError(const mla::Result<T>& result) {
  if (result.ok()) return;
  MLA_CHECK(result.message().starts_with("config.json"), result.message());
  MLA_CHECK(result.message().find('\n') == std::string_view::npos, result.message());
}

void ReadAll(const mla::ConfigReader& config, int depth) {
  for (const char* key : {"hidden_size", "num_attention_heads", "q_lora_rank", "rope_theta",
                          "rope_scaling", "eos_token_id", "model_type", "architectures", "a", ""}) {
    const auto integer = config.GetInt(key, 1, 65536);
    CheckError(integer);
    MLA_CHECK(!integer.ok() || (*integer >= 1 && *integer <= 65536));
    CheckError(config.GetOptionalInt(key, INT64_MIN, INT64_MAX));
    const auto number = config.GetFloat(key, -1e30, 1e30);
    CheckError(number);
    MLA_CHECK(!number.ok() || std::abs(*number) <= 1e30);
    CheckError(config.GetBoolOr(key, true));
    CheckError(config.GetStringOr(key, ""));
    CheckError(config.GetChoice(key, {"deepseek_v2", "deepseek_v3", "llama"}));
    CheckError(config.GetInts(key, 0, 1 << 20));
    CheckError(config.GetStrings(key));
    const auto object = config.GetOptionalObject(key);
    CheckError(object);
    if (object.ok() && object->has_value() && depth < 3) ReadAll(**object, depth + 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto document = mla::ParseJson(text, "config.json");
  CheckError(document);
  if (!document.ok()) return 0;
  // What we accept is JSON to the library's own parser too, and means the same.
  MLA_CHECK(nlohmann::json::parse(text, nullptr, false) == *document);
  const auto config = mla::ConfigReader::Create(*document, "config.json");
  CheckError(config);
  if (config.ok()) ReadAll(*config, 0);
  return 0;
}
