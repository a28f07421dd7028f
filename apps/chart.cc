#include "apps/chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "mla/result.h"

namespace mla {
namespace {

// Sizes in user units. Narrow, with large letters, so that a phone's width still reads.
constexpr double kWidth = 460;
constexpr double kLeft = 58;
constexpr double kRight = 20;
constexpr double kPlotHeight = 190;
constexpr double kRow = 18;  // of the legend, and of a bar
constexpr size_t kColours = 6;

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f", value);
  return text;
}

std::string Text(double x, double y, std::string_view anchor, std::string_view text,
                 std::string_view classes = "t") {
  return Concat("<text class=\"", classes, "\" x=\"", Number(x), "\" y=\"", Number(y),
                "\" text-anchor=\"", anchor, "\">", EscapeXml(text), "</text>");
}

std::string Line(double x1, double y1, double x2, double y2, std::string_view classes) {
  return Concat("<line class=\"", classes, "\" x1=\"", Number(x1), "\" y1=\"", Number(y1),
                "\" x2=\"", Number(x2), "\" y2=\"", Number(y2), "\"/>");
}

// A drawing of class "map" keeps its width on a page; a chart takes the one it is given. As files
// of their own both have a size.
std::string Open(double width, double height, std::string_view title, std::string_view classes) {
  const auto w = static_cast<int>(std::ceil(width));
  const auto h = static_cast<int>(std::ceil(height));
  const std::string style = classes == "chart" ? "" : Concat("style=\"width:", w, "px\" ");
  return Concat("<svg class=\"", classes, "\" ", style,
                "xmlns=\"http://www.w3.org/2000/svg\" width=\"", w, "\" height=\"", h,
                "\" viewBox=\"0 0 ", w, " ", h, "\" role=\"img\" aria-label=\"", EscapeXml(title),
                "\"><title>", EscapeXml(title), "</title>", Text(8, 18, "start", title, "t title"));
}

// One axis: a range of values, where its ticks are, and the map to [0, 1].
struct Axis {
  bool log = false;
  double low = 0, high = 1;
  std::vector<double> ticks;

  double At(double value) const {
    if (log) return (std::log(value) - std::log(low)) / (std::log(high) - std::log(low));
    return (value - low) / (high - low);
  }
};

Axis MakeLogAxis(double low, double high) {
  Axis axis{true, low, high, {}};
  if (axis.high < 2 * axis.low) {
    axis.low /= 1.5;
    axis.high *= 1.5;
  }
  const double decades = std::log10(axis.high / axis.low);
  const auto first = static_cast<int>(std::floor(std::log10(axis.low)));
  const auto last = static_cast<int>(std::ceil(std::log10(axis.high)));
  const int step = std::max(1, static_cast<int>(decades / 6));
  for (int e = first; e <= last; e += step) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (factor > 1 && decades > 2.5) continue;
      const double tick = factor * std::pow(10.0, e);
      if (tick >= axis.low * 0.999 && tick <= axis.high * 1.001) axis.ticks.push_back(tick);
    }
  }
  return axis;
}

// From 0 to `high`, or to the tick above it.
Axis MakeLinearAxis(double high, bool to_tick) {
  Axis axis{false, 0, high > 0 ? high : 1, {}};
  const double rough = axis.high / 5;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = power * 10;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (power * factor >= rough) {
      step = power * factor;
      break;
    }
  }
  if (to_tick) axis.high = std::ceil(axis.high / step - 1e-9) * step;
  for (double tick = 0; tick <= axis.high * 1.001; tick += step) axis.ticks.push_back(tick);
  return axis;
}

bool Drawable(const LineChart& chart, const std::pair<double, double>& p) {
  return std::isfinite(p.first) && std::isfinite(p.second) && (!chart.log_x || p.first > 0) &&
         (!chart.log_y || p.second > 0);
}

std::pair<Axis, Axis> MakeAxes(const LineChart& chart) {
  double low[2] = {INFINITY, INFINITY};
  double high[2] = {0, 0};
  for (const Series& series : chart.series) {
    for (const auto& p : series.points) {
      if (!Drawable(chart, p)) continue;
      const double values[2] = {p.first, p.second};
      for (int i = 0; i < 2; ++i) {
        low[i] = std::min(low[i], values[i]);
        high[i] = std::max(high[i], values[i]);
      }
    }
  }
  const auto make = [](bool log, double from, double to, bool to_tick) {
    return log && std::isfinite(from) ? MakeLogAxis(from, to) : MakeLinearAxis(to, to_tick);
  };
  return {make(chart.log_x, low[0], high[0], false), make(chart.log_y, low[1], high[1], true)};
}

// About how wide the character that begins with this byte is, in letters: scripts and symbols
// beyond the Greek, Cyrillic and so on count as two. 0 within a character.
int Columns(char byte) {
  const auto c = static_cast<unsigned char>(byte);
  if ((c & 0xc0) == 0x80) return 0;
  return c >= 0xe1 ? 2 : 1;
}

int Columns(std::string_view text) {
  int columns = 0;
  for (const char c : text) columns += Columns(c);
  return columns;
}

// At most `most` columns, and a mark where more are left out.
std::string Shortened(std::string_view text, int most) {
  if (Columns(text) <= most) return std::string(text);
  int columns = 1;  // of the mark
  size_t end = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (Columns(text[i]) > 0) end = i;  // a character's first byte
    columns += Columns(text[i]);
    if (columns > most) break;
  }
  return Concat(text.substr(0, end), "\xe2\x80\xa6");
}

constexpr double kLetter = 7.2;  // width of one at 12 user units, and a little room

// The plot's rectangle and what is drawn in it.
class Plot {
 public:
  // `top`: where the y axis' name goes, and below it the labels of marks and the plot.
  Plot(const LineChart& chart, double top)
      : chart_(chart),
        label_y_(top + 11),
        top_(top + 26 + kRow * static_cast<double>(chart.marks.size())),
        axes_(MakeAxes(chart)) {}

  double bottom() const { return top_ + kPlotHeight; }
  double X(double value) const { return kLeft + axes_.first.At(value) * (kWidth - kLeft - kRight); }
  double Y(double value) const { return bottom() - axes_.second.At(value) * kPlotHeight; }

  std::string Grid() const {
    std::string svg;
    for (const double tick : axes_.second.ticks) {
      svg += Line(kLeft, Y(tick), kWidth - kRight, Y(tick), "grid");
      svg += Text(kLeft - 6, Y(tick) + 4, "end", ShortNumber(tick));
    }
    double last = -100;
    for (const double tick : axes_.first.ticks) {
      svg += Line(X(tick), bottom(), X(tick), bottom() + 4, "axis");
      if (X(tick) - last < 34) continue;  // no room for another label
      svg += Text(X(tick), bottom() + 17, "middle", ShortNumber(tick));
      last = X(tick);
    }
    svg += Line(kLeft, bottom(), kWidth - kRight, bottom(), "axis");
    svg += Text((kLeft + kWidth - kRight) / 2, bottom() + 35, "middle", chart_.x_label);
    return svg + Text(8, label_y_, "start", chart_.y_label);
  }

  // Their labels stand above the plot, one to a row.
  std::string Marks() const {
    std::string svg;
    double y = top_ - kRow * static_cast<double>(chart_.marks.size()) + 8;
    for (const LineChart::Mark& mark : chart_.marks) {
      const double share = axes_.first.At(mark.x);
      if (!(share >= 0 && share <= 1)) continue;
      const double x = X(mark.x);
      svg += Line(x, y - 10, x, bottom(), "mark");
      const bool left = share > 0.5;  // of the line, where there is room
      svg += Text(left ? x - 5 : x + 5, y, left ? "end" : "start", mark.label);
      y += kRow;
    }
    return svg;
  }

  std::string Lines() const {
    std::string svg;
    for (size_t s = 0; s < chart_.series.size(); ++s) {
      const std::string colour = Concat("s", s % kColours);
      std::string path, dots;
      for (const auto& p : chart_.series[s].points) {
        if (!Drawable(chart_, p)) continue;
        const std::string at = Number(X(p.first)) + " " + Number(Y(p.second));
        path += (path.empty() ? "M" : "L") + at;
        dots +=
            Concat("<circle class=\"dot ", colour, "\" cx=\"", Number(X(p.first)), "\" cy=\"",
                   Number(Y(p.second)), "\" r=\"3\"><title>", EscapeXml(chart_.series[s].name),
                   ": ", ShortNumber(p.first), ", ", ShortNumber(p.second), "</title></circle>");
      }
      if (!path.empty()) svg += Concat("<path class=\"line ", colour, "\" d=\"", path, "\"/>");
      svg += dots;
    }
    return svg;
  }

 private:
  const LineChart& chart_;
  double label_y_, top_;
  std::pair<Axis, Axis> axes_;
};

}  // namespace

std::string EscapeXml(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const int length = c < 0x80 ? 1 : c >= 0xf0 && c < 0xf5 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 0;
    bool whole = length > 0 && c < 0xf5 && i + length <= text.size();
    for (int k = 1; whole && k < length; ++k) whole = (text[i + k] & 0xc0) == 0x80;
    if (!whole) {
      out += "\xef\xbf\xbd";
    } else if (length > 1) {
      out += text.substr(i, length);
      i += length - 1;
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c < 0x20 || c == 0x7f) {
      out += c == '\n' ? "\xe2\x86\xb5" : c == '\t' ? "\xe2\x87\xa5" : "\xc2\xb7";
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string ShortNumber(double value) {
  constexpr std::string_view kUnits[] = {"", "k", "M", "G", "T", "P"};
  size_t unit = 0;
  while (std::abs(value) >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return Concat(text, kUnits[unit]);
}

std::string ToSvg(const LineChart& chart) {
  // The legend takes rows above the plot: two names to a row, if all are short.
  const double legend = 38;
  const size_t columns = std::all_of(chart.series.begin(), chart.series.end(),
                                     [](const Series& s) { return Columns(s.name) <= 22; })
                             ? 2
                             : 1;
  const size_t rows = (chart.series.size() + columns - 1) / columns;
  const Plot plot(chart, legend + static_cast<double>(rows) * kRow);
  std::string svg = Open(kWidth, plot.bottom() + 44, chart.title, "chart");
  for (size_t s = 0; s < chart.series.size(); ++s) {
    const double x = s % columns == 0 ? 8 : kWidth / 2;
    const size_t row = s / columns;
    const double y = legend + static_cast<double>(row) * kRow;
    svg += Line(x, y - 4, x + 18, y - 4, Concat("line s", s % kColours));
    svg += Text(x + 24, y, "start", Shortened(chart.series[s].name, columns == 2 ? 22 : 48));
  }
  return svg + plot.Grid() + plot.Marks() + plot.Lines() + "</svg>";
}

std::string ToSvg(const BarChart& chart) {
  double most = 0;
  for (const BarChart::Bar& bar : chart.bars) most = std::max(most, bar.value);
  constexpr double kNames = 150;
  constexpr double kTexts = 86;
  std::string svg =
      Open(kWidth, 34 + (kRow + 8) * static_cast<double>(chart.bars.size()), chart.title, "chart");
  for (size_t i = 0; i < chart.bars.size(); ++i) {
    const BarChart::Bar& bar = chart.bars[i];
    const double y = 30 + (kRow + 8) * static_cast<double>(i);
    const double width = most > 0 ? bar.value / most * (kWidth - kNames - kTexts) : 0;
    svg += Text(kNames - 8, y + 14, "end", Shortened(bar.name, 17));
    svg += Concat("<rect class=\"bar s", i % kColours, "\" x=\"", Number(kNames), "\" y=\"",
                  Number(y), "\" width=\"", Number(std::max(width, 1.0)), "\" height=\"",
                  Number(kRow), "\" rx=\"2\"/>");
    svg += Text(kNames + std::max(width, 1.0) + 6, y + 14, "start", bar.text);
  }
  return svg + "</svg>";
}

std::string ToSvg(const AttentionMapChart& chart) {
  constexpr double kPhone = 350;  // fits its width
  constexpr double kTop = 34;
  constexpr int kMostColumns = 13;  // of a label
  const size_t n = chart.tokens.size();
  std::vector<std::string> labels;
  int columns = 1;
  for (const std::string& token : chart.tokens) {
    labels.push_back(Shortened(token, kMostColumns));
    columns = std::max(columns, Columns(labels.back()));
  }
  const double margin = columns * kLetter + 6;
  // Never smaller than letters that can be read.
  const double cell = std::clamp((kPhone - margin) / static_cast<double>(n), 14.0, 26.0);
  const double side = cell * static_cast<double>(n);
  // The title has to fit, too.
  const double width =
      std::max(margin + side + 2, 12 + 8.4 * static_cast<double>(Columns(chart.title)));
  std::string svg = Open(width, kTop + side + margin, chart.title, "chart map");
  for (size_t i = 0; i < n; ++i) {
    const double middle = (static_cast<double>(i) + 0.5) * cell + 4;
    svg += Text(margin - 5, kTop + middle, "end", labels[i]);
    svg +=
        Concat("<g transform=\"translate(", Number(margin + middle), " ", Number(kTop + side + 5),
               ") rotate(-90)\">", Text(0, 0, "end", labels[i]), "</g>");
    for (size_t j = 0; j <= i; ++j) {
      const float weight = std::clamp(chart.weights[i * n + j], 0.0f, 1.0f);
      char opacity[16];
      // The root shows small weights, of which there are most.
      std::snprintf(opacity, sizeof(opacity), "%.3f", 0.04 + 0.96 * std::sqrt(weight));
      svg += Concat("<rect class=\"cell\" x=\"", Number(margin + static_cast<double>(j) * cell),
                    "\" y=\"", Number(kTop + static_cast<double>(i) * cell), "\" width=\"",
                    Number(cell), "\" height=\"", Number(cell), "\" fill-opacity=\"", opacity,
                    "\"><title>", EscapeXml(chart.tokens[i]), " to ", EscapeXml(chart.tokens[j]),
                    ": ", ShortNumber(weight), "</title></rect>");
    }
  }
  return svg + "</svg>";
}

std::string_view ChartStyle() {
  return R"(:root{color-scheme:light dark;--bg:#fff;--fg:#1d2430;--dim:#5c6675;--grid:#dde1e7;
--s0:#0b62d6;--s1:#c2410c;--s2:#0f7b55;--s3:#8b2fc9;--s4:#a16207;--s5:#b4235a}
@media(prefers-color-scheme:dark){:root{--bg:#14181f;--fg:#e6e9ee;--dim:#a0a9b8;--grid:#323945;
--s0:#6aa8ff;--s1:#ff9a62;--s2:#4fd1a1;--s3:#cf9bff;--s4:#e6c04a;--s5:#ff8fb4}}
.chart{font-family:system-ui,"DejaVu Sans",sans-serif}
.t{font-size:12px;fill:var(--dim)}.title{font-size:14px;font-weight:600;fill:var(--fg)}
.grid{stroke:var(--grid)}.axis{stroke:var(--dim)}.mark{stroke:var(--dim);stroke-dasharray:4 3}
.line{fill:none;stroke-width:2.2}
.line.s0{stroke:var(--s0)}.line.s1{stroke:var(--s1)}.line.s2{stroke:var(--s2)}
.line.s3{stroke:var(--s3)}.line.s4{stroke:var(--s4)}.line.s5{stroke:var(--s5)}
.s0{fill:var(--s0)}.s1{fill:var(--s1)}.s2{fill:var(--s2)}
.s3{fill:var(--s3)}.s4{fill:var(--s4)}.s5{fill:var(--s5)}.line{fill:none!important}
.cell{fill:var(--s0)}
)";
}

std::string StandaloneSvg(const std::string& svg) {
  const size_t body = svg.find('>') + 1;
  return Concat(svg.substr(0, body), "<style>", ChartStyle(),
                "</style><rect width=\"100%\" height=\"100%\" style=\"fill:var(--bg)\"/>",
                svg.substr(body), "\n");
}

}  // namespace mla
