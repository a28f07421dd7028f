#include "io/tokenizer/sentencepiece_model.h"

#include <bit>
#include <cstring>

namespace mla {
namespace {

// One field of a message: a number, or the bytes of a text or a message within.
struct Field {
  uint32_t number = 0;
  uint64_t value = 0;  // of varints and of 32- and 64-bit numbers, as bits
  std::string_view bytes;
};

class ProtoReader {
 public:
  explicit ProtoReader(std::string_view bytes) : rest_(bytes) {}

  bool done() const { return rest_.empty(); }

  Result<Field> Next() {
    constexpr uint64_t kVarint = 0, k64Bits = 1, kBytes = 2, k32Bits = 5;
    MLA_ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    Field field;
    field.number = static_cast<uint32_t>(tag >> 3);
    switch (tag & 7) {
      case kVarint: {
        MLA_ASSIGN_OR_RETURN(field.value, Varint());
        return field;
      }
      case k64Bits: return Fixed(field, 8);
      case k32Bits: return Fixed(field, 4);
      case kBytes: {
        MLA_ASSIGN_OR_RETURN(const uint64_t length, Varint());
        if (length > rest_.size()) return TooShort(length);
        field.bytes = rest_.substr(0, length);
        rest_.remove_prefix(length);
        return field;
      }
      default:
        return CorruptFile("SentencePiece model: wire type ", tag & 7, ", want 0, 1, 2 or 5");
    }
  }

 private:
  Error TooShort(uint64_t want) const {
    return CorruptFile("SentencePiece model: a field takes ", want, " bytes, but only ",
                       rest_.size(), " are left");
  }

  Result<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= uint64_t{byte & 127u} << shift;
      if (byte < 128) return value;
    }
    return CorruptFile("SentencePiece model: a number does not end");
  }

  Result<Field> Fixed(Field field, size_t size) {
    if (rest_.size() < size) return TooShort(size);
    std::memcpy(&field.value, rest_.data(), size);
    rest_.remove_prefix(size);
    return field;
  }

  std::string_view rest_;
};

// Calls take(field) for every field of a message.
template <typename Take>
Status ForEachField(std::string_view message, const Take& take) {
  ProtoReader reader(message);
  while (!reader.done()) {
    MLA_ASSIGN_OR_RETURN(const Field field, reader.Next());
    MLA_RETURN_IF_ERROR(take(field));
  }
  return {};
}

}  // namespace

Result<SentencePieceModel> ReadSentencePieceModel(std::string_view bytes) {
  // Numbers of fields, from the library's published schema.
  constexpr uint32_t kPieces = 1, kTrainer = 2, kNormalizer = 3;
  constexpr uint32_t kText = 1, kScore = 2, kType = 3, kModelType = 3;
  constexpr uint32_t kDummyPrefix = 3, kExtraWhitespaces = 4;
  SentencePieceModel model;
  MLA_RETURN_IF_ERROR(ForEachField(bytes, [&](const Field& field) -> Status {
    if (field.number == kPieces) {
      SentencePieceModel::Piece& piece = model.pieces.emplace_back();
      return ForEachField(field.bytes, [&](const Field& part) -> Status {
        if (part.number == kText) piece.text = part.bytes;
        if (part.number == kScore) piece.score = std::bit_cast<float>(uint32_t(part.value));
        if (part.number == kType) piece.type = static_cast<int32_t>(part.value);
        return {};
      });
    }
    if (field.number == kTrainer) {
      return ForEachField(field.bytes, [&](const Field& part) -> Status {
        if (part.number == kModelType) model.kind = static_cast<int32_t>(part.value);
        return {};
      });
    }
    if (field.number == kNormalizer) {
      return ForEachField(field.bytes, [&](const Field& part) -> Status {
        if (part.number == kDummyPrefix) model.add_dummy_prefix = part.value != 0;
        if (part.number == kExtraWhitespaces) model.remove_extra_whitespaces = part.value != 0;
        return {};
      });
    }
    return {};
  }));
  return model;
}

}  // namespace mla
