// Fuzz target: any bytes as a chat template, rendered over a conversation with tools.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "io/chat_template/chat_template.h"

namespace {

const mla::ChatInput& Input() {
  static const mla::ChatInput input = [] {
    mla::ChatInput chat;
    chat.messages = nlohmann::ordered_json::parse(R"([
        {"role": "system", "content": " Sys \n"},
        {"role": "user", "content": "h\u00e9llo <|end|>"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"a": [1, 2.5, true]}}}]},
        {"role": "tool", "content": "{}"}])");
    chat.tools = nlohmann::ordered_json::parse(
        R"([{"type": "function", "function": {"name": "f", "parameters": {"properties": {}}}}])");
    chat.add_generation_prompt = true;
    return chat;
  }();
  return input;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  mla::ChatTemplateLimits limits;
  limits.max_template_bytes = size_t{1} << 16;
  limits.max_steps = 100'000;
  limits.max_value_bytes = int64_t{8} << 20;
  limits.max_output_bytes = size_t{1} << 20;
  const auto chat = mla::ChatTemplate::FromText(
      text, {.bos_token = "<s>", .eos_token = "</s>", .special_tokens = {}}, limits);
  if (!chat.ok()) return 0;
  const auto rendered = (*chat)->Render(Input());
  if (!rendered.ok()) return 0;
  const bool sound = rendered->text.size() == rendered->from_input.size() &&
                     rendered->text.size() <= limits.max_output_bytes &&
                     mla::ValidateUtf8(rendered->text).ok();
  if (!sound) std::abort();
  return 0;
}
