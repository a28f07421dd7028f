// Text to token ids and back: Hugging Face's tokenizer.json (BPE) and SentencePiece's
// tokenizer.model, with the results of their own libraries.
#ifndef MLA_IO_TOKENIZER_TOKENIZER_H_
#define MLA_IO_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla {

// kInvalidArgument with the offset of the first byte that is not UTF-8.
Status ValidateUtf8(std::string_view text);

struct EncodeOptions {
  // Adds what the tokenizer puts around a text: <bos>, and <eos> for those that do.
  bool add_special_tokens = true;
  // Special tokens written out in the text ("<|endoftext|>") become their ids. Only for text that
  // a chat template made: what a user types stays text.
  bool parse_special = false;
};

// One stream of ids being decoded, as a StreamDecoder holds it.
class TokenStream {
 public:
  virtual ~TokenStream() = default;
  virtual void Push(int32_t id, bool skip_special, std::string* out) = 0;  // id is valid
  virtual void Flush(std::string* out) = 0;
};

// Immutable after loading; every const method is thread-safe.
class Tokenizer {
 public:
  // Reads tokenizer.json, else tiktoken.model, else tokenizer.model, of a model directory, and
  // tokenizer_config.json or what older directories have for it (tokenizer_config.h). Tokens that
  // these add to a tokenizer.model are found in text as those of tokenizer.json are. add_bos_token
  // and add_eos_token, where stated, overrule what tokenizer.json puts around a text; a
  // tokenizer.model adds <s> unless told otherwise. kNotFound, naming what was looked for;
  // kCorruptFile or kUnsupported with the file and the offending value. A path that is a file is
  // read as GGUF, with the tokenizer inside it (gguf_tokenizer.h).
  static Result<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);

  // The same from memory; an empty config is an absent one.
  static Result<std::unique_ptr<Tokenizer>> FromJson(std::string_view tokenizer_json,
                                                     std::string_view config_json = {});
  static Result<std::unique_ptr<Tokenizer>> FromSentencePiece(std::string_view model,
                                                              std::string_view config_json = {});

  virtual ~Tokenizer() = default;

  // kInvalidArgument if the text is not UTF-8.
  Result<std::vector<int32_t>> Encode(std::string_view text, EncodeOptions options = {}) const;

  // Always valid UTF-8: bytes that form no character become U+FFFD. skip_special leaves out special
  // tokens. kInvalidArgument for an id that is no token.
  Result<std::string> Decode(std::span<const int32_t> ids, bool skip_special = true) const;

  virtual int32_t vocab_size() const = 0;  // largest id + 1; ids below may be unused

  // -1 and empty where tokenizer_config.json (or tokenizer.model) names none.
  int32_t bos_id() const { return bos_id_; }
  const std::vector<int32_t>& eos_ids() const { return eos_ids_; }

  // A token as the vocabulary writes it ("Ġthe", "▁the"), not as it decodes.
  Result<std::string> IdToPiece(int32_t id) const;
  virtual std::optional<int32_t> PieceToId(std::string_view piece) const = 0;

  virtual bool HasId(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;  // requires HasId(id)

  // For StreamDecoder. The stream must not outlive the tokenizer.
  virtual std::unique_ptr<TokenStream> NewStream() const = 0;
  Status CheckId(int32_t id) const;  // kInvalidArgument unless HasId(id)

 protected:
  // Appends the ids of valid UTF-8, without anything around them.
  virtual Status EncodeText(std::string_view text, bool parse_special,
                            std::vector<int32_t>* ids) const = 0;
  virtual std::string_view Piece(int32_t id) const = 0;  // requires HasId(id)

  // Takes bos, eos and whether to add them from tokenizer_config.json.
  Status ApplyConfig(std::string_view config_json);

  int32_t bos_id_ = -1;
  std::vector<int32_t> eos_ids_;
  std::vector<int32_t> prefix_, suffix_;  // put around a text
};

// Decodes ids as they come. What Push and Flush return, concatenated, is what Decode returns for
// all ids; each part is valid UTF-8 and ends between characters. Must not outlive the tokenizer.
// Not thread-safe.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true);

  // The text that became final. kInvalidArgument for an id that is no token; the stream is then as
  // before the call.
  Result<std::string> Push(int32_t id);
  std::string Flush();  // the rest; then a new text begins

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::unique_ptr<TokenStream> stream_;
};

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_TOKENIZER_H_
