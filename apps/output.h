// Standard output and standard error, and numbers as people read them.
#ifndef MLA_APPS_OUTPUT_H_
#define MLA_APPS_OUTPUT_H_

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla {

// Writes to standard output at once: what is printed is there to be read. kIoError with the
// system's reason; see OutputClosed.
Status Print(std::string_view text);

// The value on its own lines, indented. Text that is not UTF-8 is repaired.
Status PrintJson(const nlohmann::ordered_json& value);

// True once the reader of standard output has gone away (`mla ... | head`): a reason to stop, not
// an error to report.
bool OutputClosed();

// Writes to standard error; failures are ignored, there being nowhere to report them.
void PrintError(std::string_view text);

// The text on one line: control characters escaped.
std::string OneLine(std::string_view text);

std::string HumanBytes(double bytes);           // "812 B", "1.2 MB": powers of 1000
std::string HumanCount(double count);           // "812", "9.5 M", "1.2 B": parameters
std::string HumanFlops(double flops);           // "812", "9.5 M", "1.2 G": operations
std::string WithCommas(int64_t value);          // "32,354"
std::string Fixed(double value, int decimals);  // "8.3988"

// Text in columns: the first left-aligned, the others right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string ToString(std::string_view indent = "") const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace mla

#endif  // MLA_APPS_OUTPUT_H_
