// Lines from a person at a terminal, or from a pipe.
#ifndef MLA_APPS_LINE_EDITOR_H_
#define MLA_APPS_LINE_EDITOR_H_

#include <memory>
#include <optional>
#include <string>

namespace mla {

// On a terminal: editing and history through libedit; Ctrl-C clears the line, Ctrl-D on an empty
// line ends the input. Otherwise lines are read as they are and no prompt is shown. One at a time.
class LineEditor {
 public:
  explicit LineEditor(std::string prompt);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  bool interactive() const { return terminal_ != nullptr; }

  // The next line without its end; nothing at the end of the input.
  std::optional<std::string> Read();

 private:
  class Terminal;
  std::unique_ptr<Terminal> terminal_;  // null: not a terminal
};

}  // namespace mla

#endif  // MLA_APPS_LINE_EDITOR_H_
