#define PCRE2_CODE_UNIT_WIDTH 8
#include "io/tokenizer/regex.h"

#include <pcre2.h>

#include <utility>

#include "base/check.h"
#include "io/json.h"
#include "io/tokenizer/unicode.h"
#include "io/tokenizer/unicode_additions.h"

namespace mla {
namespace {

constexpr size_t kMaxPatternBytes = 32768;
// Enough for any tokenizer's pattern on megabytes of white space, and well under a second.
constexpr uint32_t kMatchLimit = 20'000'000;
constexpr uint32_t kDepthLimit = 100'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;
constexpr size_t kJitStackStart = 32 << 10, kJitStackMax = 8 << 20;

}  // namespace

struct RegexScratch::Impl {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);

  Impl() {
    MLA_CHECK(data != nullptr && context != nullptr);
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_depth_limit(context, kDepthLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Impl() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    if (stack != nullptr) pcre2_jit_stack_free(stack);
  }
};

RegexScratch::RegexScratch() : impl_(std::make_unique<Impl>()) {}
RegexScratch::~RegexScratch() = default;

struct Regex::Impl {
  pcre2_code* code = nullptr;
  bool jit = false;
  std::string pattern;  // as it stands in the file, for messages
  ~Impl() { pcre2_code_free(code); }
};

Regex::Regex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Result<Regex> Regex::CompilePcre(std::string_view pattern, std::string_view shown,
                                 unsigned options) {
  auto impl = std::make_unique<Impl>();
  impl->pattern = shown;
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                             &error, &offset, nullptr);
  if (impl->code == nullptr) {
    unsigned char message[160];
    pcre2_get_error_message(error, message, sizeof(message));
    return Unsupported("regular expression ", Quote(shown), ": ",
                       reinterpret_cast<const char*>(message), " at offset ", offset);
  }
  impl->jit = pcre2_jit_compile(impl->code, PCRE2_JIT_COMPLETE) == 0;
  return Regex(std::move(impl));
}

Result<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return Unsupported("regular expression of ", pattern.size(), " bytes, the limit is ",
                       kMaxPatternBytes);
  }
  MLA_ASSIGN_OR_RETURN(const std::string translated, TranslateRegex(pattern));
  return CompilePcre(translated, pattern,
                     PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
}

Result<Regex> Regex::CompileLiteral(std::string_view text) {
  if (text.empty() || text.size() > kMaxPatternBytes) {
    return Unsupported("pattern string of ", text.size(), " bytes, want 1 to ", kMaxPatternBytes);
  }
  return CompilePcre(text, text, PCRE2_UTF | PCRE2_LITERAL);
}

Status Regex::FindAll(std::string_view subject, RegexScratch* scratch,
                      std::vector<RegexMatch>* matches) const {
  std::string stand_in;
  if (ReplaceYoungCharacters(subject, &stand_in)) subject = stand_in;
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(scratch->impl_->data);
  size_t from = 0, last_end = std::string_view::npos;
  while (from <= subject.size()) {
    const auto match = impl_->jit ? pcre2_jit_match : pcre2_match;
    const int rc = match(impl_->code, text, subject.size(), from, PCRE2_NO_UTF_CHECK,
                         scratch->impl_->data, scratch->impl_->context);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      unsigned char message[160];
      pcre2_get_error_message(rc, message, sizeof(message));
      return Unsupported("regular expression ", Quote(impl_->pattern), " on a text of ",
                         subject.size(), " bytes: ", reinterpret_cast<const char*>(message));
    }
    const size_t begin = range[0], end = range[1];
    if (begin < from || end < begin) {  // \K in a lookaround
      return Unsupported("regular expression ", Quote(impl_->pattern), " matches backwards");
    }
    if (begin == end && end == last_end) {
      if (from == subject.size()) break;
      from += DecodeCodePoint(subject.substr(from)).length;
      continue;
    }
    matches->push_back({begin, end});
    from = last_end = end;
  }
  return {};
}

}  // namespace mla
