#include "apps/output.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

namespace mla {
namespace {

bool output_closed = false;

// 0, or the errno of the failure.
int WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return errno;
      // Whoever shares the descriptor has made it non-blocking.
      struct pollfd wait {
        fd, POLLOUT, 0
      };
      ::poll(&wait, 1, -1);
      continue;
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

// `value` in steps of 1000 with the unit that leaves 1 to 999.
std::string Scaled(double value, const char* const (&units)[6]) {
  size_t unit = 0;
  while (std::abs(value) >= 999.95 && unit + 1 < std::size(units)) {
    value /= 1000;
    ++unit;
  }
  const std::string_view suffix = units[unit];
  return Fixed(value, unit == 0 ? 0 : 1) + (suffix.empty() ? "" : " ") + std::string(suffix);
}

}  // namespace

Status Print(std::string_view text) {
  const int error = WriteAll(STDOUT_FILENO, text);
  if (error == 0) return {};
  if (error == EPIPE) output_closed = true;
  return IoError("standard output: ", std::strerror(error));
}

Status PrintJson(const nlohmann::ordered_json& value) {
  return Print(value.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

bool OutputClosed() { return output_closed; }

void PrintError(std::string_view text) { WriteAll(STDERR_FILENO, text); }

std::string OneLine(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      line += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", byte);
      line += escaped;
    } else {
      line += c;
    }
  }
  return line;
}

std::string HumanBytes(double bytes) { return Scaled(bytes, {"B", "kB", "MB", "GB", "TB", "PB"}); }

std::string HumanCount(double count) { return Scaled(count, {"", "k", "M", "B", "T"}); }

std::string HumanFlops(double flops) { return Scaled(flops, {"", "k", "M", "G", "T", "P"}); }

std::string WithCommas(int64_t value) {
  std::string digits = std::to_string(value);
  const auto first = static_cast<ptrdiff_t>(value < 0);
  for (auto at = std::ssize(digits) - 3; at > first; at -= 3) digits.insert(at, 1, ',');
  return digits;
}

std::string Fixed(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", decimals, value);
  return text;
}

std::string Table::ToString(std::string_view indent) const {
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line(indent);
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      line += i == 0 ? row[i] + padding : "  " + padding + row[i];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace mla
