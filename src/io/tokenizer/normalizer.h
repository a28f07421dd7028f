// tokenizer.json's normalizers: what happens to text before it is split.
#ifndef MLA_IO_TOKENIZER_NORMALIZER_H_
#define MLA_IO_TOKENIZER_NORMALIZER_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/json_fields.h"
#include "io/tokenizer/regex.h"
#include "mla/result.h"

namespace mla {

// No step may make a text larger than this: a file cannot ask for memory without end.
constexpr size_t MaxGrownBytes(size_t text_bytes) { return 64 * text_bytes + (size_t{64} << 10); }

// Immutable: thread-safe with a scratch per thread.
class Normalizer {
 public:
  // null (no normalizer), Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace.
  static Result<Normalizer> FromJson(const Json* json);

  bool empty() const { return steps_.empty(); }

  // Rewrites valid UTF-8 in place.
  Status Run(std::string* text, RegexScratch* scratch) const;

 private:
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kStrip, kPrepend, kReplace };
  struct Step {
    Kind kind;
    bool strip_left = false, strip_right = false;
    std::string content;           // kPrepend, kReplace
    std::optional<Regex> pattern;  // kReplace
  };
  Status AddSteps(const Json& json, const std::string& where, int depth);

  std::vector<Step> steps_;
};

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_NORMALIZER_H_
