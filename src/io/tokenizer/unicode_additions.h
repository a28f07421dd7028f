// Characters younger than the Unicode tables of PCRE2.
#ifndef MLA_IO_TOKENIZER_UNICODE_ADDITIONS_H_
#define MLA_IO_TOKENIZER_UNICODE_ADDITIONS_H_

#include <string>
#include <string_view>

namespace mla {

// PCRE2 10.42 knows Unicode 14 (2021); to it a later emoji is no symbol and a later letter no
// letter, and text with them would be cut elsewhere than Hugging Face cuts it. If valid `text` has
// such characters, puts into `stand_in` the text with each replaced by an older one of the same
// category and as many bytes, so that patterns match at the same offsets. False if it has none.
bool ReplaceYoungCharacters(std::string_view text, std::string* stand_in);

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_UNICODE_ADDITIONS_H_
