// A report as one self-contained HTML file: headings, paragraphs, tables and charts; no scripts, no
// other files.
#ifndef MLA_APPS_REPORT_HTML_H_
#define MLA_APPS_REPORT_HTML_H_

#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla {

class HtmlReport {
 public:
  explicit HtmlReport(std::string_view title);

  // Text is escaped.
  void Heading(std::string_view text);
  void Paragraph(std::string_view text);
  void Table(const std::vector<std::string>& header,
             const std::vector<std::vector<std::string>>& rows);
  void Chart(const std::string& svg);  // as ToSvg made it
  void BeginCharts();                  // charts until EndCharts stand side by side where they fit
  void EndCharts();

  std::string ToString() const;

 private:
  std::string title_, body_;
};

// Says that the file can be made, before work is done whose result it is to hold: kIoError or
// kNotFound with the path. An existing file is not changed.
Status CheckWritable(const std::string& path);

// Writes the report whole. If that fails the error says so, and a copy goes to a new file in the
// system's folder for temporary files, whose name the error gives.
Status WriteReport(const std::string& path, const std::string& contents);

}  // namespace mla

#endif  // MLA_APPS_REPORT_HTML_H_
