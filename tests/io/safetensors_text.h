// Safetensors files made in memory, valid or not.
#ifndef MLA_TESTS_IO_SAFETENSORS_TEXT_H_
#define MLA_TESTS_IO_SAFETENSORS_TEXT_H_

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace mla {

// Length, header and data_bytes bytes of data: 0, 1, 2, ...
inline std::string FileWith(std::string_view header, size_t data_bytes) {
  std::string file(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, sizeof(length));
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

inline std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

}  // namespace mla

#endif  // MLA_TESTS_IO_SAFETENSORS_TEXT_H_
