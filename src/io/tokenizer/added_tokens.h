// tokenizer.json's added tokens: strings that are one token wherever they occur in text, found
// before anything else is done to it.
#ifndef MLA_IO_TOKENIZER_ADDED_TOKENS_H_
#define MLA_IO_TOKENIZER_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mla/result.h"

namespace mla {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = false;      // control tokens: left out of decoded text on request
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool single_word = false;  // not inside a word
  bool normalized = false;   // looked for in normalized text, not in the text as given
};

// A part of a text: a token, or text (id -1) to be encoded.
struct AddedSegment {
  std::string_view text;
  int32_t id;
};

// Finds the leftmost occurrence of any of a set of tokens, the longest where several begin.
// Immutable once filled: splitting is thread-safe.
class AddedTokenMatcher {
 public:
  // `content` is what is looked for: the token's, or its normal form. Empty is ignored.
  Status Add(const AddedToken& token, std::string_view content);

  // Appends the segments of valid UTF-8. Special tokens stay text unless parse_special.
  void Split(std::string_view text, bool parse_special, std::vector<AddedSegment>* segments) const;

 private:
  struct Match {
    size_t length;
    const AddedToken* token;
  };
  Match LongestAt(std::string_view text) const;  // length 0: none

  std::vector<AddedToken> tokens_;
  std::vector<int32_t> nodes_{-1};  // a trie over bytes: index into tokens_ or -1; 0 is the root
  std::unordered_map<uint64_t, int32_t> children_;  // node << 8 | byte
  std::array<bool, 256> begins_{};                  // a token begins with this byte
};

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_ADDED_TOKENS_H_
