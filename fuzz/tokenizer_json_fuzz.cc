// Fuzz target: any bytes as tokenizer.json. Whatever loads encodes and decodes a short text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "io/tokenizer/tokenizer.h"

namespace {

constexpr std::string_view kText =
    "Once upon a time, the cat's 12 345\r\n\n  abab\xc3\xa9"
    "e\xcc\x81 \xe4\xbd\xa0\xe5\xa5\xbd "
    "\xf0\x9f\x91\x8d<s>left word\xe2\x96\x81\t <|endoftext|>  ";

void Require(bool condition) {
  if (!condition) std::abort();
}

void Exercise(const mla::Tokenizer& tokenizer) {
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer.Encode(kText, {true, parse_special});
    if (!ids.ok()) continue;  // a hostile pattern or growth
    const auto text = tokenizer.Decode(*ids, false);
    Require(text.ok() && mla::ValidateUtf8(*text).ok());
    mla::StreamDecoder stream(tokenizer, false);
    std::string streamed;
    for (const int32_t id : *ids) {
      const auto part = stream.Push(id);
      Require(part.ok() && mla::ValidateUtf8(*part).ok());
      streamed += *part;
    }
    Require(streamed + stream.Flush() == *text);
  }
  for (int32_t id = -1; id <= 40; ++id) {
    const auto piece = tokenizer.IdToPiece(id);
    Require(piece.ok() == tokenizer.HasId(id));
    if (piece.ok()) Require(tokenizer.PieceToId(*piece).has_value());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > (size_t{1} << 16)) return 0;
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = mla::Tokenizer::FromJson(json, R"({"eos_token": null})");
  if (tokenizer.ok()) Exercise(**tokenizer);
  return 0;
}
