// The tokenizer inside a GGUF file: tokenizer.ggml.model "gpt2" (byte-level BPE, cut into words as
// tokenizer.ggml.pre says) and "llama" (SentencePiece with scores).
#ifndef MLA_IO_TOKENIZER_GGUF_TOKENIZER_H_
#define MLA_IO_TOKENIZER_GGUF_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "io/gguf.h"
#include "io/tokenizer/tokenizer.h"
#include "mla/result.h"

namespace mla {

// tokenizer.ggml.token_type; SentencePiece's numbers.
enum class GgufTokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// Control tokens become special tokens, user-defined ones added tokens. kCorruptFile, with the key
// and the value: counts that differ, ids, types and scores out of range, tokens that are repeated,
// not UTF-8 or over 64 KiB, byte tokens other than <0x00> to <0xFF>, merges of unknown tokens.
// kUnsupported: other models and pre-tokenizers, with those that are known.
Result<std::unique_ptr<Tokenizer>> LoadGgufTokenizer(const GgufFile& file);

// The Jinja text of tokenizer.chat_template; nothing if the file has none.
Result<std::optional<std::string>> ReadGgufChatTemplate(const GgufFile& file);

// tokenizer.json's pre-tokenizer for a tokenizer.ggml.pre; null JSON if the name is not known.
nlohmann::json PreTokenizerOfGguf(std::string_view pre);
std::string KnownGgufPreTokenizers();  // "default, llama-bpe, ..."

// True for those of tokenizers in which a word that is a token is that token, whatever the merges.
bool GgufPreIgnoresMerges(std::string_view pre);

// The tokenizer.ggml.pre that cuts as this pre_tokenizer does; empty if none is known to.
std::string GgufPreOf(const nlohmann::json& pre_tokenizer, bool ignore_merges);

// The byte of "<0x00>" to "<0xFF>", by exactly this spelling; -1 for all other text.
int ParseByteToken(std::string_view piece);

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_GGUF_TOKENIZER_H_
