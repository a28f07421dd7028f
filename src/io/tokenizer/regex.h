// Regular expressions as tokenizer.json has them: written for Oniguruma (Ruby's syntax), run by
// PCRE2 on UTF-8.
#ifndef MLA_IO_TOKENIZER_REGEX_H_
#define MLA_IO_TOKENIZER_REGEX_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla {

// What matching needs beside the pattern. One per thread at a time; serves any Regex.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct RegexMatch {
  size_t begin, end;  // bytes
};

// A compiled pattern. Immutable: matching is thread-safe with a scratch per thread.
class Regex {
 public:
  // kUnsupported, naming the construct, for what the two syntaxes give different meanings and is
  // not translated (nested classes, && in a class, (*VERBS), ...), and for what PCRE2 refuses.
  static Result<Regex> Compile(std::string_view pattern);
  static Result<Regex> CompileLiteral(std::string_view text);  // must not be empty

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // All matches in valid UTF-8, in order, without overlap; an empty match directly after a match is
  // left out. The subject stands alone: nothing before or after it is seen by the pattern.
  // kUnsupported if the pattern needs more backtracking on this text than is allowed.
  Status FindAll(std::string_view subject, RegexScratch* scratch,
                 std::vector<RegexMatch>* matches) const;

 private:
  struct Impl;
  explicit Regex(std::unique_ptr<Impl> impl);
  static Result<Regex> CompilePcre(std::string_view pattern, std::string_view shown,
                                   unsigned options);
  std::unique_ptr<Impl> impl_;
};

// The PCRE2 pattern with the meaning that `pattern` has in Oniguruma's Ruby syntax: \s and \w by
// Unicode's properties, \h as a hex digit, ^ and $ at every line, script names as scripts.
Result<std::string> TranslateRegex(std::string_view pattern);

}  // namespace mla

#endif  // MLA_IO_TOKENIZER_REGEX_H_
