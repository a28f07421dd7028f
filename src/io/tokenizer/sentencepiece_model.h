// The contents of a tokenizer.model: SentencePiece's protocol buffer
// (protobuf.dev/programming-guides/encoding), as far as they are of use elsewhere.
#ifndef MLA_IO_TOKENIZER_SENTENCEPIECE_MODEL_H_
#define MLA_IO_TOKENIZER_SENTENCEPIECE_MODEL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla {

struct SentencePieceModel {
  static constexpr int32_t kUnigram = 1, kBytePairs = 2;

  struct Piece {
    std::string text;
    float score = 0;
    int32_t type = 1;  // GgufTokenType's numbers
  };
  std::vector<Piece> pieces;  // by id
  int32_t kind = kUnigram;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
};

// kCorruptFile if the bytes are no protocol buffer of this form. Unknown fields are passed over.
Result<SentencePieceModel> ReadSentencePieceModel(std::string_view bytes);

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_SENTENCEPIECE_MODEL_H_
