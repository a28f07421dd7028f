// UTF-8 as the tokenizers need it: validation, lossy decoding, code points, GPT-2's byte alphabet.
#ifndef MLA_IO_TOKENIZER_UNICODE_H_
#define MLA_IO_TOKENIZER_UNICODE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mla {

// What the first bytes of a text are.
struct Utf8Step {
  enum Kind {
    kValid,       // one code point of `length` bytes
    kIncomplete,  // all `length` bytes that are left begin a code point
    kInvalid,     // `length` bytes that cannot be continued to one (Unicode's maximal subpart)
  };
  Kind kind;
  int length;  // 1 to 4
};
Utf8Step NextUtf8(std::string_view text);  // text must not be empty

// The number of bytes of the longest valid beginning of `text`.
size_t ValidUtf8Prefix(std::string_view text);

// The code point at the beginning of valid, non-empty text, and its bytes.
struct CodePoint {
  char32_t value;
  int length;
};
CodePoint DecodeCodePoint(std::string_view text);

// The first byte of the code point that ends just before `end` in valid text; requires end > 0.
inline size_t PreviousCodePoint(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xc0) == 0x80) --begin;
  return begin;
}

void AppendUtf8(char32_t value, std::string* out);

// Unicode's White_Space property: what Hugging Face's normalizers and added tokens strip.
bool IsWhiteSpace(char32_t value);

// Letters, marks, digits, connectors and joiners: what \w is to Rust's regex crate.
bool IsWordCharacter(char32_t value);

// Turns a stream of bytes into valid text: an incomplete code point is held back, bytes that belong
// to none become U+FFFD, one per maximal subpart (Rust, Hugging Face) or per byte (SentencePiece).
class Utf8Assembler {
 public:
  enum class Replace { kPerSubpart, kPerByte };
  explicit Utf8Assembler(Replace replace = Replace::kPerSubpart) : replace_(replace) {}

  void Push(std::string_view bytes, std::string* out);
  void Flush(std::string* out);  // what is held back can no longer be completed

 private:
  Replace replace_;
  std::string held_;  // at most 3 bytes between calls
};

// GPT-2's invertible map from bytes to printable code points, all below 324.
const std::array<char32_t, 256>& ByteLevelAlphabet();
int ByteOfAlphabet(char32_t value);  // -1: not in the alphabet
void AppendByteLevel(std::string_view bytes, std::string* out);

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_UNICODE_H_
