#include "io/tokenizer/vocabulary.h"

#include <bit>
#include <functional>

#include "base/check.h"
#include "io/json.h"

namespace mla {

void Vocabulary::Reserve(size_t count, size_t bytes) {
  text_.reserve(bytes);
  entries_.reserve(count);
  if (2 * count > slots_.size()) Rehash(std::bit_ceil(2 * count + 16));
}

Status Vocabulary::Add(std::string_view piece, int64_t id) {
  if (id < 0 || id >= kMaxIds) {
    return CorruptFile("token ", Quote(piece), " has id ", id, ", want 0 to ", kMaxIds - 1);
  }
  if (Has(id)) {
    return CorruptFile("tokens ", Quote(Piece(static_cast<int32_t>(id))), " and ", Quote(piece),
                       " both have id ", id);
  }
  if (2 * (count_ + 1) > slots_.size()) Rehash(std::bit_ceil(4 * (count_ + 8)));
  const size_t slot = SlotOf(piece);
  if (slots_[slot] >= 0) {
    return CorruptFile("token ", Quote(piece), " has both id ", slots_[slot], " and id ", id);
  }
  if (text_.size() + piece.size() > UINT32_MAX) {
    return CorruptFile("the vocabulary's text is larger than ", UINT32_MAX, " bytes");
  }
  if (static_cast<size_t>(id) >= entries_.size()) entries_.resize(id + 1);
  entries_[id] = {static_cast<uint32_t>(text_.size()), static_cast<int32_t>(piece.size())};
  text_.insert(text_.end(), piece.begin(), piece.end());
  slots_[slot] = static_cast<int32_t>(id);
  ++count_;
  return {};
}

int32_t Vocabulary::Find(std::string_view piece) const {
  return slots_.empty() ? -1 : slots_[SlotOf(piece)];
}

bool Vocabulary::Has(int64_t id) const {
  return id >= 0 && id < static_cast<int64_t>(entries_.size()) && entries_[id].length >= 0;
}

std::string_view Vocabulary::Piece(int32_t id) const {
  MLA_CHECK(Has(id), "token id ", id);
  return {text_.data() + entries_[id].offset, static_cast<size_t>(entries_[id].length)};
}

// The slot that holds `piece`, or the empty one where it belongs.
size_t Vocabulary::SlotOf(std::string_view piece) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = std::hash<std::string_view>()(piece) & mask;
  while (slots_[slot] >= 0 && Piece(slots_[slot]) != piece) slot = (slot + 1) & mask;
  return slot;
}

void Vocabulary::Rehash(size_t slots) {
  slots_.assign(slots, -1);
  for (int32_t id = 0; id < end_id(); ++id) {
    if (Has(id)) slots_[SlotOf(Piece(id))] = id;
  }
}

}  // namespace mla
