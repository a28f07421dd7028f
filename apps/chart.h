// Charts as SVG text. Colours are CSS variables, so that one drawing reads in light and in dark.
#ifndef MLA_APPS_CHART_H_
#define MLA_APPS_CHART_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mla {

// Escapes &, <, > and quotes; control characters and bytes that are not UTF-8 become visible ones.
std::string EscapeXml(std::string_view text);

// 1234567 -> "1.2M": for axes.
std::string ShortNumber(double value);

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x, y; drawn in this order
};

// Lines with dots, axes with ticks and a legend. On a log axis points at or below 0 are left out.
// At most six series have colours of their own.
struct LineChart {
  // A vertical line across the plot, with a label.
  struct Mark {
    double x = 0;
    std::string label;
  };
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;
  std::vector<Series> series;
  std::vector<Mark> marks;
};
std::string ToSvg(const LineChart& chart);

// Horizontal bars, labelled with `text`.
struct BarChart {
  struct Bar {
    std::string name;
    double value = 0;
    std::string text;
  };
  std::string title;
  std::vector<Bar> bars;
};
std::string ToSvg(const BarChart& chart);

// Square map of weights in [0, 1]: row i looks at column j. Tokens label both axes. As wide as its
// tokens need, on the page too, so that they can be read on any screen.
struct AttentionMapChart {
  std::string title;
  std::vector<std::string> tokens;  // n
  std::vector<float> weights;       // [n, n]
};
std::string ToSvg(const AttentionMapChart& chart);

// The style that the drawings need: for a page that holds them, or inside a file of one.
std::string_view ChartStyle();
// The drawing as a file of its own.
std::string StandaloneSvg(const std::string& svg);

}  // namespace mla

#endif  // MLA_APPS_CHART_H_
