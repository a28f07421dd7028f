// The safetensors format (https://huggingface.co/docs/safetensors): 8 bytes of little-endian header
// length, a JSON header naming each tensor's dtype, shape and place, then the data.
#ifndef MLA_IO_SAFETENSORS_H_
#define MLA_IO_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/mapped_file.h"
#include "io/stored_tensor.h"
#include "mla/result.h"

namespace mla {

// One open file. Its tensors and their data live as long as it does; it may be moved. Reading is
// thread-safe.
//
// The data are used where they are mapped. Only a tensor that the file places at an address its
// element size does not divide is copied to memory of its own, when the file is opened: kernels may
// then rely on alignment. Files from the usual tools need no such copy.
class SafetensorsFile {
 public:
  // Refuses, with one error that names the file and the value: a header longer than the file or
  // over 100 MB, that is no JSON object or has duplicate keys; an unknown dtype; a shape that is
  // not a list of non-negative integers or whose size overflows; offsets that are out of range,
  // overlap, leave a hole, or do not fit dtype and shape; metadata that are not strings.
  // kCorruptFile for these; as MappedFile::Open if the file cannot be read.
  static Result<SafetensorsFile> Open(const std::string& path);

  // The same for bytes in memory, which must outlive the result; `name` names them in errors.
  static Result<SafetensorsFile> Parse(std::span<const std::byte> bytes, std::string name);

  SafetensorsFile(SafetensorsFile&&) noexcept = default;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept = default;

  const std::string& path() const { return path_; }
  std::span<const StoredTensor> tensors() const { return tensors_; }  // in the order of the data
  const StoredTensor* Find(std::string_view name) const;              // null: no such tensor
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  int64_t data_bytes() const { return data_bytes_; }      // of all tensors
  int64_t bytes_copied() const { return bytes_copied_; }  // of those that were not aligned
  void Prefetch() const;                                  // see MappedFile

 private:
  explicit SafetensorsFile(std::string path) : path_(std::move(path)) {}
  Status ParseBytes(std::span<const std::byte> bytes);
  Status AlignTensors();

  std::string path_;
  std::optional<MappedFile> mapping_;
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string_view, const StoredTensor*> by_name_;  // into tensors_
  std::map<std::string, std::string> metadata_;
  std::vector<std::unique_ptr<std::byte[]>> copies_;
  int64_t data_bytes_ = 0;
  int64_t bytes_copied_ = 0;
};

// A tensor to be written. Its bytes lie in `tensor.data`; or `produce`, if set, passes them to
// `write` in pieces, in order.
struct TensorSource {
  using Write = std::function<Status(std::span<const std::byte>)>;

  StoredTensor tensor;
  std::function<Status(const Write& write)> produce = {};
};

// Writes a file through AtomicFile: after an error nothing is left of it, and a file that was there
// is as it was. Tensors are laid out by descending element size and otherwise as given, so that all
// are aligned; the header is padded with spaces to a multiple of 8. The same input gives the same
// bytes. kInvalidArgument for a duplicate name, the name "__metadata__", text that is not UTF-8, or
// data whose size is not that of dtype and shape.
Status WriteSafetensors(const std::string& path, std::span<const TensorSource> tensors,
                        const std::map<std::string, std::string>& metadata = {});

}  // namespace mla

#endif  // MLA_IO_SAFETENSORS_H_
