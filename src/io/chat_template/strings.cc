// Operations on text, each byte keeping its origin.
#include <string.h>

#include <algorithm>

#include "io/chat_template/functions.h"
#include "io/chat_template/lexer.h"
#include "io/json.h"
#include "io/tokenizer/unicode.h"
#include "utf8proc.h"

namespace mla::jinja {
namespace {

using Map32 = utf8proc_int32_t (*)(utf8proc_int32_t);

// Each character mapped; those of more than one character in upper case are few and listed.
void AppendMapped(const Text& text, size_t begin, size_t end, Map32 map, Text* out) {
  for (size_t at = begin; at < end;) {
    const CodePoint code = DecodeCodePoint(std::string_view(text.bytes()).substr(at));
    std::string mapped;
    if (code.value == 0xdf && map == utf8proc_toupper) {
      mapped = "SS";
    } else {
      AppendUtf8(static_cast<char32_t>(map(static_cast<utf8proc_int32_t>(code.value))), &mapped);
    }
    out->Append(mapped, text.origins()[at]);
    at += static_cast<size_t>(code.length);
  }
}

bool IsLineEnd(char32_t code) {
  return (code >= 0x0a && code <= 0x0d) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
         code == 0x2028 || code == 0x2029;
}

std::string TwoDigits(int value) { return Concat(value < 10 ? "0" : "", value); }

}  // namespace

size_t FindBytes(std::string_view text, std::string_view what, size_t from) {
  if (from > text.size()) return text.npos;
  if (what.empty()) return from;
  const void* found = ::memmem(text.data() + from, text.size() - from, what.data(), what.size());
  if (found == nullptr) return text.npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

Text Strip(const Text& text, bool left, bool right, const std::optional<Text>& characters) {
  std::u32string set;
  if (characters) {
    for (size_t at = 0; at < characters->size();) {
      const CodePoint code = DecodeCodePoint(std::string_view(characters->bytes()).substr(at));
      set += code.value;
      at += static_cast<size_t>(code.length);
    }
  }
  const auto strips = [&](char32_t code) {
    return characters ? set.find(code) != set.npos : IsPythonSpace(code);
  };
  const std::string_view bytes = text.bytes();
  size_t begin = 0, end = bytes.size();
  while (left && begin < end) {
    const CodePoint code = DecodeCodePoint(bytes.substr(begin));
    if (!strips(code.value)) break;
    begin += static_cast<size_t>(code.length);
  }
  while (right && begin < end) {
    const size_t last = PreviousCodePoint(bytes, end);
    if (!strips(DecodeCodePoint(bytes.substr(last)).value)) break;
    end = last;
  }
  return text.Slice(begin, end);
}

Text ReplaceAll(const Text& text, const Text& from, const Text& to, int64_t count) {
  Text out;
  size_t at = 0;
  if (from.empty()) {  // before each character, and at the end
    for (const Text& character : SplitCharacters(text)) {
      if (count-- != 0) out.Append(to);
      out.Append(character);
    }
    if (count != 0) out.Append(to);
    return out;
  }
  while (count-- != 0) {
    const size_t found = FindBytes(text.bytes(), from.bytes(), at);
    if (found == std::string::npos) break;
    out.Append(text, at, found);
    out.Append(to);
    at = found + from.size();
  }
  out.Append(text, at, text.size());
  return out;
}

Text ToUpper(const Text& text) {
  Text out;
  AppendMapped(text, 0, text.size(), utf8proc_toupper, &out);
  return out;
}

Text ToLower(const Text& text) {
  Text out;
  AppendMapped(text, 0, text.size(), utf8proc_tolower, &out);
  return out;
}

Text Capitalize(const Text& text) {
  if (text.empty()) return text;
  const auto first = static_cast<size_t>(DecodeCodePoint(text.bytes()).length);
  Text out;
  AppendMapped(text, 0, first, utf8proc_totitle, &out);
  AppendMapped(text, first, text.size(), utf8proc_tolower, &out);
  return out;
}

Text TitleWords(const Text& text) {
  Text out;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint code = DecodeCodePoint(std::string_view(text.bytes()).substr(at));
    const size_t end = at + static_cast<size_t>(code.length);
    AppendMapped(text, at, end, in_word ? utf8proc_tolower : utf8proc_totitle, &out);
    const utf8proc_category_t kind = utf8proc_category(static_cast<utf8proc_int32_t>(code.value));
    in_word = kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL ||
              kind == UTF8PROC_CATEGORY_LT;
    at = end;
  }
  return out;
}

std::vector<Text> SplitLines(const Text& text, bool keep_ends) {
  std::vector<Text> lines;
  const std::string_view bytes = text.bytes();
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    const CodePoint code = DecodeCodePoint(bytes.substr(at));
    size_t next = at + static_cast<size_t>(code.length);
    if (IsLineEnd(code.value)) {
      if (code.value == '\r' && next < bytes.size() && bytes[next] == '\n') ++next;
      lines.push_back(text.Slice(begin, keep_ends ? next : at));
      begin = next;
    }
    at = next;
  }
  if (begin < bytes.size()) lines.push_back(text.Slice(begin, bytes.size()));
  return lines;
}

Result<std::string> FormatTime(std::string_view format, const std::tm& time) {
  constexpr std::string_view kDays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                        "Thursday", "Friday", "Saturday"};
  constexpr std::string_view kMonths[] = {"January",   "February", "March",    "April",
                                          "May",       "June",     "July",     "August",
                                          "September", "October",  "November", "December"};
  const std::string_view day = kDays[std::clamp(time.tm_wday, 0, 6)];
  const std::string_view month = kMonths[std::clamp(time.tm_mon, 0, 11)];
  const int hour12 = time.tm_hour % 12 == 0 ? 12 : time.tm_hour % 12;
  const int year = time.tm_year + 1900;
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const bool unpadded = i + 1 < format.size() && format[i + 1] == '-';
    i += unpadded ? 2 : 1;
    const char directive = i < format.size() ? format[i] : '\0';
    const auto number = [&](int value) {
      return unpadded ? std::to_string(value) : TwoDigits(value);
    };
    switch (directive) {
      case 'a': out += day.substr(0, 3); break;
      case 'A': out += day; break;
      case 'b': out += month.substr(0, 3); break;
      case 'B': out += month; break;
      case 'd': out += number(time.tm_mday); break;
      case 'm': out += number(time.tm_mon + 1); break;
      case 'y': out += number(year % 100); break;
      case 'Y': out += std::to_string(year); break;
      case 'H': out += number(time.tm_hour); break;
      case 'I': out += number(hour12); break;
      case 'M': out += number(time.tm_min); break;
      case 'S': out += number(time.tm_sec); break;
      case 'p': out += time.tm_hour < 12 ? "AM" : "PM"; break;
      case 'j': {
        const std::string yday = std::to_string(time.tm_yday + 1);
        out += unpadded ? yday : std::string(3 - std::min<size_t>(3, yday.size()), '0') + yday;
        break;
      }
      case 'F':
        out += Concat(year, "-", TwoDigits(time.tm_mon + 1), "-", TwoDigits(time.tm_mday));
        break;
      case 'T':
        out += Concat(TwoDigits(time.tm_hour), ":", TwoDigits(time.tm_min), ":",
                      TwoDigits(time.tm_sec));
        break;
      case '%': out += '%'; break;
      default:
        return Unsupported("strftime_now: the directive ",
                           Quote(directive == '\0' ? "%" : std::string{'%', directive}),
                           " is not supported");
    }
  }
  return out;
}

}  // namespace mla::jinja
