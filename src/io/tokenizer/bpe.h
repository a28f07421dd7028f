// Byte-pair encoding with the semantics of Hugging Face's BPE model (Sennrich et al., arXiv
// 1508.07909): the adjacent pair of the lowest rank is merged first, the leftmost of equals.
#ifndef MLA_IO_TOKENIZER_BPE_H_
#define MLA_IO_TOKENIZER_BPE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/json_fields.h"
#include "io/tokenizer/vocabulary.h"
#include "mla/result.h"

namespace mla {

// Words seen lately and their tokens: text repeats its words. Of fixed size: a new word takes the
// place of an older one.
class BpeCache {
 public:
  // True, and the tokens appended, if `word` is known.
  bool Lookup(std::string_view word, uint64_t hash, std::vector<int32_t>* ids) const;
  void Insert(std::string_view word, uint64_t hash, const int32_t* ids, size_t count);

 private:
  static constexpr size_t kMaxBytes = 30, kMaxIds = 8, kSlots = 1 << 14;
  struct alignas(64) Slot {  // one cache line
    uint8_t length = 0;      // of the word; 0: empty
    uint8_t count = 0;
    char word[kMaxBytes];
    int32_t ids[kMaxIds];
  };
  mutable std::vector<Slot> slots_;
};

// The working memory of one caller.
struct BpeScratch {
  struct Symbol {
    int32_t id;
    int32_t previous, next;  // -1: none
  };
  struct Candidate {  // a pair that may be merged: (symbols[position], the one after)
    int32_t rank, position, id;
  };
  BpeCache cache;
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::string mapped;
};

// Immutable after construction: encoding is thread-safe with a scratch per thread.
class BpeModel {
 public:
  // `model` is tokenizer.json's "model". kUnsupported for dropout, word affixes and other models;
  // kCorruptFile for contradictory vocabularies and merges. byte_level: words will come as raw
  // bytes that stand for their code points in GPT-2's alphabet.
  static Result<BpeModel> FromJson(const Json& model, bool byte_level);

  // Appends the tokens of a non-empty word, valid UTF-8 or (byte_level) its bytes. O(n log n).
  // Characters that neither the vocabulary, byte tokens nor an unknown token cover are dropped.
  void Encode(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    uint64_t pair = kNoPair;  // (left id) << 32 | right id
    int32_t rank = 0, id = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  Status ReadOptions(const Json& model);
  Status ReadVocabulary(const Json& vocab);
  Status ReadMerges(const Json& merges);
  Status AddMerge(std::string_view left, std::string_view right, int32_t rank);
  const Merge* FindMerge(int32_t left, int32_t right) const;  // null: the pair does not merge

  void EncodeUncached(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* ids) const;
  void AppendSymbols(std::string_view word, std::vector<int32_t>* ids) const;
  size_t MergeShort(int32_t* ids, size_t count) const;
  size_t MergeLong(int32_t* ids, size_t count, BpeScratch* scratch) const;

  Vocabulary vocabulary_;
  std::vector<Merge> merges_;  // open addressing, a power of two, at most half full
  bool byte_level_ = false;
  bool byte_fallback_ = false, ignore_merges_ = false, fuse_unk_ = false;
  int32_t unk_id_ = -1;
  std::array<int32_t, 256> byte_tokens_{};   // ids of <0x00> to <0xFF>; -1: none
  std::array<int32_t, 256> byte_symbols_{};  // ids of GPT-2's alphabet; -1: none
  bool all_byte_symbols_ = false;
};

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_BPE_H_
