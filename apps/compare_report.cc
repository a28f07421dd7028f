#include "apps/compare_report.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/chart.h"
#include "apps/output.h"
#include "apps/report_html.h"
#include "apps/system_info.h"

namespace mla {
namespace {

using Json = nlohmann::ordered_json;
using Section = ReportSection;

std::string Rate(double rate) {
  return rate >= 100 ? WithCommas(static_cast<int64_t>(rate)) : Fixed(rate, 2);
}

std::string FormTitle(const std::string& form) {
  if (form == "mha") return "as plain MHA";
  return form == "own" ? "its own" : form;
}

std::string CrossoverText(const FormComparison& forms) {
  std::string text = Concat("At a depth of ", WithCommas(forms.chunk_depth),
                            ", expanded was faster than absorbed ");
  text += forms.crossover > 0 ? Concat("from ", forms.crossover, " tokens per step on")
                              : "at no measured number of tokens per step";
  text += forms.chosen_crossover > 0
              ? Concat("; the choice by operations changes at ", forms.chosen_crossover, ".")
              : "; the choice by operations stays absorbed.";
  return text;
}

Section FormSection(const CompareResults& results) {
  const FormComparison& forms = results.forms;
  Section section{"Forms of attention, one model",
                  {"attention", "cache bytes per token", "same text", "largest logit difference"},
                  {},
                  ""};
  for (const FormRun& run : forms.runs) {
    section.rows.push_back({FormTitle(run.form),
                            Concat(WithCommas(run.cache_bytes_per_token), " (", run.kv_dtype, ")"),
                            run.greedy == forms.runs[0].greedy ? "yes" : "no",
                            Fixed(run.max_logit_difference, 6)});
  }
  section.note = Concat("Same text: the ", forms.runs[0].greedy.size(),
                        " likeliest tokens after the prompt, one by one.");
  if (forms.prompt_tokens < results.text_tokens) {
    section.note += Concat(" The prompt is the first ", WithCommas(forms.prompt_tokens), " of ",
                           WithCommas(results.text_tokens), " tokens, for which there is room.");
  }
  if (forms.runs.back().kv_dtype != forms.runs[0].kv_dtype) {
    section.note += Concat(" Heads' keys and values have no ", forms.runs[0].kv_dtype,
                           " form: MHA's cache is ", forms.runs.back().kv_dtype, ".");
  }
  if (forms.runs.size() > 1) section.note += " " + CrossoverText(forms);
  if (forms.top_k > 0) {
    section.note += Concat(" This model attends to ", WithCommas(forms.top_k),
                           " chosen tokens at most. With more of them in the cache every form "
                           "attends to those, and expanded runs as absorbed.");
  }
  return section;
}

// Rows of the points of several runs, measured alike.
struct NamedPoints {
  std::string name;
  const std::vector<SpeedPoint>* points;
};
Section SpeedSection(const std::string& title, const std::string& what, int32_t SpeedPoint::*row_of,
                     const std::vector<NamedPoints>& runs) {
  Section section{title, {what}, {}, ""};
  for (const NamedPoints& run : runs) section.header.push_back(run.name);
  for (size_t i = 0; i < runs[0].points->size(); ++i) {
    std::vector<std::string> row = {WithCommas((*runs[0].points)[i].*row_of)};
    for (const NamedPoints& run : runs) row.push_back(Rate((*run.points)[i].tokens_per_second));
    section.rows.push_back(std::move(row));
  }
  return section;
}

std::vector<NamedPoints> PointsOf(const FormComparison& forms,
                                  std::vector<SpeedPoint> FormRun::*points) {
  std::vector<NamedPoints> named;
  named.reserve(forms.runs.size());
  for (const FormRun& run : forms.runs) named.push_back({FormTitle(run.form), &(run.*points)});
  return named;
}

// A model's folder without those it lies in, unless that says too little.
std::string ShortName(const TextRun& run, const std::vector<TextRun>& texts) {
  const auto last = [](const std::string& path) {
    return std::filesystem::path(path).lexically_normal().filename().string();
  };
  const std::string name = last(run.model);
  const auto alike = std::count_if(texts.begin(), texts.end(),
                                   [&](const TextRun& other) { return last(other.model) == name; });
  return name.empty() || alike > 1 ? run.model : name;
}

std::vector<NamedPoints> PointsOf(const std::vector<TextRun>& texts) {
  std::vector<NamedPoints> named;
  named.reserve(texts.size());
  for (const TextRun& run : texts) named.push_back({ShortName(run, texts), &run.decode});
  return named;
}

Section LayerSection(const LayerOptions& o, const std::vector<LayerRun>& layers) {
  Section section{"One layer of each kind",
                  {"layer", "parameters", "cache bytes per token", "prefill tokens/s"},
                  {},
                  ""};
  for (const SpeedPoint& point : layers[0].decode) {
    section.header.push_back(Concat("decode at ", WithCommas(point.depth)));
  }
  for (const LayerRun& layer : layers) {
    std::vector<std::string> row = {layer.kind, HumanCount(static_cast<double>(layer.parameters)),
                                    WithCommas(layer.cache_bytes_per_token),
                                    Rate(layer.prefill_tokens_per_second)};
    for (const SpeedPoint& point : layer.decode) row.push_back(Rate(point.tokens_per_second));
    section.rows.push_back(std::move(row));
  }
  section.note = Concat("Width ", o.hidden, ", ", o.heads, " heads of ", o.head_dim, "; GQA with ",
                        o.kv_heads, " KV heads; MLA with kv_lora_rank ", o.kv_lora_rank);
  if (o.q_lora_rank > 0) section.note += Concat(", q_lora_rank ", o.q_lora_rank);
  section.note +=
      Concat(", qk_rope_head_dim ", o.qk_rope_head_dim, " and v_head_dim ", o.v_head_dim,
             ". bf16 weights, random; bf16 cache; attention with its projections, in "
             "tokens per second.");
  return section;
}

Section TextSection(const std::vector<TextRun>& texts) {
  Section section{"The same text",
                  {"model", "tokens", "perplexity", "bits per byte", "bytes/s", "weights",
                   "cache per token", "cache per byte of text"},
                  {},
                  ""};
  for (const TextRun& run : texts) {
    section.rows.push_back({ShortName(run, texts), WithCommas(run.tokens), Fixed(run.perplexity, 3),
                            Fixed(run.bits_per_byte, 4), Rate(run.bytes_per_second),
                            HumanBytes(static_cast<double>(run.weight_bytes)),
                            WithCommas(run.cache_bytes_per_token),
                            Fixed(run.cache_bytes_per_text_byte, 1)});
  }
  section.note = Concat("In windows of ", WithCommas(texts[0].context),
                        " tokens. Perplexity is per token: where tokens differ, compare bits per "
                        "byte. The cache in bytes.");
  return section;
}

std::vector<Section> Sections(const CompareResults& results) {
  std::vector<Section> sections;
  const FormComparison& forms = results.forms;
  if (!forms.runs.empty()) {
    sections.push_back(FormSection(results));
    if (!forms.runs[0].prefill.empty()) {
      sections.push_back(SpeedSection("Prefill, tokens per second", "prompt", &SpeedPoint::tokens,
                                      PointsOf(forms, &FormRun::prefill)));
    }
    sections.push_back(SpeedSection("Decode, tokens per second", "depth", &SpeedPoint::depth,
                                    PointsOf(forms, &FormRun::decode)));
  }
  if (!results.layers.empty()) {
    sections.push_back(LayerSection(results.layer_options, results.layers));
  }
  if (!results.texts.empty()) {
    sections.push_back(TextSection(results.texts));
    sections.push_back(SpeedSection("Decode, tokens per second", "depth", &SpeedPoint::depth,
                                    PointsOf(results.texts)));
  }
  return sections;
}

Json PointsJson(const std::vector<SpeedPoint>& points) {
  Json json = Json::array();
  for (const SpeedPoint& p : points) {
    json.push_back(
        {{"depth", p.depth}, {"tokens", p.tokens}, {"tokens_per_second", p.tokens_per_second}});
  }
  return json;
}

void AddFormsJson(const FormComparison& forms, Json& json) {
  json["same_tokens"] = forms.same_tokens;
  json["prompt_tokens"] = forms.prompt_tokens;
  json["chunk_depth"] = forms.chunk_depth;
  json["crossover"] = forms.crossover;
  json["chosen_crossover"] = forms.chosen_crossover;
  for (const FormRun& run : forms.runs) {
    json["forms"].push_back({{"form", run.form},
                             {"kv_dtype", run.kv_dtype},
                             {"cache_bytes_per_token", run.cache_bytes_per_token},
                             {"max_logit_difference", run.max_logit_difference},
                             {"greedy", run.greedy},
                             {"prefill", PointsJson(run.prefill)},
                             {"decode", PointsJson(run.decode)},
                             {"chunks", PointsJson(run.chunks)}});
  }
}

void AddLayersJson(const LayerOptions& o, const std::vector<LayerRun>& layers, Json& json) {
  json["layer_dimensions"] = {{"width", o.hidden},
                              {"heads", o.heads},
                              {"head_dim", o.head_dim},
                              {"kv_heads", o.kv_heads},
                              {"kv_lora_rank", o.kv_lora_rank},
                              {"q_lora_rank", o.q_lora_rank},
                              {"qk_rope_head_dim", o.qk_rope_head_dim},
                              {"v_head_dim", o.v_head_dim}};
  for (const LayerRun& layer : layers) {
    json["layers"].push_back({{"kind", layer.kind},
                              {"parameters", layer.parameters},
                              {"cache_bytes_per_token", layer.cache_bytes_per_token},
                              {"prefill_tokens_per_second", layer.prefill_tokens_per_second},
                              {"decode", PointsJson(layer.decode)}});
  }
}

Json TextJson(const TextRun& run) {
  return {{"model", run.model},
          {"context", run.context},
          {"tokens", run.tokens},
          {"nll", run.nll},
          {"perplexity", run.perplexity},
          {"bits_per_byte", run.bits_per_byte},
          {"tokens_per_second", run.tokens_per_second},
          {"bytes_per_second", run.bytes_per_second},
          {"weight_bytes", run.weight_bytes},
          {"cache_bytes_per_token", run.cache_bytes_per_token},
          {"cache_bytes_per_text_byte", run.cache_bytes_per_text_byte},
          {"decode", PointsJson(run.decode)}};
}

enum class SpeedAxis { kDepth, kPrompt, kStep };

LineChart SpeedChart(const std::string& title, SpeedAxis axis,
                     const std::vector<NamedPoints>& runs) {
  const bool log = axis == SpeedAxis::kStep;
  const char* x_label = axis == SpeedAxis::kDepth    ? "tokens in the cache"
                        : axis == SpeedAxis::kPrompt ? "tokens of the prompt"
                                                     : "tokens per step";
  LineChart chart{title, x_label, "tokens per second", log, log, {}, {}};
  for (const NamedPoints& run : runs) {
    Series series{run.name, {}};
    for (const SpeedPoint& p : *run.points) {
      series.points.push_back({static_cast<double>(axis == SpeedAxis::kDepth ? p.depth : p.tokens),
                               p.tokens_per_second});
    }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

// Straight lines from the origin to the deepest point measured.
LineChart GrowthChart(const std::string& title, const std::string& x_label, double most,
                      const std::vector<std::pair<std::string, double>>& bytes_per_unit) {
  LineChart chart{title, x_label, "bytes", false, false, {}, {}};
  for (const auto& [name, bytes] : bytes_per_unit) {
    chart.series.push_back({name, {{0, 0}, {most / 2, most / 2 * bytes}, {most, most * bytes}}});
  }
  return chart;
}

void AddFormCharts(const FormComparison& forms, HtmlReport& report) {
  std::vector<std::pair<std::string, double>> caches;
  for (const FormRun& run : forms.runs) {
    if (run.form == "expanded") continue;  // the same latent cache
    caches.push_back(
        {run.form == "absorbed" ? "latent (absorbed, expanded)" : FormTitle(run.form) + ", k and v",
         static_cast<double>(run.cache_bytes_per_token)});
  }
  const double most = 2 * forms.chunk_depth;  // the context
  std::vector<std::string> charts = {
      ToSvg(GrowthChart("Cache of one sequence", "tokens", most, caches)),
      ToSvg(SpeedChart("Decode speed with depth", SpeedAxis::kDepth,
                       PointsOf(forms, &FormRun::decode)))};
  if (!forms.runs[0].prefill.empty()) {
    charts.push_back(ToSvg(SpeedChart("Prefill speed with length", SpeedAxis::kPrompt,
                                      PointsOf(forms, &FormRun::prefill))));
  }
  if (forms.runs.size() > 1) {
    LineChart crossing = SpeedChart(Concat("Where the forms cross, at depth ", forms.chunk_depth),
                                    SpeedAxis::kStep, PointsOf(forms, &FormRun::chunks));
    if (forms.crossover > 0) {
      crossing.marks.push_back(
          {static_cast<double>(forms.crossover), Concat("measured: from ", forms.crossover)});
    }
    if (forms.chosen_crossover > 0) {
      crossing.marks.push_back({static_cast<double>(forms.chosen_crossover),
                                Concat("chosen by operations: from ", forms.chosen_crossover)});
    }
    charts.push_back(ToSvg(crossing));
  }
  report.Charts(charts);
}

void AddLayerCharts(const std::vector<LayerRun>& layers, HtmlReport& report) {
  std::vector<NamedPoints> decode;
  BarChart bytes{"Cache of one layer, bytes per token", {}};
  BarChart parameters{"Parameters of one layer", {}};
  for (const LayerRun& layer : layers) {
    decode.push_back({layer.kind, &layer.decode});
    bytes.bars.push_back({layer.kind, static_cast<double>(layer.cache_bytes_per_token),
                          WithCommas(layer.cache_bytes_per_token)});
    const auto count = static_cast<double>(layer.parameters);
    parameters.bars.push_back({layer.kind, count, HumanCount(count)});
  }
  report.Charts({ToSvg(bytes), ToSvg(parameters),
                 ToSvg(SpeedChart("Decode of one layer with depth", SpeedAxis::kDepth, decode))});
}

void AddTextCharts(const std::vector<TextRun>& texts, HtmlReport& report) {
  BarChart bits{"Bits per byte of text: less is better", {}};
  BarChart speed{"Text scored, bytes per second", {}};
  std::vector<std::pair<std::string, double>> caches;
  for (const TextRun& run : texts) {
    const std::string name = ShortName(run, texts);
    bits.bars.push_back({name, run.bits_per_byte, Fixed(run.bits_per_byte, 3)});
    speed.bars.push_back({name, run.bytes_per_second, Rate(run.bytes_per_second)});
    caches.push_back({name, run.cache_bytes_per_text_byte});
  }
  report.Charts({ToSvg(bits), ToSvg(speed),
                 ToSvg(GrowthChart("Cache of a text", "bytes of text", 1000, caches)),
                 ToSvg(SpeedChart("Decode speed with depth", SpeedAxis::kDepth, PointsOf(texts)))});
}

void AddMaps(const CompareResults& results, HtmlReport& report) {
  report.Heading("Where heads look");
  report.Paragraph(
      "Each row is a token, and shows how its attention is spread over itself and the tokens "
      "before "
      "it. The stronger the colour, the more.");
  for (const MapSet& set : results.maps) {
    std::string about = results.maps.size() > 1 ? set.model + ". " : "";
    if (std::ssize(set.tokens) < set.text_tokens) {
      about += Concat("The first ", set.tokens.size(), " of the text's ",
                      WithCommas(set.text_tokens), " tokens.");
    }
    if (!about.empty()) report.Paragraph(about);
    std::vector<std::string> svgs;
    for (const HeadMap& map : set.maps) svgs.push_back(MapSvg(set, map));
    report.Maps(svgs);
  }
}

}  // namespace

std::string CompareText(const CompareResults& results) {
  std::string text = CpuModel() + "\n";
  for (const Section& section : Sections(results)) text += ToText(section);
  return text;
}

Json CompareJson(const CompareResults& results) {
  Json json;
  json["cpu"] = CpuModel();
  if (!results.model.empty()) json["model"] = results.model;
  if (!results.forms.runs.empty()) AddFormsJson(results.forms, json);
  if (!results.layers.empty()) AddLayersJson(results.layer_options, results.layers, json);
  for (const TextRun& run : results.texts) json["texts"].push_back(TextJson(run));
  for (const MapSet& set : results.maps) {
    for (const HeadMap& map : set.maps) {
      json["maps"].push_back({{"model", set.model},
                              {"layer", map.of.layer},
                              {"head", map.of.head},
                              {"tokens", set.tokens},
                              {"weights", map.weights}});
    }
  }
  return json;
}

std::string CompareHtml(const CompareResults& results) {
  std::string what = results.model.empty() ? "layers" : results.model;
  if (results.texts.size() > 1) what += " and " + results.texts[1].model;
  HtmlReport report("Attention compared: " + what);
  report.Paragraph(Concat("Measured on ", CpuModel(), "."));
  if (!results.forms.runs.empty()) AddFormCharts(results.forms, report);
  if (!results.layers.empty()) AddLayerCharts(results.layers, report);
  if (!results.texts.empty()) AddTextCharts(results.texts, report);
  for (const Section& section : Sections(results)) report.Section(section);
  if (!results.maps.empty()) AddMaps(results, report);
  return report.ToString();
}

std::string MapSvg(const MapSet& set, const HeadMap& map) {
  return ToSvg(AttentionMapChart{Concat("Layer ", map.of.layer, ", head ", map.of.head), set.tokens,
                                 map.weights});
}

}  // namespace mla
