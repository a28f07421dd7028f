#include "io/tokenizer/unicode.h"

#include <utf8proc.h>

#include <cstring>

namespace mla {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// The bytes of a code point that begins with `lead`, and the range of its second byte (Unicode,
// table 3-7: it excludes overlong forms, surrogates and values past U+10FFFF).
struct Lead {
  int length;  // 0: not a lead byte
  uint8_t low, high;
};
Lead LeadOf(uint8_t lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xc2) return {0, 0, 0};
  if (lead < 0xe0) return {2, 0x80, 0xbf};
  if (lead == 0xe0) return {3, 0xa0, 0xbf};
  if (lead == 0xed) return {3, 0x80, 0x9f};
  if (lead < 0xf0) return {3, 0x80, 0xbf};
  if (lead == 0xf0) return {4, 0x90, 0xbf};
  if (lead < 0xf4) return {4, 0x80, 0xbf};
  if (lead == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

struct Alphabet {
  std::array<char32_t, 256> of_byte;
  std::array<int16_t, 324> byte_of;
};

const Alphabet& TheAlphabet() {
  static const Alphabet kAlphabet = [] {
    Alphabet alphabet;
    alphabet.byte_of.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      const char32_t value = printable ? static_cast<char32_t>(b) : next++;
      alphabet.of_byte[b] = value;
      alphabet.byte_of[value] = static_cast<int16_t>(b);
    }
    return alphabet;
  }();
  return kAlphabet;
}

}  // namespace

Utf8Step NextUtf8(std::string_view text) {
  const Lead lead = LeadOf(static_cast<uint8_t>(text[0]));
  if (lead.length == 0) return {Utf8Step::kInvalid, 1};
  uint8_t low = lead.low, high = lead.high;
  for (int i = 1; i < lead.length; ++i) {
    if (static_cast<size_t>(i) == text.size()) return {Utf8Step::kIncomplete, i};
    const auto byte = static_cast<uint8_t>(text[i]);
    if (byte < low || byte > high) return {Utf8Step::kInvalid, i};
    low = 0x80;
    high = 0xbf;
  }
  return {Utf8Step::kValid, lead.length};
}

size_t ValidUtf8Prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    uint64_t eight;
    while (i + sizeof(eight) <= text.size()) {  // skip ASCII eight bytes at a time
      std::memcpy(&eight, text.data() + i, sizeof(eight));
      if ((eight & 0x8080808080808080u) != 0) break;
      i += sizeof(eight);
    }
    if (i == text.size()) break;
    const Utf8Step step = NextUtf8(text.substr(i));
    if (step.kind != Utf8Step::kValid) break;
    i += step.length;
  }
  return i;
}

CodePoint DecodeCodePoint(std::string_view text) {
  const auto byte = [&](int i) { return static_cast<char32_t>(static_cast<uint8_t>(text[i])); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xe0) return {((lead & 0x1f) << 6) | (byte(1) & 0x3f), 2};
  if (lead < 0xf0) {
    return {((lead & 0x0f) << 12) | ((byte(1) & 0x3f) << 6) | (byte(2) & 0x3f), 3};
  }
  return {
      ((lead & 0x07) << 18) | ((byte(1) & 0x3f) << 12) | ((byte(2) & 0x3f) << 6) | (byte(3) & 0x3f),
      4};
}

void AppendUtf8(char32_t value, std::string* out) {
  const auto put = [out](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xc0 | (value >> 6));
    put(0x80 | (value & 0x3f));
  } else if (value < 0x10000) {
    put(0xe0 | (value >> 12));
    put(0x80 | ((value >> 6) & 0x3f));
    put(0x80 | (value & 0x3f));
  } else {
    put(0xf0 | (value >> 18));
    put(0x80 | ((value >> 12) & 0x3f));
    put(0x80 | ((value >> 6) & 0x3f));
    put(0x80 | (value & 0x3f));
  }
}

bool IsWhiteSpace(char32_t value) {
  if (value < 0x80) return value == ' ' || (value >= 9 && value <= 13);
  return value == 0x85 || value == 0xa0 || value == 0x1680 ||
         (value >= 0x2000 && value <= 0x200a) || value == 0x2028 || value == 0x2029 ||
         value == 0x202f || value == 0x205f || value == 0x3000;
}

bool IsWordCharacter(char32_t value) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(value))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: break;
  }
  // Joiners, and the letters in circles and squares: symbols that are alphabetic.
  return value == 0x200c || value == 0x200d || (value >= 0x24b6 && value <= 0x24e9) ||
         (value >= 0x1f130 && value <= 0x1f149) || (value >= 0x1f150 && value <= 0x1f169) ||
         (value >= 0x1f170 && value <= 0x1f189);
}

void Utf8Assembler::Push(std::string_view bytes, std::string* out) {
  std::string joined;
  if (!held_.empty()) {
    joined = held_ + std::string(bytes);
    held_.clear();
    bytes = joined;
  }
  while (!bytes.empty()) {
    const size_t valid = ValidUtf8Prefix(bytes);
    out->append(bytes.substr(0, valid));
    bytes.remove_prefix(valid);
    if (bytes.empty()) break;
    const Utf8Step step = NextUtf8(bytes);
    if (step.kind == Utf8Step::kIncomplete) {
      held_ = bytes;
      break;
    }
    out->append(kReplacement);
    bytes.remove_prefix(replace_ == Replace::kPerByte ? 1 : step.length);
  }
}

void Utf8Assembler::Flush(std::string* out) {
  const size_t count = replace_ == Replace::kPerByte ? held_.size() : !held_.empty();
  for (size_t i = 0; i < count; ++i) out->append(kReplacement);
  held_.clear();
}

const std::array<char32_t, 256>& ByteLevelAlphabet() { return TheAlphabet().of_byte; }

int ByteOfAlphabet(char32_t value) {
  const auto& byte_of = TheAlphabet().byte_of;
  return value < byte_of.size() ? byte_of[value] : -1;
}

void AppendByteLevel(std::string_view bytes, std::string* out) {
  const auto& alphabet = ByteLevelAlphabet();
  for (const char c : bytes) AppendUtf8(alphabet[static_cast<uint8_t>(c)], out);
}

}  // namespace mla
