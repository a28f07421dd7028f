#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "io/json.h"

namespace mla {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "files are little-endian");

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr char kMetadataKey[] = "__metadata__";

std::optional<int64_t> AsSize(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return static_cast<int64_t>(number);
}

// A member of a tensor's description; null if it is missing.
const json* Member(const json& object, const char* key) {
  const auto member = object.find(key);
  return member == object.end() ? nullptr : &*member;
}

std::string DescribeMember(const json* value) {
  return value == nullptr ? "is missing" : "is " + DescribeJson(*value);
}

// Turns the header's entries into tensors, checked one by one and then as a whole.
class HeaderReader {
 public:
  HeaderReader(std::string_view file, std::span<const std::byte> data) : file_(file), data_(data) {}

  Result<StoredTensor> ReadTensor(const std::string& name, const json& entry) const {
    if (!entry.is_object()) return Bad(name, "is ", DescribeJson(entry), ", want an object");
    StoredTensor tensor;
    tensor.name = name;
    MLA_RETURN_IF_ERROR(ReadDType(entry, tensor));
    MLA_RETURN_IF_ERROR(ReadShape(entry, tensor));
    MLA_RETURN_IF_ERROR(ReadData(entry, tensor));
    return tensor;
  }

  // Sorts by place and checks that the tensors cover the data, each byte once.
  Status CheckCoverage(std::vector<StoredTensor>& tensors) const {
    std::sort(tensors.begin(), tensors.end(), [this](const auto& a, const auto& b) {
      return std::tuple(Begin(a), End(a), std::string_view(a.name)) <
             std::tuple(Begin(b), End(b), std::string_view(b.name));
    });
    int64_t covered = 0;
    std::string_view previous;
    for (const StoredTensor& tensor : tensors) {
      if (Begin(tensor) < covered) {
        return Bad(tensor.name, "begins at ", Begin(tensor), ", overlapping ", Quote(previous),
                   ", which ends at ", covered);
      }
      if (Begin(tensor) > covered) {
        return Bad(tensor.name, "begins at ", Begin(tensor), ", leaving a hole from ", covered);
      }
      covered = End(tensor);
      previous = tensor.name;
    }
    if (covered != std::ssize(data_)) {
      return CorruptFile(file_, ": the tensors end at ", covered, ", the data at ", data_.size());
    }
    return {};
  }

 private:
  template <typename... Parts>
  Error Bad(std::string_view name, const Parts&... parts) const {
    return CorruptFile(file_, ": tensor ", Quote(name), " ", parts...);
  }

  int64_t Begin(const StoredTensor& tensor) const { return tensor.data.data() - data_.data(); }
  int64_t End(const StoredTensor& tensor) const { return Begin(tensor) + std::ssize(tensor.data); }

  Status ReadDType(const json& entry, StoredTensor& tensor) const {
    const json* value = Member(entry, "dtype");
    std::optional<StoredDType> dtype;
    if (value != nullptr && value->is_string()) {
      dtype = ParseStoredDType(value->get_ref<const std::string&>());
    }
    if (!dtype.has_value()) {
      return Bad(tensor.name, "dtype ", DescribeMember(value), ", want one of ",
                 StoredDTypeNames());
    }
    tensor.dtype = *dtype;
    return {};
  }

  Status ReadShape(const json& entry, StoredTensor& tensor) const {
    const json* value = Member(entry, "shape");
    if (value == nullptr || !value->is_array()) {
      return Bad(tensor.name, "shape ", DescribeMember(value), ", want a list of integers");
    }
    for (const json& item : *value) {
      const std::optional<int64_t> dim = AsSize(item);
      if (!dim.has_value()) {
        return Bad(tensor.name, "shape[", tensor.shape.size(), "] is ", DescribeJson(item),
                   ", want an integer from 0 to ", INT64_MAX);
      }
      tensor.shape.push_back(*dim);
    }
    return {};
  }

  Status ReadData(const json& entry, StoredTensor& tensor) const {
    const json* value = Member(entry, "data_offsets");
    if (value == nullptr || !value->is_array() || value->size() != 2) {
      return Bad(tensor.name, "data_offsets ", DescribeMember(value), ", want [begin, end]");
    }
    const std::optional<int64_t> begin = AsSize((*value)[0]), end = AsSize((*value)[1]);
    if (!begin.has_value() || !end.has_value() || *begin > *end || *end > std::ssize(data_)) {
      return Bad(tensor.name, "data_offsets are [", DescribeJson((*value)[0]), ", ",
                 DescribeJson((*value)[1]), "], want 0 <= begin <= end <= ", data_.size());
    }
    const std::optional<int64_t> want = ByteSize(tensor.dtype, tensor.shape);
    if (!want.has_value()) {
      return Bad(tensor.name, "shape ", ShapeString(tensor.shape), " of ",
                 StoredDTypeName(tensor.dtype), " overflows a 64-bit size");
    }
    if (*end - *begin != *want) {
      return Bad(tensor.name, "data_offsets are [", *begin, ", ", *end, "], ", *end - *begin,
                 " bytes, want ", *want, " for ", StoredDTypeName(tensor.dtype), " ",
                 ShapeString(tensor.shape));
    }
    tensor.data = data_.subspan(static_cast<size_t>(*begin), static_cast<size_t>(*want));
    return {};
  }

  std::string_view file_;
  std::span<const std::byte> data_;
};

// The length that the file's first bytes give, checked against the file.
Result<size_t> HeaderBytes(std::span<const std::byte> bytes, std::string_view file) {
  if (bytes.size() < kLengthBytes) {
    return CorruptFile(file, " has ", bytes.size(), " bytes, want at least ", kLengthBytes,
                       ": the header's length");
  }
  uint64_t length;
  std::memcpy(&length, bytes.data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    return CorruptFile(file, ": header of ", length, " bytes, the limit is ", kMaxHeaderBytes);
  }
  if (length > bytes.size() - kLengthBytes) {
    return CorruptFile(file, ": header of ", length, " bytes, but only ",
                       bytes.size() - kLengthBytes, " follow");
  }
  return static_cast<size_t>(length);
}

Status ReadMetadata(const json& entry, std::string_view file,
                    std::map<std::string, std::string>& metadata) {
  if (!entry.is_object()) {
    return CorruptFile(file, ": ", kMetadataKey, " is ", DescribeJson(entry), ", want an object");
  }
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      return CorruptFile(file, ": ", kMetadataKey, "[", Quote(key), "] is ", DescribeJson(value),
                         ", want a string");
    }
    metadata.emplace(key, value.get_ref<const std::string&>());
  }
  return {};
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  MLA_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  SafetensorsFile file(path);
  MLA_RETURN_IF_ERROR(file.ParseBytes(mapping.bytes()));
  file.mapping_ = std::move(mapping);
  return file;
}

Result<SafetensorsFile> SafetensorsFile::Parse(std::span<const std::byte> bytes, std::string name) {
  SafetensorsFile file(std::move(name));
  MLA_RETURN_IF_ERROR(file.ParseBytes(bytes));
  return file;
}

Status SafetensorsFile::ParseBytes(std::span<const std::byte> bytes) {
  MLA_ASSIGN_OR_RETURN(const size_t header_bytes, HeaderBytes(bytes, path_));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
                              header_bytes);
  MLA_ASSIGN_OR_RETURN(const json header,
                       ParseJson(text, Concat(path_, ": header"), JsonLimits{.max_depth = 8}));
  if (!header.is_object()) {
    return CorruptFile(path_, ": header is ", DescribeJson(header), ", want an object");
  }
  const HeaderReader reader(path_, bytes.subspan(kLengthBytes + header_bytes));
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      MLA_RETURN_IF_ERROR(ReadMetadata(entry, path_, metadata_));
      continue;
    }
    MLA_ASSIGN_OR_RETURN(StoredTensor tensor, reader.ReadTensor(name, entry));
    data_bytes_ += std::ssize(tensor.data);
    tensors_.push_back(std::move(tensor));
  }
  MLA_RETURN_IF_ERROR(reader.CheckCoverage(tensors_));
  for (const StoredTensor& tensor : tensors_) by_name_.emplace(tensor.name, &tensor);
  return AlignTensors();
}

Status SafetensorsFile::AlignTensors() {
  for (StoredTensor& tensor : tensors_) {
    const size_t size = tensor.data.size();
    if (reinterpret_cast<uintptr_t>(tensor.data.data()) % SizeOf(tensor.dtype) == 0) continue;
    // operator new aligns to 16 bytes, enough for every element. An empty tensor gets an address
    // too.
    std::unique_ptr<std::byte[]> copy(new (std::nothrow) std::byte[std::max<size_t>(size, 1)]);
    if (copy == nullptr) {
      return Error{ErrorCode::kOutOfMemory,
                   Concat(path_, ": no memory for an aligned copy of tensor ", Quote(tensor.name),
                          ", ", size, " bytes")};
    }
    std::copy(tensor.data.begin(), tensor.data.end(), copy.get());
    tensor.data = {copy.get(), size};
    bytes_copied_ += static_cast<int64_t>(size);
    copies_.push_back(std::move(copy));
  }
  return {};
}

const StoredTensor* SafetensorsFile::Find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

void SafetensorsFile::Prefetch() const {
  if (mapping_.has_value()) mapping_->Prefetch();
}

}  // namespace mla
