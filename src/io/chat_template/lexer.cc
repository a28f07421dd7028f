#include "io/chat_template/lexer.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "io/json.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/unicode.h"

namespace mla::jinja {
namespace {

// Line ends become \n, and one at the end of the template is dropped.
std::string NormalizeLines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      text += '\n';
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

int HexDigit(char c) {
  if (IsDigit(c)) return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

class Lexer {
 public:
  explicit Lexer(const std::string& source) : source_(source) {}

  Result<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      const size_t tag = FindTag();
      if (tag == source_.npos) {
        Add(TokenKind::kText, std::string(Rest()));
        break;
      }
      MLA_RETURN_IF_ERROR(Tag(tag));
    }
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool At(std::string_view what) const { return Rest().starts_with(what); }

  // The line of at_; positions only grow.
  int Line() {
    const auto from = source_.begin() + static_cast<ptrdiff_t>(counted_);
    const size_t end = std::max(counted_, at_);
    line_ +=
        static_cast<int>(std::count(from, source_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    counted_ = end;
    return line_;
  }

  Error ErrorHere(std::string_view reason) { return CorruptFile("line ", Line(), ": ", reason); }

  void Add(TokenKind kind, std::string text) { tokens_.push_back({kind, Line(), std::move(text)}); }

  size_t FindTag() const {
    for (size_t i = at_; (i = source_.find('{', i)) != source_.npos; ++i) {
      const char next = i + 1 < source_.size() ? source_[i + 1] : '\0';
      if (next == '%' || next == '{' || next == '#') return i;
    }
    return source_.npos;
  }

  // What stands before a tag, less the white space that the tag's sign or lstrip_blocks removes.
  std::string_view TextBefore(size_t tag, char sign, bool is_output) const {
    std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    if (sign == '-') return StripRight(text);
    if (sign == '+' || is_output) return text;
    const size_t line_start = text.rfind('\n') + 1;  // npos + 1 is 0
    if (line_start == 0 && !line_starting_) return text;
    if (StripLeft(text.substr(line_start)).empty()) return text.substr(0, line_start);
    return text;
  }

  // Moves past the end of a tag and the white space it takes with it.
  void EndTag(size_t end_size, bool strip, bool trim_line_end) {
    at_ += end_size;
    if (strip) {
      at_ = source_.size() - StripLeft(Rest()).size();
    } else if (trim_line_end && At("\n")) {
      ++at_;
    }
    line_starting_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  // The end of a block or comment at at_: "%}", with a sign before it or not. 0 if there is none.
  bool TryEnd(std::string_view end, bool trim_line_end) {
    if (At(end)) {
      EndTag(end.size(), false, trim_line_end);
    } else if (At("-") && Rest().substr(1).starts_with(end)) {
      EndTag(end.size() + 1, true, false);
    } else if (At("+") && trim_line_end && Rest().substr(1).starts_with(end)) {
      EndTag(end.size() + 1, false, false);
    } else {
      return false;
    }
    return true;
  }

  Status Tag(size_t tag) {
    const char type = source_[tag + 1];
    const char after = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const char sign = after == '-' || after == '+' ? after : '\0';
    const std::string_view text = TextBefore(tag, sign, type == '{');
    if (!text.empty()) Add(TokenKind::kText, std::string(text));
    at_ = tag + 2 + (sign != '\0' ? 1 : 0);
    if (type == '#') return Comment();
    if (type == '%' && IsRawBegin()) return Raw();
    Add(type == '%' ? TokenKind::kBlockBegin : TokenKind::kOutputBegin, "");
    return Inside(type == '%');
  }

  Status Comment() {
    const int line = Line();
    const size_t end = source_.find("#}", at_);
    if (end == source_.npos) return CorruptFile("line ", line, ": a comment that does not end");
    const bool sign = end > at_ && (source_[end - 1] == '-' || source_[end - 1] == '+');
    at_ = sign ? end - 1 : end;
    TryEnd("#}", true);
    return {};
  }

  bool IsRawBegin() {
    std::string_view rest = StripLeft(Rest());
    if (!rest.starts_with("raw")) return false;
    rest = StripLeft(rest.substr(3));
    return rest.starts_with("%}") || rest.starts_with("-%}");
  }

  Status Raw() {
    const int line = Line();
    at_ = source_.find('%', at_);
    if (source_[at_ - 1] == '-') --at_;
    TryEnd("%}", false);
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != source_.npos; tag += 2) {
      const char after = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      const char sign = after == '-' || after == '+' ? after : '\0';
      std::string_view rest = std::string_view(source_).substr(tag + (sign != '\0' ? 3 : 2));
      rest = StripLeft(rest);
      if (!rest.starts_with("endraw")) continue;
      rest = StripLeft(rest.substr(6));
      if (!rest.starts_with("%}") && !rest.starts_with("-%}") && !rest.starts_with("+%}")) continue;
      const std::string_view text = TextBefore(tag, sign, false);
      if (!text.empty()) Add(TokenKind::kText, std::string(text));
      at_ = source_.size() - rest.size();
      TryEnd("%}", true);
      return {};
    }
    return CorruptFile("line ", line, ": a raw block that does not end");
  }

  // The tokens of a block or an output, to its end.
  Status Inside(bool block) {
    const int line = Line();
    const std::string_view end = block ? "%}" : "}}";
    std::string brackets;  // open ones: an end is none within them
    for (;;) {
      at_ = source_.size() - StripLeft(Rest()).size();
      if (at_ >= source_.size()) {
        return CorruptFile("line ", line, ": ", block ? "{%" : "{{", " without ", end);
      }
      if (brackets.empty()) {
        const int end_line = Line();
        if (TryEnd(end, block)) {
          tokens_.push_back({block ? TokenKind::kBlockEnd : TokenKind::kOutputEnd, end_line, ""});
          return {};
        }
      }
      MLA_RETURN_IF_ERROR(One(&brackets));
    }
  }

  Status One(std::string* brackets) {
    const char c = source_[at_];
    if (IsNameStart(c)) return Name();
    if (IsDigit(c)) return Number();
    if (c == '"' || c == '\'') return String(c);
    for (const std::string_view op :
         {"//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[",
          "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"}) {
      if (!At(op)) continue;
      MLA_RETURN_IF_ERROR(Balance(op, brackets));
      Add(TokenKind::kOperator, std::string(op));
      at_ += op.size();
      return {};
    }
    const auto length = static_cast<size_t>(DecodeCodePoint(Rest()).length);
    return ErrorHere(Concat("unexpected character ", Quote(Rest().substr(0, length))));
  }

  Status Balance(std::string_view op, std::string* brackets) {
    constexpr size_t kMaxOpen = 256;
    const char c = op[0];
    if (c == '(' || c == '[' || c == '{') {
      if (brackets->size() >= kMaxOpen) {
        return ErrorHere(Concat("brackets nested deeper than ", kMaxOpen));
      }
      *brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (!brackets->ends_with(c)) {
        return ErrorHere(brackets->empty()
                             ? Concat("unexpected '", c, "'")
                             : Concat("unexpected '", c, "', want '", brackets->back(), "'"));
      }
      brackets->pop_back();
    }
    return {};
  }

  Status Name() {
    size_t end = at_;
    while (end < source_.size() && (IsNameStart(source_[end]) || IsDigit(source_[end]))) ++end;
    Add(TokenKind::kName, source_.substr(at_, end - at_));
    at_ = end;
    return {};
  }

  Status Number() {
    size_t end = at_;
    bool is_float = false;
    const auto digits = [&] {
      while (end < source_.size() && (IsDigit(source_[end]) || source_[end] == '_')) ++end;
    };
    digits();
    if (end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1])) {
      is_float = true;
      ++end;
      digits();
    }
    if (end < source_.size() && (source_[end] | 0x20) == 'e') {
      const size_t sign =
          end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-');
      if (end + 1 + sign < source_.size() && IsDigit(source_[end + 1 + sign])) {
        is_float = true;
        end += 1 + sign;
        digits();
      }
    }
    if (end < source_.size() && IsNameStart(source_[end])) {
      return ErrorHere(Concat("the number ", Quote(source_.substr(at_, end + 1 - at_)),
                              " is none; only decimal numbers are supported"));
    }
    std::string text = source_.substr(at_, end - at_);
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    Token token{is_float ? TokenKind::kFloat : TokenKind::kInteger, Line(), text};
    const char *begin = text.data(), *stop = begin + text.size();
    const auto result = is_float ? std::from_chars(begin, stop, token.number)
                                 : std::from_chars(begin, stop, token.integer);
    if (result.ec != std::errc())
      return ErrorHere(Concat("the number ", Quote(text), " is too large"));
    tokens_.push_back(std::move(token));
    at_ = end;
    return {};
  }

  Status String(char quote) {
    const int line = Line();
    std::string text;
    for (size_t i = at_ + 1; i < source_.size();) {
      if (source_[i] == quote) {
        tokens_.push_back({TokenKind::kString, line, std::move(text)});
        at_ = i + 1;
        return {};
      }
      if (source_[i] != '\\') {
        text += source_[i++];
      } else if (++i < source_.size()) {
        MLA_RETURN_IF_ERROR(Escape(&i, &text));
      }
    }
    return CorruptFile("line ", line, ": a string that does not end");
  }

  // What follows a backslash, as in Python's strings; *i moves past it.
  Status Escape(size_t* i, std::string* out) {
    constexpr std::string_view kSimple = "\\'\"abfnrtv";
    constexpr std::string_view kMeaning = "\\'\"\a\b\f\n\r\t\v";
    const char c = source_[*i];
    if (c == '\n') {  // goes on in the next line
      ++*i;
    } else if (const size_t at = kSimple.find(c); at != kSimple.npos) {
      *out += kMeaning[at];
      ++*i;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      return CodeEscape(c == 'x' ? 2 : c == 'u' ? 4 : 8, i, out);
    } else if (c >= '0' && c <= '7') {
      char32_t code = 0;
      for (int n = 0; n < 3 && *i < source_.size() && source_[*i] >= '0' && source_[*i] <= '7';
           ++n) {
        code = code * 8 + static_cast<char32_t>(source_[(*i)++] - '0');
      }
      AppendUtf8(code, out);
    } else if (c == 'N') {
      return Unsupported("line ", Line(), ": \\N in a string is not supported");
    } else {
      *out += '\\';  // and the character stays
    }
    return {};
  }

  Status CodeEscape(int digits, size_t* i, std::string* out) {
    char32_t code = 0;
    for (int n = 1; n <= digits; ++n) {
      const int digit = *i + n < source_.size() ? HexDigit(source_[*i + n]) : -1;
      if (digit < 0) return ErrorHere(Concat("\\", source_[*i], " needs ", digits, " hex digits"));
      code = code * 16 + static_cast<char32_t>(digit);
    }
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
      return ErrorHere("an escape in a string is no character");
    }
    AppendUtf8(code, out);
    *i += static_cast<size_t>(digits) + 1;
    return {};
  }

  const std::string& source_;
  size_t at_ = 0;
  size_t counted_ = 0;  // of the source, for line_
  int line_ = 1;
  bool line_starting_ = true;  // at_ is the beginning of a line
  std::vector<Token> tokens_;
};

}  // namespace

bool IsPythonSpace(char32_t code) { return (code >= 0x1c && code <= 0x1f) || IsWhiteSpace(code); }

std::string_view StripLeft(std::string_view text) {
  while (!text.empty()) {
    const CodePoint code = DecodeCodePoint(text);
    if (!IsPythonSpace(code.value)) break;
    text.remove_prefix(static_cast<size_t>(code.length));
  }
  return text;
}

std::string_view StripRight(std::string_view text) {
  while (!text.empty()) {
    const size_t begin = PreviousCodePoint(text, text.size());
    if (!IsPythonSpace(DecodeCodePoint(text.substr(begin)).value)) break;
    text = text.substr(0, begin);
  }
  return text;
}

Result<std::vector<Token>> Tokenize(std::string_view source) {
  MLA_RETURN_IF_ERROR(ValidateUtf8(source));
  const std::string text = NormalizeLines(source);
  return Lexer(text).Run();
}

}  // namespace mla::jinja
