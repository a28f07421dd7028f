// Any bytes as a GGUF file: refused with one line, or tensors that lie within the file, metadata
// that can be read, and a model and tokenizer that are refused or made.
#include <cstdint>
#include <span>
#include <string>

#include "base/check.h"
#include "io/gguf.h"
#include "io/tokenizer/gguf_tokenizer.h"
#include "model/gguf_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = mla::GgufFile::Parse(bytes, "input");
  if (!file.ok()) {
    MLA_CHECK(!file.message().empty() && file.message().find('\n') == std::string_view::npos);
    return 0;
  }
  for (const mla::GgufTensor& tensor : file->tensors()) {
    MLA_CHECK(file->FindTensor(tensor.name) == &tensor);
    MLA_CHECK(tensor.data.data() >= bytes.data() &&
              tensor.data.data() + tensor.data.size() <= bytes.data() + bytes.size());
  }
  for (const mla::GgufEntry& entry : file->metadata()) {
    MLA_CHECK(!mla::DescribeGguf(entry.value).empty());
    (void)file->GetInt(entry.key, INT64_MIN, INT64_MAX);
    (void)file->GetFloat(entry.key, -1e300, 1e300);
    (void)file->GetStrings(entry.key);
    (void)file->GetInts(entry.key);
    (void)file->GetFloats(entry.key);
  }
  (void)mla::ReadGgufSpec(*file);
  (void)mla::ReadGgufChatTemplate(*file);
  const auto tokenizer = mla::LoadGgufTokenizer(*file);
  if (tokenizer.ok()) {
    const auto ids = (*tokenizer)->Encode("Hello, world 123");
    if (ids.ok()) (void)(*tokenizer)->Decode(*ids);
  }
  return 0;
}
