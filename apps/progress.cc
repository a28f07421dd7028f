#include "apps/progress.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "apps/output.h"
#include "mla/result.h"

namespace mla {
namespace {

constexpr int kWidth = 30;
constexpr std::chrono::milliseconds kPatience(400);  // before the first drawing
constexpr std::chrono::milliseconds kInterval(100);

}  // namespace

ProgressBar::ProgressBar(std::string label, int64_t total)
    : label_(std::move(label)),
      total_(total),
      enabled_(total > 0 && ::isatty(STDERR_FILENO) != 0) {}

ProgressBar::~ProgressBar() {
  if (drawn_) PrintError("\r\x1b[K");
}

void ProgressBar::Update(int64_t done) {
  const auto now = Clock::now();
  if (!enabled_ || now - start_ < kPatience || now - last_ < kInterval) return;
  last_ = now;
  drawn_ = true;
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0., 1.);
  const int filled = static_cast<int>(share * kWidth);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  std::string line = Concat("\r", label_, " [", std::string(filled, '#'),
                            std::string(kWidth - filled, ' '), "] ", Fixed(100 * share, 0), " %");
  if (share > 0) line += Concat(", ", Fixed(seconds / share - seconds, 0), " s left");
  PrintError(line + "\x1b[K");
}

}  // namespace mla
