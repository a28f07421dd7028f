// Fuzz target: any bytes as a tokenizer.model, as far as it is read to be written elsewhere.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "io/tokenizer/sentencepiece_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto model = mla::ReadSentencePieceModel(bytes);
  if (!model.ok()) {
    MLA_CHECK(model.message().find('\n') == std::string_view::npos, model.message());
    return 0;
  }
  size_t text = 0;
  for (const auto& piece : model->pieces) text += piece.text.size();
  MLA_CHECK(model->pieces.size() <= size / 2 && text <= size, model->pieces.size(), " ", text);
  return 0;
}
