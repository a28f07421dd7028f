// What the small files beside a tokenizer say of its special tokens.
#ifndef MLA_IO_TOKENIZER_TOKENIZER_CONFIG_H_
#define MLA_IO_TOKENIZER_TOKENIZER_CONFIG_H_

#include <string>
#include <vector>

#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/json_fields.h"
#include "mla/result.h"

namespace mla {

// tokenizer_config.json of a model directory, as JSON text; empty if there is none and nothing
// stands in for it. Older directories spread it over more files, which count where it has no
// "added_tokens_decoder", as in Hugging Face's library: special_tokens_map.json (its entries
// overrule) and, put in under that key, added_tokens.json. Errors name the file.
Result<std::string> ReadTokenizerConfig(const std::string& model_dir);

// The tokens under "added_tokens_decoder" ({"32000": {"content": ...}}); none without it.
Result<std::vector<AddedToken>> AddedTokensOf(const Json& config);

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_TOKENIZER_CONFIG_H_
