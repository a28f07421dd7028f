// Oniguruma's Ruby syntax to PCRE2's. Where the two read a construct alike it is copied; where they
// differ it is rewritten, or refused by name: silently other tokens would be worse than an error.
#include <algorithm>
#include <cctype>
#include <string>

#include "io/json.h"
#include "io/tokenizer/regex.h"

namespace mla {
namespace {

// White_Space. PCRE2's own \s has U+180E too; as ranges it is also faster than the property.
constexpr std::string_view kSpaces =
    R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
// Oniguruma's: fractions and superscripts of Latin-1 are in it, those of other blocks are not.
constexpr std::string_view kWord =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";
constexpr std::string_view kHex = "0-9a-fA-F";

struct PropertyName {
  std::string_view ruby, pcre;
};
// Names of more than two letters that are not scripts.
constexpr PropertyName kProperties[] = {
    {"any", "Any"},
    {"letter", "L"},
    {"uppercase_letter", "Lu"},
    {"lowercase_letter", "Ll"},
    {"titlecase_letter", "Lt"},
    {"modifier_letter", "Lm"},
    {"other_letter", "Lo"},
    {"mark", "M"},
    {"nonspacing_mark", "Mn"},
    {"number", "N"},
    {"decimal_number", "Nd"},
    {"digit", "Nd"},
    {"punctuation", "P"},
    {"symbol", "S"},
    {"separator", "Z"},
    {"space_separator", "Zs"},
    {"control", "Cc"},
    {"alpha", "Alphabetic"},
    {"alphabetic", "Alphabetic"},
    {"upper", "Uppercase"},
    {"uppercase", "Uppercase"},
    {"lower", "Lowercase"},
    {"lowercase", "Lowercase"},
    {"space", "White_Space"},
    {"white_space", "White_Space"},
    {"emoji", "Emoji"},
    {"emoji_presentation", "Emoji_Presentation"},
    {"extended_pictographic", "Extended_Pictographic"},
};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> Run() {
    while (at_ < pattern_.size()) {
      MLA_RETURN_IF_ERROR(in_class_ ? ClassElement() : Element());
    }
    return std::move(out_);
  }

 private:
  char Peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  void Copy(size_t count) {
    out_ += pattern_.substr(at_, count);
    at_ = std::min(at_ + count, pattern_.size());
  }
  Error Refuse(std::string_view what) const {
    return Unsupported("regular expression ", Quote(pattern_), ": ", what, " at offset ", at_);
  }

  Status Element() {
    switch (Peek()) {
      case '\\': return Escape();
      case '[':
        in_class_ = true;
        Copy(Peek(1) == '^' ? 2 : 1);
        if (Peek() == ']') return Refuse("']' directly after '['");
        return {};
      case '(': return Group();
      case '{':
        if (Peek(1) == ',') return Refuse("'{,'");
        break;
      case '}':
        if (Peek(1) == '+') return Refuse("'}+'");  // a second quantifier there, possessive here
        break;
      default: break;
    }
    Copy(1);
    return {};
  }

  Status ClassElement() {
    switch (Peek()) {
      case '\\': return Escape();
      case '[': return Refuse("'[' in a class");
      case '&':
        if (Peek(1) == '&') return Refuse("'&&' in a class");
        break;
      case ']': in_class_ = false; break;
      default: break;
    }
    Copy(1);
    return {};
  }

  Status Group() {
    if (Peek(1) == '*') return Refuse("'(*'");
    if (Peek(1) != '?') {
      Copy(1);
      return {};
    }
    const char kind = Peek(2);
    if (kind == ':' || kind == '=' || kind == '!' || kind == '>') {
      Copy(3);
      return {};
    }
    if (kind == '<' && (Peek(3) == '=' || Peek(3) == '!')) {
      Copy(4);
      return {};
    }
    return Flags();
  }

  // (?i: or (?i). The latter only at the beginning: elsewhere the two scope it differently.
  Status Flags() {
    size_t end = at_ + 2;
    std::string flags = "(?";
    while (end < pattern_.size() && std::string_view("imx-").find(pattern_[end]) < 4) {
      flags += pattern_[end] == 'm' ? 's' : pattern_[end];  // Ruby's m: dot matches a newline
      ++end;
    }
    const char close = end < pattern_.size() ? pattern_[end] : '\0';
    if (flags.size() == 2 || (close != ':' && !(close == ')' && at_ == 0))) {
      return Refuse("this kind of group");
    }
    out_ += flags + close;
    at_ = end + 1;
    return {};
  }

  void Replace(size_t count, std::string_view set, bool negated) {
    if (in_class_) {
      out_ += set;
    } else {
      out_ += negated ? "[^" : "[";
      out_ += set;
      out_ += ']';
    }
    at_ += count;
  }

  Status Escape() {
    const char c = Peek(1);
    if (static_cast<unsigned char>(c) >= 0x80 || !std::isalnum(static_cast<unsigned char>(c))) {
      Copy(2);
      return {};
    }
    const bool negated = c == 'S' || c == 'W' || c == 'H';
    if (negated && in_class_) return Refuse("a negated escape in a class");
    switch (c) {
      case 's':
      case 'S': Replace(2, kSpaces, negated); return {};
      case 'w':
      case 'W': Replace(2, kWord, negated); return {};
      case 'h':
      case 'H': Replace(2, kHex, negated); return {};
      case 'v':
        out_ += "\\x0b";
        at_ += 2;
        return {};
      case 'p':
      case 'P': return Property();
      case 'u': return Hex(4);
      case 'x': return Peek(2) == '{' ? HexBraces() : Hex(2);
      default: break;
    }
    if (std::string_view(in_class_ ? "dnrtfaeb" : "dDnrtfaeAzZG").find(c) ==
        std::string_view::npos) {
      return Refuse(std::string("'\\") + c + "'");
    }
    Copy(2);
    return {};
  }

  Status Hex(size_t digits) {
    const std::string_view value = pattern_.substr(at_ + 2, digits);
    const bool good = value.size() == digits && std::all_of(value.begin(), value.end(), [](char d) {
                        return std::isxdigit(static_cast<unsigned char>(d));
                      });
    // Past 7f, \xHH is a byte there and a code point here.
    if (!good || (digits == 2 && value[0] > '7')) return Refuse("this hexadecimal escape");
    out_ += "\\x{";
    out_ += value;
    out_ += '}';
    at_ += 2 + digits;
    return {};
  }

  Status HexBraces() {
    const size_t close = pattern_.find('}', at_);
    if (close == std::string_view::npos) return Refuse("'\\x{' without '}'");
    Copy(close + 1 - at_);
    return {};
  }

  Status Property() {
    const size_t close = pattern_.find('}', at_);
    if (Peek(2) != '{' || close == std::string_view::npos) return Refuse("'\\p' without {NAME}");
    std::string_view name = pattern_.substr(at_ + 3, close - at_ - 3);
    std::string prefix(pattern_.substr(at_, 3));
    if (name.starts_with('^')) {
      prefix += '^';
      name.remove_prefix(1);
    }
    if (name.size() <= 2) {
      out_ += prefix + std::string(name) + '}';
    } else {
      std::string lower(name);
      for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      const auto* found = std::find_if(std::begin(kProperties), std::end(kProperties),
                                       [&](const PropertyName& p) { return p.ruby == lower; });
      // "sc:": PCRE2 takes a bare script name as the script's extensions, a larger set.
      out_ +=
          prefix +
          (found != std::end(kProperties) ? std::string(found->pcre) : "sc:" + std::string(name)) +
          '}';
    }
    at_ = close + 1;
    return {};
  }

  std::string_view pattern_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

Result<std::string> TranslateRegex(std::string_view pattern) { return Translator(pattern).Run(); }

}  // namespace mla
