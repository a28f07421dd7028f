// tiktoken.model, as Kimi-K2 and Moonlight ship their tokenizer: a line per token, its bytes in
// base64 and its rank, which is its id and says when it is joined.
#ifndef MLA_IO_TOKENIZER_TIKTOKEN_H_
#define MLA_IO_TOKENIZER_TIKTOKEN_H_

#include <string_view>

#include "io/tokenizer/json_fields.h"
#include "mla/result.h"

namespace mla {

// The same tokenizer as a tokenizer.json document. How words are cut is in Python code beside the
// file: `config`, tokenizer_config.json, must name the class whose way is known here. Its
// added_tokens_decoder names special tokens; ids above the ranks that it leaves out are reserved.
//
// kCorruptFile with the line: what is no base64 or rank, empty or overlong tokens, ranks that are
// given twice or left out, single bytes without a token. kUnsupported: other classes.
Result<Json> TiktokenToJson(std::string_view model, const Json& config);

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_TIKTOKEN_H_
