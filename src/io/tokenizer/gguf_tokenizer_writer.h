// A model directory's tokenizer as the metadata of a GGUF file.
#ifndef MLA_IO_TOKENIZER_GGUF_TOKENIZER_WRITER_H_
#define MLA_IO_TOKENIZER_GGUF_TOKENIZER_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "io/gguf_writer.h"
#include "mla/result.h"

namespace mla {

struct GgufTokenizerOptions {
  int32_t vocab_size = 0;        // of the model; tokens beyond the tokenizer's are filled up
  int32_t bos_id = -1;           // where the tokenizer names none
  std::vector<int32_t> eos_ids;  // that end a sequence or a turn, beside the tokenizer's own
};

// Adds tokenizer.ggml.* for the tokenizer.json or tokenizer.model of `model_dir`: "gpt2" for
// byte-level BPE, with the name of its way to cut words, "llama" for SentencePiece's BPE; and the
// chat templates. What was added is then read back and must cut a set of texts as the directory's
// own tokenizer does. Returns lines about what the file cannot say but only matters at the margin.
//
// kNotFound: no tokenizer there. kUnsupported, naming the part: a tokenizer that GGUF cannot state
// (unigram models, normalizers, ways to cut words that have no name), or one that has more tokens
// than the model.
Result<std::vector<std::string>> AddGgufTokenizer(const std::string& model_dir,
                                                  const GgufTokenizerOptions& options,
                                                  GgufMetadata& metadata);

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_GGUF_TOKENIZER_WRITER_H_
