// The two-way map between token ids and their text.
#ifndef MLA_IO_TOKENIZER_VOCABULARY_H_
#define MLA_IO_TOKENIZER_VOCABULARY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla {

// Immutable once filled; then reading is thread-safe. Ids may have gaps.
class Vocabulary {
 public:
  static constexpr int32_t kMaxIds = 1 << 21;  // an id past it is taken for damage

  // Room for `count` pieces of `bytes` bytes in all: adding within it never moves memory.
  void Reserve(size_t count, size_t bytes);

  // kCorruptFile if the id is negative, too large or taken, or the piece is there already.
  Status Add(std::string_view piece, int64_t id);

  int32_t Find(std::string_view piece) const;  // -1: not there
  bool Has(int64_t id) const;
  std::string_view Piece(int32_t id) const;  // requires Has(id); valid until the next Add
  int32_t end_id() const { return static_cast<int32_t>(entries_.size()); }  // largest id + 1
  size_t size() const { return count_; }

 private:
  struct Entry {
    uint32_t offset = 0;
    int32_t length = -1;  // -1: a gap
  };
  size_t SlotOf(std::string_view piece) const;
  void Rehash(size_t slots);

  std::vector<char> text_;
  std::vector<Entry> entries_;  // by id
  std::vector<int32_t> slots_;  // id or -1; a power of two, open addressing, at most half full
  size_t count_ = 0;
};

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_VOCABULARY_H_
