#include "apps/cli.h"

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "apps/output.h"
#include "io/json.h"
#include "io/read_file.h"
#include "io/tokenizer/tokenizer.h"

namespace mla {
namespace {

// The whole of `text` as an integer.
template <typename T>
std::optional<T> ParseInt(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> ParseNumber(const std::string& text) {
  if (text.empty() || text.find_first_not_of("+-.eE0123456789") != std::string::npos) {
    return std::nullopt;
  }
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (end != text.c_str() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

}  // namespace

int ReportError(std::string_view who, std::string_view message, int exit_code) {
  PrintError(Concat(who, ": error: ", OneLine(message), "\n"));
  return exit_code;
}

Command::Command(std::string_view name, const std::string& description, const std::string& examples)
    : who_(Concat("mla ", name)), app_(description + "\n", who_) {
  app_.footer("Examples:\n" + examples);
  app_.set_help_flag("-h,--help", "Print this help and end");
  app_.get_formatter()->column_width(34);
}

std::optional<int> Command::Parse(int argc, char** argv) {
  try {
    app_.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return Finish(Print(app_.help()));
  } catch (const CLI::ParseError& error) {
    return UsageError(error.what());
  }
  return std::nullopt;
}

int Command::Finish(const Status& status) const {
  if (status.ok() || OutputClosed()) return 0;
  return ReportError(who_, status.message(), kExitError);
}

int Command::UsageError(std::string_view message) const {
  return ReportError(who_, Concat(message, " (see ", who_, " --help)"), kExitUsage);
}

CLI::Validator IntRange(int64_t min, int64_t max) {
  return CLI::Validator(
      [min, max](std::string& text) -> std::string {
        const std::optional<int64_t> value = ParseInt<int64_t>(text);
        if (value && *value >= min && *value <= max) return {};
        return Concat(Quote(text), " is not an integer from ", min, " to ", max);
      },
      "");
}

CLI::Validator UnsignedInt() {
  return CLI::Validator(
      [](std::string& text) -> std::string {
        if (ParseInt<uint64_t>(text)) return {};
        return Concat(Quote(text), " is not an integer from 0 to ",
                      std::numeric_limits<uint64_t>::max());
      },
      "");
}

CLI::Validator NumberRange(double min, double max, bool above_min) {
  return CLI::Validator(
      [=](std::string& text) -> std::string {
        const std::optional<double> value = ParseNumber(text);
        const bool low = value && (above_min ? *value <= min : *value < min);
        if (value && !low && *value <= max) return {};
        return Concat(Quote(text), " is not a number ", above_min ? "above " : "from ", min,
                      above_min ? " and at most " : " to ", max);
      },
      "");
}

CLI::Validator NotEmpty() {
  return CLI::Validator(
      [](std::string& text) { return std::string(text.empty() ? "is empty, want a name" : ""); },
      "");
}

CLI::Validator OneOf(std::initializer_list<std::string_view> choices) {
  std::vector<std::string> known(choices.begin(), choices.end());
  return CLI::Validator(
      [known = std::move(known)](std::string& text) -> std::string {
        std::string list;
        for (const std::string& choice : known) {
          if (text == choice) return {};
          list += (list.empty() ? "" : ", ") + choice;
        }
        return Concat(Quote(text), " is not one of ", list);
      },
      "");
}

Result<std::vector<int32_t>> ParseIntList(std::string_view text, std::string_view what, int32_t min,
                                          int32_t max) {
  constexpr std::string_view kSeparators = ", \t\r\n";
  std::vector<int32_t> values;
  while (true) {
    const size_t begin = text.find_first_not_of(kSeparators);
    if (begin == std::string_view::npos) break;
    text.remove_prefix(begin);
    const std::string_view word = text.substr(0, text.find_first_of(kSeparators));
    const std::optional<int64_t> value = ParseInt<int64_t>(word);
    if (!value || *value < min || *value > max) {
      return InvalidArgument(what, ": entry ", values.size() + 1, " is ", Quote(word),
                             ", want an integer from ", min, " to ", max);
    }
    values.push_back(static_cast<int32_t>(*value));
    text.remove_prefix(word.size());
  }
  if (values.empty()) return InvalidArgument(what, " is empty, want at least one integer");
  return values;
}

Result<std::string> ReadText(const std::string& path) {
  const bool standard_input = path == "-";
  MLA_ASSIGN_OR_RETURN(std::string text,
                       standard_input ? ReadStandardInput() : ReadFileOrPipe(path));
  if (const Status valid = ValidateUtf8(text); !valid.ok()) {
    return InvalidArgument(standard_input ? "standard input" : path, ": ", valid.message());
  }
  return text;
}

}  // namespace mla
