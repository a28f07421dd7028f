#include "io/gguf.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/numeric.h"
#include "io/json.h"
#include "io/tokenizer/unicode.h"

namespace mla {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr char kAlignmentKey[] = "general.alignment";
constexpr uint32_t kMaxDims = 4;
// The least that a metadata entry and a tensor description take.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A scalar as an integer; nothing for floats, booleans and integers beyond 63 bits.
std::optional<int64_t> AsInt(GgufType type, const std::byte* from) {
  switch (type) {
    case GgufType::kU8: return Load<uint8_t>(from);
    case GgufType::kI8: return Load<int8_t>(from);
    case GgufType::kU16: return Load<uint16_t>(from);
    case GgufType::kI16: return Load<int16_t>(from);
    case GgufType::kU32: return Load<uint32_t>(from);
    case GgufType::kI32: return Load<int32_t>(from);
    case GgufType::kI64: return Load<int64_t>(from);
    case GgufType::kU64: {
      const auto value = Load<uint64_t>(from);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default: return std::nullopt;
  }
}

std::optional<double> AsFloat(const GgufValue& value) {
  if (value.is_array) return std::nullopt;
  if (value.type == GgufType::kF32) return Load<float>(value.bytes.data());
  if (value.type == GgufType::kF64) return Load<double>(value.bytes.data());
  if (const auto integer = AsInt(value.type, value.bytes.data())) {
    return static_cast<double>(*integer);
  }
  return std::nullopt;
}

}  // namespace

// Reads front to back; every length is held against what is left before it is used.
class GgufFile::Parser {
 public:
  // `whole`: the tensors' data must be there.
  Parser(std::span<const std::byte> bytes, bool whole, GgufFile& file)
      : bytes_(bytes), whole_(whole), file_(file) {}

  Status Run() {
    uint64_t num_tensors = 0, num_entries = 0;
    MLA_RETURN_IF_ERROR(ReadHeader(num_tensors, num_entries));
    for (uint64_t i = 0; i < num_entries; ++i) MLA_RETURN_IF_ERROR(ReadEntry(i));
    MLA_RETURN_IF_ERROR(ReadAlignment());
    std::vector<uint64_t> offsets;
    for (uint64_t i = 0; i < num_tensors; ++i) MLA_RETURN_IF_ERROR(ReadTensor(i, offsets));
    return PlaceTensors(offsets);
  }

 private:
  template <typename... Parts>
  Error Bad(const Parts&... parts) const {
    return CorruptFile(file_.path_, ": ", parts...);
  }

  uint64_t left() const { return bytes_.size() - position_; }

  template <typename T>
  Status Read(T& value, const auto&... what) {
    if (left() < sizeof(T)) {
      return Bad("ends at byte ", bytes_.size(), ", within ", what...);
    }
    value = Load<T>(bytes_.data() + position_);
    position_ += sizeof(T);
    return {};
  }

  Status ReadBytes(uint64_t count, std::span<const std::byte>& span, const auto&... what) {
    if (count > left()) {
      return Bad(what..., " takes ", count, " bytes, but only ", left(), " are left");
    }
    span = bytes_.subspan(position_, count);
    position_ += count;
    return {};
  }

  Status ReadString(std::span<const std::byte>& text, const auto&... what) {
    uint64_t length = 0;
    MLA_RETURN_IF_ERROR(Read(length, what...));
    return ReadBytes(length, text, what...);
  }

  // A key or a tensor's name.
  Status ReadName(size_t max_bytes, std::string_view& name, const auto&... what) {
    std::span<const std::byte> text;
    MLA_RETURN_IF_ERROR(ReadString(text, what...));
    name = AsText(text);
    if (name.empty() || name.size() > max_bytes) {
      return Bad(what..., " has ", name.size(), " bytes, want 1 to ", max_bytes);
    }
    if (ValidUtf8Prefix(name) != name.size()) return Bad(what..., " is not UTF-8");
    return {};
  }

  Status ReadHeader(uint64_t& num_tensors, uint64_t& num_entries) {
    uint32_t magic = 0;
    MLA_RETURN_IF_ERROR(Read(magic, "the header"));
    if (magic != kMagic) return Bad("is no GGUF file: it does not begin with \"GGUF\"");
    uint32_t& version = file_.version_;
    MLA_RETURN_IF_ERROR(Read(version, "the header"));
    if (version != 0 && (version & 0xffff) == 0) {
      return Bad("is big-endian (version ", __builtin_bswap32(version), "), want little-endian");
    }
    if (version != 2 && version != 3) return Bad("has GGUF version ", version, ", want 2 or 3");
    MLA_RETURN_IF_ERROR(Read(num_tensors, "the header"));
    MLA_RETURN_IF_ERROR(Read(num_entries, "the header"));
    if (num_tensors > left() / kMinTensorBytes || num_entries > left() / kMinEntryBytes) {
      return Bad("claims ", num_tensors, " tensors and ", num_entries, " metadata entries in ",
                 bytes_.size(), " bytes");
    }
    return {};
  }

  Status ReadEntry(uint64_t index) {
    GgufEntry entry;
    MLA_RETURN_IF_ERROR(ReadName(kMaxKeyBytes, entry.key, "metadata key ", index));
    MLA_RETURN_IF_ERROR(ReadValue(entry));
    if (!file_.keys_.emplace(entry.key, file_.metadata_.size()).second) {
      return Bad("has two entries ", Quote(entry.key));
    }
    file_.metadata_.push_back(entry);
    return {};
  }

  Status ReadType(std::string_view key, GgufType& type) {
    uint32_t number = 0;
    MLA_RETURN_IF_ERROR(Read(number, Quote(key)));
    type = static_cast<GgufType>(number);
    if (!IsKnown(type)) return Bad(Quote(key), " has value type ", number, ", want 0 to 12");
    return {};
  }

  Status ReadValue(GgufEntry& entry) {
    GgufValue& value = entry.value;
    MLA_RETURN_IF_ERROR(ReadType(entry.key, value.type));
    if (value.type == GgufType::kString) return ReadString(value.bytes, Quote(entry.key));
    value.is_array = value.type == GgufType::kArray;
    if (value.is_array) {
      MLA_RETURN_IF_ERROR(ReadType(entry.key, value.type));
      if (value.type == GgufType::kArray) return Bad(Quote(entry.key), " is an array of arrays");
      MLA_RETURN_IF_ERROR(Read(value.count, Quote(entry.key)));
    }
    if (value.type == GgufType::kString) return ReadStrings(entry);
    const uint64_t size = GgufTypeSize(value.type);
    if (value.count > left() / size) {
      return Bad(Quote(entry.key), " claims ", value.count, " elements of ", size, " bytes, but ",
                 left(), " bytes are left");
    }
    MLA_RETURN_IF_ERROR(ReadBytes(value.count * size, value.bytes, Quote(entry.key)));
    if (value.type != GgufType::kBool) return {};
    for (const std::byte b : value.bytes) {
      if (std::to_integer<int>(b) > 1) {
        return Bad(Quote(entry.key), " holds the boolean ", std::to_integer<int>(b),
                   ", want 0 or 1");
      }
    }
    return {};
  }

  Status ReadStrings(GgufEntry& entry) {
    GgufValue& value = entry.value;
    if (value.count > left() / sizeof(uint64_t)) {
      return Bad(Quote(entry.key), " claims ", value.count, " strings, but ", left(),
                 " bytes are left");
    }
    const uint64_t begin = position_;
    std::span<const std::byte> text;
    for (uint64_t i = 0; i < value.count; ++i) {
      MLA_RETURN_IF_ERROR(ReadString(text, Quote(entry.key), "[", i, "]"));
    }
    value.bytes = bytes_.subspan(begin, position_ - begin);
    return {};
  }

  Status ReadAlignment() {
    const GgufValue* value = file_.Find(kAlignmentKey);
    if (value == nullptr) return {};
    const bool is_u32 = !value->is_array && value->type == GgufType::kU32;
    const int64_t number = is_u32 ? AsInt(value->type, value->bytes.data()).value_or(0) : 0;
    if (number < 8 || number > kMaxAlignment ||
        !std::has_single_bit(static_cast<uint64_t>(number))) {
      return file_.BadValue(kAlignmentKey,
                            Concat("a u32, a power of two from 8 to ", kMaxAlignment));
    }
    file_.alignment_ = static_cast<uint32_t>(number);
    return {};
  }

  Status ReadTensor(uint64_t index, std::vector<uint64_t>& offsets) {
    GgufTensor tensor;
    MLA_RETURN_IF_ERROR(ReadName(kMaxNameBytes, tensor.name, "the name of tensor ", index));
    MLA_RETURN_IF_ERROR(ReadShape(tensor));
    uint32_t type = 0;
    uint64_t offset = 0;
    MLA_RETURN_IF_ERROR(Read(type, "tensor ", Quote(tensor.name)));
    MLA_RETURN_IF_ERROR(Read(offset, "tensor ", Quote(tensor.name)));
    tensor.type = FindGgufTensorType(type);
    if (tensor.type == nullptr || tensor.type->block_bytes == 0) {
      return Unsupported(file_.path_, ": tensor ", Quote(tensor.name), " has type ",
                         tensor.type == nullptr ? std::to_string(type) : tensor.type->name,
                         ", want one of ", ReadableGgufTensorTypes());
    }
    if (!file_.names_.emplace(tensor.name, file_.tensors_.size()).second) {
      return Bad("has two tensors ", Quote(tensor.name));
    }
    file_.tensors_.push_back(std::move(tensor));
    offsets.push_back(offset);
    return {};
  }

  Status ReadShape(GgufTensor& tensor) {
    uint32_t dims = 0;
    MLA_RETURN_IF_ERROR(Read(dims, "tensor ", Quote(tensor.name)));
    if (dims < 1 || dims > kMaxDims) {
      return Bad("tensor ", Quote(tensor.name), " has ", dims, " dimensions, want 1 to ", kMaxDims);
    }
    for (uint32_t i = 0; i < dims; ++i) {
      uint64_t dim = 0;
      MLA_RETURN_IF_ERROR(Read(dim, "tensor ", Quote(tensor.name)));
      if (dim < 1 || dim > static_cast<uint64_t>(INT64_MAX)) {
        return Bad("tensor ", Quote(tensor.name), " has dimension ", i, " of ", dim, ", want 1 to ",
                   INT64_MAX);
      }
      tensor.shape.push_back(static_cast<int64_t>(dim));  // fastest first, as in the file
    }
    std::reverse(tensor.shape.begin(), tensor.shape.end());
    return {};
  }

  Result<int64_t> TensorBytes(const GgufTensor& tensor) const {
    const GgufTensorType& type = *tensor.type;
    if (tensor.shape.back() % type.block_elements != 0) {
      return Bad("tensor ", Quote(tensor.name), " has rows of ", tensor.shape.back(),
                 " elements, want a multiple of ", type.block_elements, " for ", type.name);
    }
    std::optional<int64_t> elements = 1;
    for (const int64_t dim : tensor.shape) {
      if (elements) elements = CheckedMul(*elements, dim);
    }
    std::optional<int64_t> bytes;
    if (elements) bytes = CheckedMul(*elements / type.block_elements, type.block_bytes);
    // Floats decoded from it must have a size too.
    if (!bytes || !CheckedMul(*elements, sizeof(float))) {
      return Bad("tensor ", Quote(tensor.name), " of shape ", ShapeString(tensor.shape),
                 " overflows a 64-bit size");
    }
    return *bytes;
  }

  // The data begin at the next multiple of the alignment.
  Status PlaceTensors(const std::vector<uint64_t>& offsets) {
    const uint64_t alignment = file_.alignment_;
    const uint64_t begin = (position_ + alignment - 1) / alignment * alignment;
    const uint64_t size = bytes_.size() > begin ? bytes_.size() - begin : 0;
    std::vector<std::pair<uint64_t, size_t>> order;
    for (size_t i = 0; i < offsets.size(); ++i) {
      GgufTensor& tensor = file_.tensors_[i];
      MLA_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(tensor));
      if (offsets[i] % alignment != 0) {
        return Bad("tensor ", Quote(tensor.name), " lies at ", offsets[i],
                   ", want a multiple of the alignment, ", alignment);
      }
      const bool inside = offsets[i] <= size && static_cast<uint64_t>(bytes) <= size - offsets[i];
      if (!inside && whole_) {
        return Bad("tensor ", Quote(tensor.name), " takes ", bytes, " bytes at ", offsets[i],
                   ", but the data end at ", size);
      }
      if (inside) tensor.data = bytes_.subspan(begin + offsets[i], bytes);
      file_.data_bytes_ += bytes;
      order.emplace_back(offsets[i], i);
    }
    std::sort(order.begin(), order.end());
    for (size_t i = 1; i < order.size(); ++i) {
      const GgufTensor& previous = file_.tensors_[order[i - 1].second];
      if (order[i].first < order[i - 1].first + previous.data.size()) {
        return Bad("tensors ", Quote(previous.name), " and ",
                   Quote(file_.tensors_[order[i].second].name), " overlap");
      }
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  bool whole_;
  GgufFile& file_;
  uint64_t position_ = 0;
};

Result<GgufFile> GgufFile::Open(const std::string& path) {
  MLA_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  MLA_ASSIGN_OR_RETURN(GgufFile file, Parse(mapping.bytes(), path));
  file.mapping_ = std::move(mapping);
  return file;
}

Result<GgufFile> GgufFile::Parse(std::span<const std::byte> bytes, std::string name) {
  GgufFile file(std::move(name));
  MLA_RETURN_IF_ERROR(Parser(bytes, /*whole=*/true, file).Run());
  return file;
}

Result<GgufFile> GgufFile::ParseHeader(std::span<const std::byte> bytes, std::string name) {
  GgufFile file(std::move(name));
  MLA_RETURN_IF_ERROR(Parser(bytes, /*whole=*/false, file).Run());
  return file;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = names_.find(name);
  return found == names_.end() ? nullptr : &tensors_[found->second];
}

void GgufFile::Prefetch() const {
  if (mapping_) mapping_->Prefetch();
}

const GgufValue* GgufFile::Find(std::string_view key) const {
  const auto found = keys_.find(key);
  return found == keys_.end() ? nullptr : &metadata_[found->second].value;
}

Error GgufFile::BadValue(std::string_view key, std::string_view want) const {
  const GgufValue* value = Find(key);
  return CorruptFile(path_, ": ", key, " is ",
                     value == nullptr ? std::string("missing") : DescribeGguf(*value), ", want ",
                     want);
}

Result<int64_t> GgufFile::GetInt(std::string_view key, int64_t min, int64_t max) const {
  const GgufValue* value = Find(key);
  std::optional<int64_t> number;
  if (value != nullptr && !value->is_array) number = AsInt(value->type, value->bytes.data());
  if (!number || *number < min || *number > max) {
    return BadValue(key, Concat("an integer from ", min, " to ", max));
  }
  return *number;
}

Result<int64_t> GgufFile::GetIntOr(std::string_view key, int64_t fallback, int64_t min,
                                   int64_t max) const {
  return Find(key) == nullptr ? Result<int64_t>(fallback) : GetInt(key, min, max);
}

Result<double> GgufFile::GetFloat(std::string_view key, double min, double max) const {
  const GgufValue* value = Find(key);
  const std::optional<double> number = value == nullptr ? std::nullopt : AsFloat(*value);
  if (!number || !(*number >= min && *number <= max)) {
    return BadValue(key, Concat("a number from ", min, " to ", max));
  }
  return *number;
}

Result<double> GgufFile::GetFloatOr(std::string_view key, double fallback, double min,
                                    double max) const {
  return Find(key) == nullptr ? Result<double>(fallback) : GetFloat(key, min, max);
}

Result<bool> GgufFile::GetBoolOr(std::string_view key, bool fallback) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_array || value->type != GgufType::kBool) return BadValue(key, "true or false");
  return std::to_integer<int>(value->bytes[0]) != 0;
}

Result<std::string_view> GgufFile::GetString(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr || value->is_array || value->type != GgufType::kString) {
    return BadValue(key, "a string");
  }
  return AsText(value->bytes);
}

Result<std::string_view> GgufFile::GetStringOr(std::string_view key,
                                               std::string_view fallback) const {
  return Find(key) == nullptr ? Result<std::string_view>(fallback) : GetString(key);
}

Result<std::vector<std::string_view>> GgufFile::GetStrings(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr || !value->is_array || value->type != GgufType::kString) {
    return BadValue(key, "an array of strings");
  }
  std::vector<std::string_view> strings;
  strings.reserve(value->count);
  std::span<const std::byte> rest = value->bytes;
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto length = Load<uint64_t>(rest.data());
    strings.push_back(AsText(rest.subspan(sizeof(length), length)));
    rest = rest.subspan(sizeof(length) + length);
  }
  return strings;
}

Result<std::vector<int32_t>> GgufFile::GetInts(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr || !value->is_array ||
      (value->type != GgufType::kI32 && value->type != GgufType::kU32)) {
    return BadValue(key, "an array of i32 or u32");
  }
  std::vector<int32_t> numbers(value->count);
  if (!numbers.empty()) std::memcpy(numbers.data(), value->bytes.data(), value->bytes.size());
  return numbers;
}

Result<std::vector<float>> GgufFile::GetFloats(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr || !value->is_array || value->type != GgufType::kF32) {
    return BadValue(key, "an array of f32");
  }
  std::vector<float> numbers(value->count);
  if (!numbers.empty()) std::memcpy(numbers.data(), value->bytes.data(), value->bytes.size());
  return numbers;
}

std::string DescribeGguf(const GgufValue& value) {
  if (value.is_array) return Concat("an array of ", value.count, " ", GgufTypeName(value.type));
  if (value.type == GgufType::kString) {
    const std::string_view text = AsText(value.bytes);
    return Quote(text.substr(0, ValidUtf8Prefix(text.substr(0, 96))));
  }
  if (value.type == GgufType::kBool) return std::to_integer<int>(value.bytes[0]) ? "true" : "false";
  if (value.type == GgufType::kU64) return std::to_string(Load<uint64_t>(value.bytes.data()));
  const std::optional<double> number = AsFloat(value);
  const std::optional<int64_t> integer = AsInt(value.type, value.bytes.data());
  return integer ? std::to_string(*integer) : Concat(*number);
}

}  // namespace mla
