// A progress bar on standard error.
#ifndef MLA_APPS_PROGRESS_H_
#define MLA_APPS_PROGRESS_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace mla {

// Drawn only when standard error is a terminal, a few times a second, and not for work that is done
// in a moment. The line is cleared on destruction. Not thread-safe.
class ProgressBar {
 public:
  // `total`: units of work; 0 or less draws nothing. The label is cut where the terminal is narrow.
  ProgressBar(std::string_view label, int64_t total);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(int64_t done);

 private:
  using Clock = std::chrono::steady_clock;

  std::string label_;
  int64_t total_;
  bool enabled_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

}  // namespace mla

#endif  // MLA_APPS_PROGRESS_H_
