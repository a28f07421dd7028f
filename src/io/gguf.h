// The GGUF format, versions 2 and 3, little-endian: typed metadata, tensor descriptions, then the
// tensors' data (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
#ifndef MLA_IO_GGUF_H_
#define MLA_IO_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/gguf_types.h"
#include "io/mapped_file.h"
#include "mla/result.h"

namespace mla {

// A metadata value, as it lies in the file.
struct GgufValue {
  GgufType type = GgufType::kU8;  // of the value, or of an array's elements; never kArray
  bool is_array = false;
  uint64_t count = 1;  // elements
  // Little-endian, without type and count. The bytes of a string alone; in an array of strings each
  // has its 64-bit length before it, and all lie within.
  std::span<const std::byte> bytes;
};

struct GgufEntry {
  std::string_view key;
  GgufValue value;
};

struct GgufTensor {
  std::string_view name;
  const GgufTensorType* type = nullptr;
  std::vector<int64_t> shape;       // 1 to 4 dimensions of at least 1, slowest first: row-major
  std::span<const std::byte> data;  // as many bytes as type and shape say
};

// One open file. What it hands out lives as long as it does; it may be moved. Reading is
// thread-safe.
class GgufFile {
 public:
  static constexpr uint32_t kDefaultAlignment = 32, kMaxAlignment = 1 << 16;
  static constexpr size_t kMaxNameBytes = 64, kMaxKeyBytes = 65535;

  // Memory is taken in proportion to what the file holds, never for what it claims. Refuses, with
  // one error that names the file and the value: versions other than 2 and 3, big-endian files;
  // counts, lengths and offsets that pass the end; empty, too long, non-UTF-8 or repeated keys and
  // names; unknown value types, nested arrays, booleans other than 0 and 1; an alignment that is no
  // power of two from 8 to kMaxAlignment; dimensions that are 0, overflow together, or are no whole
  // blocks; tensors that overlap or do not lie on the alignment. kCorruptFile for these,
  // kUnsupported (with the tensor's name) for tensor types that nothing here decodes; as
  // MappedFile::Open if the file cannot be read.
  static Result<GgufFile> Open(const std::string& path);

  // The same for bytes in memory, which must outlive the result; `name` names them in errors.
  static Result<GgufFile> Parse(std::span<const std::byte> bytes, std::string name);

  // The same where the tensors' data may be missing: a file that is about to be written. The data
  // of a tensor that does not lie within `bytes` are empty.
  static Result<GgufFile> ParseHeader(std::span<const std::byte> bytes, std::string name);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  uint32_t alignment() const { return alignment_; }
  std::span<const GgufEntry> metadata() const { return metadata_; }  // in the order of the file
  std::span<const GgufTensor> tensors() const { return tensors_; }   // in the order of the file
  const GgufTensor* FindTensor(std::string_view name) const;         // null: no such tensor
  int64_t data_bytes() const { return data_bytes_; }                 // of all tensors
  void Prefetch() const;                                             // see MappedFile

  // Metadata by key. For every type GetX wants the key to be there; GetXOr gives the fallback where
  // it is not. kCorruptFile, with key, value and what is right, for other types and ranges. Any
  // integer type will do for an integer.
  const GgufValue* Find(std::string_view key) const;  // null: no such key
  Result<int64_t> GetInt(std::string_view key, int64_t min, int64_t max) const;
  Result<int64_t> GetIntOr(std::string_view key, int64_t fallback, int64_t min, int64_t max) const;
  Result<double> GetFloat(std::string_view key, double min, double max) const;
  Result<double> GetFloatOr(std::string_view key, double fallback, double min, double max) const;
  Result<bool> GetBoolOr(std::string_view key, bool fallback) const;
  Result<std::string_view> GetString(std::string_view key) const;
  Result<std::string_view> GetStringOr(std::string_view key, std::string_view fallback) const;
  Result<std::vector<std::string_view>> GetStrings(std::string_view key) const;  // an array
  Result<std::vector<int32_t>> GetInts(std::string_view key) const;              // of i32 or u32
  Result<std::vector<float>> GetFloats(std::string_view key) const;              // of f32

  // "FILE: KEY is VALUE, want WANT".
  Error BadValue(std::string_view key, std::string_view want) const;

 private:
  class Parser;

  explicit GgufFile(std::string path) : path_(std::move(path)) {}

  std::string path_;
  std::optional<MappedFile> mapping_;
  uint32_t version_ = 0;
  uint32_t alignment_ = kDefaultAlignment;
  std::vector<GgufEntry> metadata_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> keys_, names_;
  int64_t data_bytes_ = 0;
};

// A value in an error message: -3, 0.5, "text" (cut), true, "an array of 3 str".
std::string DescribeGguf(const GgufValue& value);

}  // namespace mla

#endif  // MLA_IO_GGUF_H_
