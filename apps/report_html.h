// What a command reports, as text and as one self-contained HTML file: headings, paragraphs, tables
// and charts; no scripts, no other files.
#ifndef MLA_APPS_REPORT_HTML_H_
#define MLA_APPS_REPORT_HTML_H_

#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla {

// A heading, a table and a remark, which may be empty: what the terminal and the page both show.
struct ReportSection {
  std::string title;
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
  std::string note;
};
std::string ToText(const ReportSection& section);  // begins with an empty line

class HtmlReport {
 public:
  explicit HtmlReport(std::string_view title);

  // Text is escaped.
  void Heading(std::string_view text);
  void Paragraph(std::string_view text);
  void Section(const ReportSection& section);
  // Side by side where they fit, each as wide as its column.
  void Charts(const std::vector<std::string>& svgs);
  // In their own size, one that is wider than the screen in a frame that scrolls.
  void Maps(const std::vector<std::string>& svgs);

  std::string ToString() const;

 private:
  std::string title_, body_;
};

// What --html and --svg name; empty: not wanted.
struct ReportPaths {
  std::string html, svg;
};
// Says that the files can be made, before work is done whose result they are to hold: kIoError or
// kNotFound with the path; kInvalidArgument if both are one file, or one is a file of `models`. An
// existing file is not changed.
Status CheckReportPaths(const ReportPaths& paths, const std::vector<std::string>& models);

struct ReportFile {
  std::string path;  // empty: not wanted
  std::string contents;
};
// Writes each report whole. Where that fails the error says so, a copy goes to a file in the
// system's folder for temporary files, whose name the error gives, and the others are still
// written.
Status WriteReports(const std::vector<ReportFile>& files);

}  // namespace mla

#endif  // MLA_APPS_REPORT_HTML_H_
