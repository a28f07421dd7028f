#include "apps/report_html.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "apps/chart.h"
#include "apps/model_files.h"
#include "apps/output.h"
#include "io/atomic_file.h"
#include "io/read_file.h"

namespace mla {
namespace {

constexpr std::string_view kPageStyle = R"(
*{box-sizing:border-box}
body{margin:0 auto;max-width:1040px;padding:16px;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,"DejaVu Sans",sans-serif}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin:2rem 0 .5rem}
h1,h2,p{overflow-wrap:anywhere}p{max-width:70ch}
.scroll{overflow-x:auto;max-width:100%;
background:linear-gradient(to left,var(--bg) 40%,transparent) right/40px 100% no-repeat local,
linear-gradient(to left,transparent 1px,var(--grid) 1px,transparent) right/16px 100% no-repeat scroll}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0;position:sticky;left:0;
background:var(--bg)}
th{color:var(--dim);font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
.maps{display:flex;flex-wrap:wrap;gap:16px}
.chart{width:100%;max-width:620px;height:auto;display:block;margin:.5rem 0}
.map{max-width:none}
@media(max-width:500px){.chart:not(.map) .t{font-size:14px}.chart:not(.map) .title{font-size:16px}
th,td{padding:.3rem .45rem}
th{white-space:normal;vertical-align:bottom}}
)";

Status WriteOrKeepCopy(const std::string& path, const std::string& contents) {
  const Status status = WriteFileAtomically(path, contents);
  if (status.ok()) return status;
  const char* folder = std::getenv("TMPDIR");
  const std::string copy =
      Concat(folder != nullptr && *folder != '\0' ? folder : "/tmp", "/mla-report-", ::getpid(),
             contents.starts_with("<svg") ? ".svg" : ".html");
  if (!WriteFileAtomically(copy, contents).ok()) return status;
  return Error{status.error().code, Concat(status.message(), "; the report is in ", copy)};
}

Status CheckWritable(const std::string& path) {
  struct stat info {};
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
    // Not opened: the reader of a pipe would take that for the whole report.
    if (::access(path.c_str(), W_OK) == 0) return {};
    return IoError("cannot write ", FileError(path, errno).message);
  }
  // Made and given up: the temporary beside the target is removed again.
  const Result<AtomicFile> file = AtomicFile::Create(path);
  if (!file.ok()) return file.error();
  return {};
}

// Pipes and devices are not meant: they take one text after the other.
bool IsOneFile(const std::string& a, const std::string& b) {
  std::error_code error;
  const auto status = std::filesystem::status(a, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) return false;
  if (std::filesystem::equivalent(a, b, error)) return true;
  return std::filesystem::weakly_canonical(std::filesystem::absolute(a, error), error) ==
         std::filesystem::weakly_canonical(std::filesystem::absolute(b, error), error);
}

}  // namespace

std::string ToText(const ReportSection& section) {
  Table table(section.header);
  for (const auto& row : section.rows) table.Add(row);
  return Concat("\n", section.title, "\n\n", table.ToString(), section.note,
                section.note.empty() ? "" : "\n");
}

HtmlReport::HtmlReport(std::string_view title) : title_(EscapeXml(title)) {}

void HtmlReport::Heading(std::string_view text) {
  body_ += Concat("<h2>", EscapeXml(text), "</h2>\n");
}

void HtmlReport::Paragraph(std::string_view text) {
  body_ += Concat("<p>", EscapeXml(text), "</p>\n");
}

void HtmlReport::Section(const ReportSection& section) {
  const auto row = [](const std::vector<std::string>& cells, std::string_view tag) {
    std::string html = "<tr>";
    for (const std::string& cell : cells) {
      html += Concat("<", tag, ">", EscapeXml(cell), "</", tag, ">");
    }
    return html + "</tr>\n";
  };
  Heading(section.title);
  body_ +=
      "<div class=\"scroll\"><table>\n<thead>" + row(section.header, "th") + "</thead><tbody>\n";
  for (const auto& cells : section.rows) body_ += row(cells, "td");
  body_ += "</tbody></table></div>\n";
  if (!section.note.empty()) Paragraph(section.note);
}

void HtmlReport::Charts(const std::vector<std::string>& svgs) {
  body_ += "<div class=\"charts\">\n";
  for (const std::string& svg : svgs) body_ += svg + "\n";
  body_ += "</div>\n";
}

void HtmlReport::Maps(const std::vector<std::string>& svgs) {
  body_ += "<div class=\"maps\">\n";
  for (const std::string& svg : svgs) body_ += Concat("<div class=\"scroll\">", svg, "</div>\n");
  body_ += "</div>\n";
}

std::string HtmlReport::ToString() const {
  return Concat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
      title_, "</title>\n<style>", ChartStyle(), kPageStyle, "</style></head>\n<body>\n<h1>",
      title_, "</h1>\n", body_, "</body></html>\n");
}

Status CheckReportPaths(const ReportPaths& paths, const std::vector<std::string>& models) {
  const std::pair<const char*, const std::string*> outputs[] = {{"--html", &paths.html},
                                                                {"--svg", &paths.svg}};
  for (const auto& [flag, path] : outputs) {
    if (path->empty()) continue;
    for (const std::string& model : models) {
      MLA_RETURN_IF_ERROR(RefuseModelFile(flag, *path, model));
    }
    MLA_RETURN_IF_ERROR(CheckWritable(*path));
  }
  if (paths.html.empty() || paths.svg.empty() || !IsOneFile(paths.html, paths.svg)) return {};
  return InvalidArgument("--html and --svg are one file, ", paths.html, ", want two");
}

Status WriteReports(const std::vector<ReportFile>& files) {
  Status first;
  for (const auto& [path, contents] : files) {
    if (path.empty()) continue;
    Status status = WriteOrKeepCopy(path, contents);
    if (first.ok()) first = std::move(status);
  }
  return first;
}

}  // namespace mla
