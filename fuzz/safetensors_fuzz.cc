// Any bytes as a safetensors file: refused with one line, or tensors that lie within the file and
// can be read and converted.
#include <cstdint>
#include <span>

#include "base/check.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = mla::SafetensorsFile::Parse(std::as_bytes(std::span(data, size)), "input");
  if (!file.ok()) {
    MLA_CHECK(!file.message().empty() && file.message().find('\n') == std::string_view::npos);
    return 0;
  }
  int64_t bytes = 0;
  unsigned sum = 0;
  for (const mla::StoredTensor& tensor : file->tensors()) {
    MLA_CHECK(file->Find(tensor.name) == &tensor);
    MLA_CHECK(mla::ByteSize(tensor.dtype, tensor.shape) == std::ssize(tensor.data));
    MLA_CHECK(reinterpret_cast<uintptr_t>(tensor.data.data()) % mla::SizeOf(tensor.dtype) == 0);
    for (const std::byte b : tensor.data) sum += std::to_integer<unsigned>(b);
    bytes += std::ssize(tensor.data);
    const auto view = mla::ToTensor(tensor);
    if (!view.ok()) continue;
    MLA_CHECK(view->num_elements() * static_cast<int64_t>(mla::SizeOf(view->dtype())) ==
              std::ssize(tensor.data));
  }
  MLA_CHECK(bytes == file->data_bytes() && bytes < static_cast<int64_t>(size), bytes, " ", sum);
  return 0;
}
