// Builds GGUF files in memory, right ones and wrong ones.
#ifndef MLA_TESTS_SUPPORT_GGUF_BYTES_H_
#define MLA_TESTS_SUPPORT_GGUF_BYTES_H_

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mla::test {

// The bytes of a number, little-endian.
template <typename T>
std::string Le(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}

inline std::string GgufString(std::string_view text) {
  return Le<uint64_t>(text.size()) + std::string(text);
}

class GgufBytes {
 public:
  GgufBytes& Raw(std::string_view key, uint32_t type, const std::string& payload) {
    entries_ += GgufString(key) + Le(type) + payload;
    ++num_entries;
    return *this;
  }
  GgufBytes& U32(std::string_view key, uint32_t value) { return Raw(key, 4, Le(value)); }
  GgufBytes& F32(std::string_view key, float value) { return Raw(key, 6, Le(value)); }
  GgufBytes& Bool(std::string_view key, bool value) { return Raw(key, 7, std::string(1, value)); }
  GgufBytes& Str(std::string_view key, std::string_view value) {
    return Raw(key, 8, GgufString(value));
  }
  GgufBytes& Strs(std::string_view key, const std::vector<std::string>& values) {
    std::string payload = Le<uint32_t>(8) + Le<uint64_t>(values.size());
    for (const std::string& value : values) payload += GgufString(value);
    return Raw(key, 9, payload);
  }
  GgufBytes& I32s(std::string_view key, const std::vector<int32_t>& values) {
    std::string payload = Le<uint32_t>(5) + Le<uint64_t>(values.size());
    for (const int32_t value : values) payload += Le(value);
    return Raw(key, 9, payload);
  }
  GgufBytes& F32s(std::string_view key, const std::vector<float>& values) {
    std::string payload = Le<uint32_t>(6) + Le<uint64_t>(values.size());
    for (const float value : values) payload += Le(value);
    return Raw(key, 9, payload);
  }

  // `dims` as in the file, the fastest first; `offset` as told.
  GgufBytes& Info(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                  uint64_t offset) {
    infos_ += GgufString(name) + Le(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) infos_ += Le(dim);
    infos_ += Le(type) + Le(offset);
    ++num_tensors;
    return *this;
  }

  // A tensor with its data, at the next aligned place.
  GgufBytes& Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                    std::string_view data) {
    Info(name, dims, type, data_.size());
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }

  std::string Build() const {
    std::string file = magic + Le(version) + Le(num_tensors) + Le(num_entries) + entries_ + infos_;
    if (!data_.empty()) {
      file.resize((file.size() + alignment - 1) / alignment * alignment);
      file += data_;
    }
    return file;
  }

  // Written as they are: to be falsified.
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t num_tensors = 0, num_entries = 0;
  size_t alignment = 32;

 private:
  std::string entries_, infos_, data_;
};

}  // namespace mla::test

#endif  // MLA_TESTS_SUPPORT_GGUF_BYTES_H_
