// tokenizer.json's pre-tokenizers: text is cut into words, which BPE then encodes one by one.
#ifndef MLA_IO_TOKENIZER_PRE_TOKENIZER_H_
#define MLA_IO_TOKENIZER_PRE_TOKENIZER_H_

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/json_fields.h"
#include "io/tokenizer/regex.h"
#include "mla/result.h"

namespace mla {

struct TextPiece {
  std::string_view text;
  bool at_start;  // begins where the whole text begins
};

// The working memory of one caller.
struct PreTokenizerScratch {
  RegexScratch regex;
  std::vector<RegexMatch> matches;
  std::vector<TextPiece> next;
  std::deque<std::string> storage;  // text that steps have rewritten; pieces point into it
};

// Immutable: thread-safe with a scratch per thread.
class PreTokenizer {
 public:
  // null (no pre-tokenizer), Sequence, Split, ByteLevel, Digits, Metaspace, Whitespace,
  // WhitespaceSplit, Punctuation.
  static Result<PreTokenizer> FromJson(const Json* json);

  // True if the last step is ByteLevel: its mapping of bytes to GPT-2's alphabet is then left to
  // the reader of the pieces, which are raw bytes.
  bool byte_level() const { return byte_level_; }

  // Cuts `pieces` further, in place. They point into the text given and into scratch->storage,
  // which grows until the caller clears it.
  Status Run(std::vector<TextPiece>* pieces, PreTokenizerScratch* scratch) const;

 private:
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  enum class Prepend { kNever, kFirst, kAlways };
  struct Step {
    std::optional<Regex> pattern;  // split at its matches, after the rewriting
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;      // the matches are what lies between
    std::string replacement;  // Metaspace: a space becomes this
    std::string prefix;       // put before a piece that does not begin with it,
    Prepend prepend = Prepend::kNever;
    bool map_bytes = false;  // to GPT-2's alphabet
  };

  static Result<Behavior> ReadBehavior(const Json& json, std::string_view where);
  Status AddSteps(const Json& json, const std::string& where, int depth);
  Status AddStep(const Json& json, std::string_view type, std::string_view where);
  Status AddSplit(const Json& json, std::string_view where);
  Status AddByteLevel(const Json& json, std::string_view where);
  Status AddMetaspace(const Json& json, std::string_view where);
  Status AddRegex(std::string_view regex, Behavior behavior, bool invert);

  static void Rewrite(const Step& step, TextPiece* piece, PreTokenizerScratch* scratch);
  static Status Split(const Step& step, const TextPiece& piece, PreTokenizerScratch* scratch);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_PRE_TOKENIZER_H_
