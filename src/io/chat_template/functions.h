// What a template can apply to values: operators, filters, tests, methods and functions, with
// Python's and Jinja's results. Errors carry no line: the evaluator adds it.
#ifndef MLA_IO_CHAT_TEMPLATE_FUNCTIONS_H_
#define MLA_IO_CHAT_TEMPLATE_FUNCTIONS_H_

#include <ctime>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/chat_template/budget.h"
#include "io/chat_template/value.h"
#include "mla/result.h"

namespace mla::jinja {

struct Environment {
  Budget* budget;
  const std::tm& now;
};

struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  bool empty() const { return positional.empty() && named.empty(); }
};

// The arguments in the order of `parameters`; absent ones are empty. An error, naming `function`,
// for one too many or of an unknown name.
using Bound = std::vector<std::optional<Value>>;
Result<Bound> Bind(std::string_view function, const CallArguments& arguments,
                   std::initializer_list<std::string_view> parameters);

// Arguments that must be of one kind; the fallback where absent (or none, for the text).
Result<int64_t> IntegerOr(std::string_view function, const std::optional<Value>& argument,
                          int64_t fallback);
Result<Text> TextOr(std::string_view function, const std::optional<Value>& argument,
                    std::string_view fallback);
bool TruthOr(const std::optional<Value>& argument, bool fallback);

// op: + - * / // % ** ~
Result<Value> Arithmetic(std::string_view op, const Value& left, const Value& right,
                         Budget* budget);
// op: == != < <= > >= in, "not in"
Result<bool> Relation(std::string_view op, const Value& left, const Value& right, Budget* budget);
Result<Value> Negate(const Value& value);

Result<Value> GetItem(const Value& container, const Value& key, Budget* budget);
Result<Value> GetAttribute(const Value& container, std::string_view name, Budget* budget);
// Of a list, tuple or string; empty bounds are absent ones.
Result<Value> GetSlice(const Value& container, const std::optional<int64_t> (&bounds)[3],
                       Budget* budget);

// kUnsupported for a name that is not known.
Result<Value> ApplyFilter(const Environment& env, std::string_view name, const Value& value,
                          const CallArguments& arguments);
Result<bool> ApplyTest(const Environment& env, std::string_view name, const Value& value,
                       const CallArguments& arguments);
bool HasFilter(std::string_view name);
bool HasTest(std::string_view name);

// A method of a string, list or dict.
bool IsMethod(const Value& value, std::string_view name);  // that Python has, known here or not
Result<Value> CallMethod(const Environment& env, const Value& self, std::string_view name,
                         const CallArguments& arguments);

// Where `what` begins in `text` at or after `from`; npos if nowhere. Linear in the worst case too.
size_t FindBytes(std::string_view text, std::string_view what, size_t from);

// Text operations that filters and methods share.
Text Strip(const Text& text, bool left, bool right, const std::optional<Text>& characters);
Text ReplaceAll(const Text& text, const Text& from, const Text& to, int64_t count);
Text ToUpper(const Text& text);
Text ToLower(const Text& text);
Text Capitalize(const Text& text);
Text TitleWords(const Text& text);  // str.title(): a word is a run of letters that have case
std::vector<Text> SplitLines(const Text& text, bool keep_ends);

// datetime.strftime in the C locale; kUnsupported for a directive that is not known.
Result<std::string> FormatTime(std::string_view format, const std::tm& time);

}  // namespace mla::jinja

#endif  // MLA_IO_CHAT_TEMPLATE_FUNCTIONS_H_
