// The weights of a model: one safetensors file, or shards with an index; or tensors of another
// file, or of memory.
#ifndef MLA_IO_CHECKPOINT_H_
#define MLA_IO_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/gguf.h"
#include "io/safetensors.h"
#include "mla/result.h"

namespace mla {

// All tensors of a model, by name, wherever they lie. Movable; what it hands out lives as long as
// it does. Reading is thread-safe.
class Checkpoint {
 public:
  // `path` is a .safetensors file, or a directory with model.safetensors or else
  // model.safetensors.index.json and its shards. kNotFound: no such path, or neither file in it, or
  // shards missing (all are listed). kCorruptFile: a shard outside the directory, a tensor in two
  // shards, a tensor that the index places where it is not; and what SafetensorsFile refuses.
  static Result<Checkpoint> Open(const std::string& path);

  // Tensors of a GGUF file under names of our own; they point into the file or into `converted`.
  // kCorruptFile if two have one name.
  static Result<Checkpoint> FromGguf(GgufFile file, std::vector<StoredTensor> tensors,
                                     std::vector<std::unique_ptr<std::byte[]>> converted);

  // Tensors that point into `memory`, whose owner this becomes. kInvalidArgument if two have one
  // name.
  static Result<Checkpoint> FromMemory(std::vector<StoredTensor> tensors,
                                       std::shared_ptr<const void> memory);

  const StoredTensor* Find(std::string_view name) const;  // null: no such tensor
  const std::vector<const StoredTensor*>& tensors() const { return tensors_; }  // by file and place
  std::span<const SafetensorsFile> files() const { return files_; }             // empty: others
  const GgufFile* gguf() const { return gguf_ ? &*gguf_ : nullptr; }            // null: others
  int64_t data_bytes() const { return data_bytes_; }                            // of all tensors
  void Prefetch() const;                                                        // see MappedFile

 private:
  Checkpoint() = default;
  Status AddFile(const std::string& path);
  // Takes tensors that belong to no safetensors file. Returns a name that two of them have.
  std::optional<std::string> AddTensors(std::vector<StoredTensor> tensors);

  std::vector<SafetensorsFile> files_;
  std::optional<GgufFile> gguf_;
  std::vector<StoredTensor> own_tensors_;  // of GGUF or memory
  std::shared_ptr<const void> memory_;
  std::vector<std::unique_ptr<std::byte[]>> converted_;
  std::vector<const StoredTensor*> tensors_;
  struct Place {
    const StoredTensor* tensor;
    size_t file;  // in files_
  };
  std::unordered_map<std::string_view, Place> by_name_;
  int64_t data_bytes_ = 0;
};

// The files that Checkpoint::Open(path) reads, whether they are there or not: `path` itself if it
// is no directory. An index that cannot be read names no shards.
std::vector<std::string> CheckpointFiles(const std::string& path);

}  // namespace mla

#endif  // MLA_IO_CHECKPOINT_H_
