// A template's text as tokens, white space between tags removed as transformers sets Jinja up:
// trim_blocks and lstrip_blocks.
#ifndef MLA_IO_CHAT_TEMPLATE_LEXER_H_
#define MLA_IO_CHAT_TEMPLATE_LEXER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla::jinja {

enum class TokenKind {
  kText,        // between tags
  kBlockBegin,  // {%
  kBlockEnd,
  kOutputBegin,  // {{
  kOutputEnd,
  kName,
  kString,  // unescaped
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;
  int64_t integer = 0;
  double number = 0;
};

// Ends with one kEnd. kCorruptFile with the line for what is no template.
Result<std::vector<Token>> Tokenize(std::string_view source);

// Without the white space, as Python's str.isspace has it, at the ends.
std::string_view StripLeft(std::string_view text);
std::string_view StripRight(std::string_view text);
bool IsPythonSpace(char32_t code);

}  // namespace mla::jinja

#endif  // MLA_IO_CHAT_TEMPLATE_LEXER_H_
