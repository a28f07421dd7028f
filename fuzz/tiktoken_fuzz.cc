// Fuzz target: any bytes as tiktoken.model. What is accepted has every byte, each rank once.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "io/tokenizer/tiktoken.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > (size_t{1} << 16)) return 0;
  const std::string_view model(reinterpret_cast<const char*>(data), size);
  const mla::Json config = {{"tokenizer_class", "TikTokenTokenizer"}};
  const auto json = mla::TiktokenToJson(model, config);
  if (!json.ok()) {
    MLA_CHECK(json.message().find('\n') == std::string_view::npos, json.message());
    return 0;
  }
  MLA_CHECK((*json)["model"]["vocab"].size() >= 256, json->dump());
  return 0;
}
