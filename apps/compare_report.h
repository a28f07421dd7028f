// What `mla compare` measured, as text, JSON and a page.
#ifndef MLA_APPS_COMPARE_REPORT_H_
#define MLA_APPS_COMPARE_REPORT_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "apps/compare.h"

namespace mla {

// Attention maps of one model over one text.
struct MapSet {
  std::string model;
  std::vector<std::string> tokens;  // that are mapped: the text's first ones
  int64_t text_tokens = 0;          // of the whole text
  std::vector<HeadMap> maps;
};

// What was not asked for is empty.
struct CompareResults {
  std::string model;  // as the user named it
  FormComparison forms;
  int64_t text_tokens = 0;  // of the prompt
  LayerOptions layer_options;
  std::vector<LayerRun> layers;
  std::vector<TextRun> texts;
  std::vector<MapSet> maps;
};

std::string CompareText(const CompareResults& results);
nlohmann::ordered_json CompareJson(const CompareResults& results);
std::string CompareHtml(const CompareResults& results);

std::string MapSvg(const MapSet& set, const HeadMap& map);

}  // namespace mla

#endif  // MLA_APPS_COMPARE_REPORT_H_
