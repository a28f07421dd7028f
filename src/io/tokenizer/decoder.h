// From tokens back to text, one token at a time: tokenizer.json's decoders as a chain of stages.
#ifndef MLA_IO_TOKENIZER_DECODER_H_
#define MLA_IO_TOKENIZER_DECODER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/json_fields.h"
#include "io/tokenizer/regex.h"
#include "mla/result.h"

namespace mla {

// The state of one stage of one stream. Text that can still change is held back.
class DecodeStage {
 public:
  virtual ~DecodeStage() = default;

  // A token's text; `begins` false: more of the token before (a stage may have joined several).
  virtual void Push(std::string_view text, bool begins) = 0;
  virtual void Flush() { next_->Flush(); }  // no token follows

  void set_next(DecodeStage* next) { next_ = next; }

 protected:
  DecodeStage* next_ = nullptr;
};

// One stream of tokens being decoded.
class DecodeChain {
 public:
  DecodeChain(std::vector<std::unique_ptr<DecodeStage>> stages);

  // Append what became final to `out`.
  void Push(std::string_view token, std::string* out);
  void Flush(std::string* out);

 private:
  class Collector;
  std::vector<std::unique_ptr<DecodeStage>> stages_;  // each pushes into the next
  Collector* collector_;                              // the last of them
};

// Immutable: chains may be made from any thread; they must not outlive it.
class Decoder {
 public:
  // null (tokens are joined by spaces), Sequence, ByteLevel, Replace, ByteFallback, Fuse, Strip,
  // Metaspace. kUnsupported for others, and for all but Strip after tokens have been joined.
  static Result<Decoder> FromJson(const Json* json);

  std::unique_ptr<DecodeChain> NewChain() const;

 private:
  enum class Kind { kJoin, kByteLevel, kReplace, kByteFallback, kFuse, kStrip, kMetaspace };
  struct Step {
    Kind kind;
    std::optional<Regex> pattern;  // kReplace
    std::string content;           // kReplace, kStrip; kMetaspace: what stands for a space
    int64_t start = 0, stop = 0;   // kStrip: how many `content` at most
    bool drop_first = false;       // kMetaspace: in the first token
  };
  Status AddSteps(const Json& json, const std::string& where, int depth);
  static Result<Step> ReadStep(const Json& json, std::string_view type, std::string_view where);
  static std::unique_ptr<DecodeStage> NewStage(const Step& step);

  std::vector<Step> steps_;
};

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_DECODER_H_
