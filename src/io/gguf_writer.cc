#include "io/gguf_writer.h"

#include <algorithm>

#include "io/atomic_file.h"
#include "io/json.h"
#include "io/tokenizer/unicode.h"

namespace mla {
namespace {

constexpr uint32_t kVersion = 3;
constexpr size_t kMaxDims = 4;
constexpr size_t kMaxNameBytes = 63;  // some readers keep a zero after it in 64 bytes

template <typename T>
void Append(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void AppendString(std::string& to, std::string_view text) {
  Append(to, static_cast<uint64_t>(text.size()));
  to += text;
}

uint64_t Padded(uint64_t bytes) {
  constexpr uint64_t kAlignment = GgufFile::kDefaultAlignment;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Bytes of the tensor's data.
Result<uint64_t> CheckTensor(const TensorSource& source, std::set<std::string_view>& names) {
  const StoredTensor& tensor = source.tensor;
  const std::string& name = tensor.name;
  if (name.empty() || name.size() > kMaxNameBytes || ValidUtf8Prefix(name) != name.size()) {
    return InvalidArgument("tensor name ", Quote(name), " has ", name.size(),
                           " bytes, want UTF-8 of 1 to ", kMaxNameBytes);
  }
  if (!names.insert(name).second) return InvalidArgument("two tensors are ", Quote(name));
  const std::vector<int64_t>& shape = tensor.shape;
  const bool empty = std::any_of(shape.begin(), shape.end(), [](int64_t d) { return d <= 0; });
  const std::optional<int64_t> bytes = ByteSize(tensor.dtype, shape);
  if (shape.empty() || shape.size() > kMaxDims || empty || !bytes) {
    return InvalidArgument(
        "tensor ", Quote(name), " has shape ", ShapeString(shape), ", want 1 to ", kMaxDims,
        " dimensions of at least 1 and whole blocks of ", StoredDTypeName(tensor.dtype));
  }
  if (!source.produce && std::ssize(tensor.data) != *bytes) {
    return InvalidArgument("tensor ", Quote(name), " has ", tensor.data.size(), " bytes, want ",
                           *bytes, " for ", StoredDTypeName(tensor.dtype), " ", ShapeString(shape));
  }
  return static_cast<uint64_t>(*bytes);
}

Status WriteData(const TensorSource& source, AtomicFile& file) {
  const uint64_t want = *ByteSize(source.tensor.dtype, source.tensor.shape);
  uint64_t written = 0;
  if (source.produce) {
    MLA_RETURN_IF_ERROR(source.produce([&](std::span<const std::byte> bytes) -> Status {
      written += bytes.size();
      return written > want ? Status() : file.Write(bytes);
    }));
  } else {
    written = source.tensor.data.size();
    MLA_RETURN_IF_ERROR(file.Write(source.tensor.data));
  }
  if (written != want) {
    return InvalidArgument("tensor ", Quote(source.tensor.name), " was given ", written,
                           " bytes, want ", want);
  }
  return file.Write(std::string(Padded(want) - want, '\0'));
}

}  // namespace

bool GgufMetadata::Begin(std::string_view key, GgufType type) {
  if (!keys_.emplace(key).second) return false;
  AppendString(bytes_, key);
  Append(bytes_, static_cast<uint32_t>(type));
  return true;
}

void GgufMetadata::BeginArray(GgufType type, uint64_t count) {
  Append(bytes_, static_cast<uint32_t>(type));
  Append(bytes_, count);
}

void GgufMetadata::U32(std::string_view key, uint32_t value) {
  if (Begin(key, GgufType::kU32)) Append(bytes_, value);
}

void GgufMetadata::F32(std::string_view key, float value) {
  if (Begin(key, GgufType::kF32)) Append(bytes_, value);
}

void GgufMetadata::Bool(std::string_view key, bool value) {
  if (Begin(key, GgufType::kBool)) Append(bytes_, static_cast<uint8_t>(value));
}

void GgufMetadata::Str(std::string_view key, std::string_view value) {
  if (Begin(key, GgufType::kString)) AppendString(bytes_, value);
}

void GgufMetadata::Strs(std::string_view key, std::span<const std::string> values) {
  if (!Begin(key, GgufType::kArray)) return;
  BeginArray(GgufType::kString, values.size());
  for (const std::string& value : values) AppendString(bytes_, value);
}

void GgufMetadata::I32s(std::string_view key, std::span<const int32_t> values) {
  if (!Begin(key, GgufType::kArray)) return;
  BeginArray(GgufType::kI32, values.size());
  for (const int32_t value : values) Append(bytes_, value);
}

void GgufMetadata::F32s(std::string_view key, std::span<const float> values) {
  if (!Begin(key, GgufType::kArray)) return;
  BeginArray(GgufType::kF32, values.size());
  for (const float value : values) Append(bytes_, value);
}

void GgufMetadata::Copy(const GgufEntry& entry) {
  const GgufValue& value = entry.value;
  if (!Begin(entry.key, value.is_array ? GgufType::kArray : value.type)) return;
  if (value.is_array) {
    BeginArray(value.type, value.count);
  } else if (value.type == GgufType::kString) {
    Append(bytes_, static_cast<uint64_t>(value.bytes.size()));
  }
  bytes_.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
}

Result<std::string> GgufHeader(const GgufMetadata& metadata,
                               std::span<const TensorSource> tensors) {
  std::string header = "GGUF";
  Append(header, kVersion);
  Append(header, static_cast<uint64_t>(tensors.size()));
  Append(header, metadata.count());
  header += metadata.bytes();
  std::set<std::string_view> names;
  uint64_t offset = 0;
  for (const TensorSource& source : tensors) {
    MLA_ASSIGN_OR_RETURN(const uint64_t bytes, CheckTensor(source, names));
    const StoredTensor& tensor = source.tensor;
    AppendString(header, tensor.name);
    Append(header, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) {  // the file has the fastest first
      Append(header, static_cast<uint64_t>(tensor.shape[i]));
    }
    Append(header, GgufTensorTypeOf(tensor.dtype).id);
    Append(header, offset);
    offset += Padded(bytes);
  }
  header.resize(Padded(header.size()), '\0');
  return header;
}

Status WriteGguf(const std::string& path, const GgufMetadata& metadata,
                 std::span<const TensorSource> tensors) {
  MLA_ASSIGN_OR_RETURN(const std::string header, GgufHeader(metadata, tensors));
  MLA_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  MLA_RETURN_IF_ERROR(file.Write(header));
  for (const TensorSource& source : tensors) MLA_RETURN_IF_ERROR(WriteData(source, file));
  return file.Commit();
}

}  // namespace mla
