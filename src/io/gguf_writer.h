// Writing GGUF files, version 3, little-endian, with the alignment that every reader assumes.
#ifndef MLA_IO_GGUF_WRITER_H_
#define MLA_IO_GGUF_WRITER_H_

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"
#include "io/safetensors.h"
#include "mla/result.h"

namespace mla {

// Metadata entries, in the order in which they are added. A key is added once; adding it again
// changes nothing, so that what is said first holds.
class GgufMetadata {
 public:
  void U32(std::string_view key, uint32_t value);
  void F32(std::string_view key, float value);
  void Bool(std::string_view key, bool value);
  void Str(std::string_view key, std::string_view value);
  void Strs(std::string_view key, std::span<const std::string> values);
  void I32s(std::string_view key, std::span<const int32_t> values);
  void F32s(std::string_view key, std::span<const float> values);
  void Copy(const GgufEntry& entry);  // as another file has it

  bool Has(std::string_view key) const { return keys_.count(std::string(key)) > 0; }
  uint64_t count() const { return keys_.size(); }
  const std::string& bytes() const { return bytes_; }

 private:
  bool Begin(std::string_view key, GgufType type);
  void BeginArray(GgufType type, uint64_t count);

  std::set<std::string, std::less<>> keys_;
  std::string bytes_;
};

// Everything before the tensors' data, padded: what GgufFile::ParseHeader reads. Tensors have
// GGUF's types (GgufTensorTypeOf) and shapes with the slowest dimension first; their data follow in
// the order given. kInvalidArgument for a name that is repeated, not UTF-8, or not of 1 to 63
// bytes, for shapes of no or more than 4 dimensions, with a 0, or that are no whole blocks, and for
// data of another size.
Result<std::string> GgufHeader(const GgufMetadata& metadata, std::span<const TensorSource> tensors);

// Writes a file through AtomicFile: after an error nothing is left of it, and a file that was there
// is as it was. The same input gives the same bytes. kInvalidArgument as GgufHeader.
Status WriteGguf(const std::string& path, const GgufMetadata& metadata,
                 std::span<const TensorSource> tensors);

}  // namespace mla

#endif  // MLA_IO_GGUF_WRITER_H_
