// What all subcommands share: parsing, help, validation of flags, and how errors end the program.
#ifndef MLA_APPS_CLI_H_
#define MLA_APPS_CLI_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "mla/result.h"

namespace mla {

inline constexpr int kExitError = 1;
inline constexpr int kExitUsage = 2;

// Prints one line, "WHO: error: MESSAGE", and returns `exit_code`.
int ReportError(std::string_view who, std::string_view message, int exit_code);

class Command {
 public:
  // `name`: "run". `examples`: lines of the help's last part.
  Command(std::string_view name, const std::string& description, const std::string& examples);

  CLI::App& app() { return app_; }

  // Nothing if the command is to go on; else the program's exit status, help or an error having
  // been printed.
  std::optional<int> Parse(int argc, char** argv);

  // The exit status of a finished command; prints the error if there is one.
  int Finish(const Status& status) const;

  // A combination of flags that makes no sense: prints it and returns kExitUsage.
  int UsageError(std::string_view message) const;

 private:
  std::string who_;  // "mla run"
  CLI::App app_;
};

// Checks of a flag's text, whose errors say the value and what would be right.
CLI::Validator IntRange(int64_t min, int64_t max = std::numeric_limits<int32_t>::max());
CLI::Validator UnsignedInt();  // 0 to 2^64 - 1
CLI::Validator NumberRange(double min, double max, bool above_min = false);
CLI::Validator OneOf(std::initializer_list<std::string_view> choices);
CLI::Validator NotEmpty();

// "0,17,52" (spaces allowed too) as integers in [min, max]; `what` names the list in errors.
Result<std::vector<int32_t>> ParseIntList(std::string_view text, std::string_view what, int32_t min,
                                          int32_t max);

// A text file, or standard input for "-". kInvalidArgument if it is not UTF-8, with the offset.
Result<std::string> ReadText(const std::string& path);

}  // namespace mla

#endif  // MLA_APPS_CLI_H_
