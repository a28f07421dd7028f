#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace mla {
namespace {

constexpr size_t kHeaderAlignment = 8;

// `text` as a JSON string. kInvalidArgument if it is not UTF-8.
Result<std::string> JsonString(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    return InvalidArgument("a name or metadata text of ", text.size(), " bytes is not UTF-8");
  }
}

// Sources in the order of their data.
using Layout = std::vector<const TensorSource*>;

Result<Layout> PlanLayout(std::span<const TensorSource> tensors) {
  Layout layout;
  std::set<std::string_view> names;
  for (const TensorSource& source : tensors) {
    const StoredTensor& tensor = source.tensor;
    const std::optional<int64_t> bytes = ByteSize(tensor.dtype, tensor.shape);
    if (tensor.name == "__metadata__" || !names.insert(tensor.name).second) {
      return InvalidArgument("tensor name ", Quote(tensor.name), " is reserved or given twice");
    }
    if (!bytes.has_value()) {
      return InvalidArgument("tensor ", Quote(tensor.name), " has shape ",
                             ShapeString(tensor.shape), ", negative or too large");
    }
    if (!source.produce && std::ssize(tensor.data) != *bytes) {
      return InvalidArgument("tensor ", Quote(tensor.name), " has ", tensor.data.size(),
                             " bytes, want ", *bytes, " for ", StoredDTypeName(tensor.dtype), " ",
                             ShapeString(tensor.shape));
    }
    layout.push_back(&source);
  }
  std::stable_sort(layout.begin(), layout.end(), [](const auto* a, const auto* b) {
    return SizeOf(a->tensor.dtype) > SizeOf(b->tensor.dtype);
  });
  return layout;
}

// The file up to the data: length, JSON, padding. Written out by hand to keep the order of tensors.
Result<std::string> BuildHeader(const Layout& layout,
                                const std::map<std::string, std::string>& metadata) {
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      MLA_ASSIGN_OR_RETURN(const std::string json_key, JsonString(key));
      MLA_ASSIGN_OR_RETURN(const std::string json_value, JsonString(value));
      header += Concat(json_key, ":", json_value, ",");
    }
    header.back() = '}';
    header += ',';
  }
  int64_t offset = 0;
  for (const TensorSource* source : layout) {
    const StoredTensor& tensor = source->tensor;
    MLA_ASSIGN_OR_RETURN(const std::string name, JsonString(tensor.name));
    header += Concat(name, R"(:{"dtype":")", StoredDTypeName(tensor.dtype), R"(","shape":[)");
    for (const int64_t dim : tensor.shape) header += Concat(dim, ",");
    if (!tensor.shape.empty()) header.pop_back();
    const int64_t end = offset + *ByteSize(tensor.dtype, tensor.shape);
    header += Concat(R"(],"data_offsets":[)", offset, ",", end, "]},");
    offset = end;
  }
  if (header.back() == ',') header.pop_back();
  header += '}';
  header.resize((header.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');

  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header;
}

Status WriteData(const TensorSource& source, AtomicFile& file) {
  const StoredTensor& tensor = source.tensor;
  if (!source.produce) return file.Write(tensor.data);
  const int64_t want = *ByteSize(tensor.dtype, tensor.shape);
  int64_t written = 0;
  MLA_RETURN_IF_ERROR(source.produce([&](std::span<const std::byte> bytes) -> Status {
    written += std::ssize(bytes);
    return written > want ? Status() : file.Write(bytes);
  }));
  if (written != want) {
    return InvalidArgument("tensor ", Quote(tensor.name), " was given ", written, " bytes, want ",
                           want, " for ", StoredDTypeName(tensor.dtype), " ",
                           ShapeString(tensor.shape));
  }
  return {};
}

}  // namespace

Status WriteSafetensors(const std::string& path, std::span<const TensorSource> tensors,
                        const std::map<std::string, std::string>& metadata) {
  MLA_ASSIGN_OR_RETURN(const Layout layout, PlanLayout(tensors));
  MLA_ASSIGN_OR_RETURN(const std::string header, BuildHeader(layout, metadata));
  MLA_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  MLA_RETURN_IF_ERROR(file.Write(header));
  for (const TensorSource* source : layout) MLA_RETURN_IF_ERROR(WriteData(*source, file));
  return file.Commit();
}

}  // namespace mla
