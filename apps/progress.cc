#include "apps/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>

#include "apps/output.h"
#include "mla/result.h"

namespace mla {
namespace {

constexpr size_t kWidth = 30;
constexpr size_t kLeastWidth = 10;
constexpr std::chrono::milliseconds kPatience(400);  // before the first drawing
constexpr std::chrono::milliseconds kInterval(100);

// Of the terminal; 80 where it does not say.
size_t Columns() {
  struct winsize size {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

bool BeginsCharacter(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }

// The first characters of a UTF-8 text, "..." for the others.
std::string Shortened(const std::string& text, size_t most) {
  if (static_cast<size_t>(std::count_if(text.begin(), text.end(), BeginsCharacter)) <= most) {
    return text;
  }
  const std::string_view dots = std::string_view("...").substr(0, most);
  size_t end = 0;
  for (size_t kept = 0; end < text.size(); ++end) {
    if (BeginsCharacter(text[end]) && kept++ == most - dots.size()) break;
  }
  return text.substr(0, end) + std::string(dots);
}

// Shorter than the line, so that the cursor stays in it: the bar gives way first, then the label.
std::string Line(const std::string& label, double share, double seconds) {
  std::string end = Fixed(100 * share, 0) + " %";
  if (share > 0) end += Concat(", ", Fixed(seconds / share - seconds, 0), " s left");
  const size_t room = Columns() - 1, around = std::string_view(" [] ").size();
  const auto left = [&](size_t used) { return room > used ? room - used : 0; };
  const std::string name = Shortened(label, left(around + kLeastWidth + end.size()));
  const auto shown = static_cast<size_t>(std::count_if(name.begin(), name.end(), BeginsCharacter));
  const size_t width = std::min(kWidth, left(shown + around + end.size()));
  if (width < kLeastWidth) return Shortened(end, room);
  const auto filled = static_cast<size_t>(share * static_cast<double>(width));
  return Concat(name, " [", std::string(filled, '#'), std::string(width - filled, ' '), "] ", end);
}

}  // namespace

ProgressBar::ProgressBar(std::string_view label, int64_t total)
    : label_(OneLine(label)), total_(total), enabled_(total > 0 && ::isatty(STDERR_FILENO) != 0) {}

ProgressBar::~ProgressBar() {
  if (drawn_) PrintError("\r\x1b[K");
}

void ProgressBar::Update(int64_t done) {
  const auto now = Clock::now();
  if (!enabled_ || now - start_ < kPatience || now - last_ < kInterval) return;
  last_ = now;
  drawn_ = true;
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0., 1.);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  PrintError(Concat("\r", Line(label_, share, seconds), "\x1b[K"));
}

}  // namespace mla
