// mla compare: forms of attention, kinds of layers and models side by side, measured.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/chart.h"
#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/compare.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "apps/report_html.h"
#include "apps/system_info.h"
#include "model/accounting.h"

namespace mla {
namespace {

using Json = nlohmann::ordered_json;
using Rows = std::vector<std::vector<std::string>>;

constexpr const char* kDescription =
    R"(Runs the same work in several ways and measures each. One MLA model: with the latent
cache (absorbed, expanded) and as plain MHA with all keys and values cached: outputs, bytes and
speed at growing depth. --layers: MHA, GQA, MQA and MLA layers of the same width, random weights.
With --file: how well and how fast MODEL, and MODEL2 beside it, predict a text. --html shows it all
with charts, and attention maps of --maps over --text.)";

constexpr const char* kExamples =
    R"(  mla compare models/stories-mla-9m
  mla compare models/stories-mla-9m --depths 0,128,256,480 --html report.html
  mla compare models/stories-mla-9m OTHER --file story.txt
  mla compare --layers --heads 32 --head-dim 128 --width 4096)";

struct CompareFlags {
  SessionFlags session;
  std::string other, depths, file, html, svg;
  std::string text = "Once upon a time, a little girl named Lily found a red ball.";
  std::string maps = "0:0,1:0";
  LayerOptions layers;
  int32_t decode_tokens = 16, repetitions = 3;
  bool with_layers = false, json = false;
};

struct Results {
  FormComparison forms;
  std::vector<LayerRun> layers;
  std::vector<TextRun> texts;
  std::vector<HeadMap> maps;
  std::vector<std::string> tokens;  // of the maps
};

struct Section {
  std::string title;
  std::vector<std::string> header;
  Rows rows;
  std::string note;
};

std::string Rate(double rate) {
  return rate >= 100 ? WithCommas(static_cast<int64_t>(rate)) : Fixed(rate, 2);
}

std::string FormTitle(const std::string& form) {
  if (form == "mha") return "as plain MHA";
  return form == "own" ? "its own" : form;
}

// "0:3,5:1" as layers and heads.
Result<std::vector<std::pair<int32_t, int32_t>>> ParseMaps(const std::string& text) {
  std::vector<std::pair<int32_t, int32_t>> heads;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const size_t colon = part.find(':');
    if (colon == std::string::npos) {
      return InvalidArgument("--maps: ", OneLine(part), " is no LAYER:HEAD, want for example 0:3");
    }
    MLA_ASSIGN_OR_RETURN(const auto layer,
                         ParseIntList(part.substr(0, colon), "--maps", 0, INT32_MAX));
    MLA_ASSIGN_OR_RETURN(const auto head,
                         ParseIntList(part.substr(colon + 1), "--maps", 0, INT32_MAX));
    heads.push_back({layer[0], head[0]});
    begin = end + 1;
  }
  return heads;
}

Result<std::vector<int32_t>> Depths(const CompareFlags& flags, int32_t context) {
  std::vector<int32_t> depths;
  if (flags.depths.empty()) {
    for (const double share : {0.0, 0.125, 0.25, 0.5, 0.75, 0.95}) {
      depths.push_back(static_cast<int32_t>(share * std::min(context, 4096)));
    }
    return depths;
  }
  MLA_ASSIGN_OR_RETURN(depths, ParseIntList(flags.depths, "--depths", 0, INT32_MAX));
  std::sort(depths.begin(), depths.end());
  if (depths.back() >= context) {
    return InvalidArgument("--depths: ", depths.back(), " is too much, want less than ", context,
                           ", the context");
  }
  return depths;
}

Status MeasureForms(const CompareFlags& flags, const LoadedModel& loaded, Results& results) {
  CompareOptions options;
  options.session = flags.session.ToOptions();
  options.decode_tokens = flags.decode_tokens;
  options.repetitions = flags.repetitions;
  const int32_t most = loaded.model->spec().max_positions;
  if (options.session.context == 0) options.session.context = std::min(most, 4096);
  MLA_ASSIGN_OR_RETURN(options.depths, Depths(flags, std::min(options.session.context, most)));
  MLA_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, EncodePrompt(loaded, flags.text));
  if (prompt.empty()) return InvalidArgument("--text is empty, want some words");
  ProgressBar bar("measuring", FormSteps(*loaded.model, options));
  int64_t done = 0;
  MLA_ASSIGN_OR_RETURN(results.forms,
                       CompareForms(*loaded.model, prompt, options, [&] { bar.Update(++done); }));
  return {};
}

Status DrawMaps(const CompareFlags& flags, const LoadedModel& loaded, Results& results) {
  constexpr size_t kMostTokens = 48;  // more could not be read
  MLA_ASSIGN_OR_RETURN(const auto heads, ParseMaps(flags.maps));
  MLA_ASSIGN_OR_RETURN(std::vector<int32_t> ids, EncodePrompt(loaded, flags.text));
  if (ids.empty()) return InvalidArgument("--text is empty, want some words");
  ids.resize(
      std::min({ids.size(), kMostTokens, static_cast<size_t>(loaded.model->spec().max_positions)}));
  MLA_ASSIGN_OR_RETURN(results.maps, AttentionMaps(*loaded.model, ids, heads));
  for (const int32_t id : ids) {
    MLA_ASSIGN_OR_RETURN(std::string token,
                         loaded.tokenizer->Decode({&id, 1}, /*skip_special=*/false));
    results.tokens.push_back(std::move(token));
  }
  return {};
}

Status ScoreTexts(const CompareFlags& flags, const LoadedModel& loaded, Results& results) {
  MLA_ASSIGN_OR_RETURN(const std::string text, ReadText(flags.file));
  MLA_ASSIGN_OR_RETURN(TextRun first,
                       ScoreText(flags.session.model, loaded, text, flags.session.ToOptions()));
  results.texts.push_back(std::move(first));
  if (flags.other.empty()) return {};
  MLA_ASSIGN_OR_RETURN(const LoadedModel other, LoadModelAndTokenizer(flags.other));
  MLA_ASSIGN_OR_RETURN(TextRun second,
                       ScoreText(flags.other, other, text, flags.session.ToOptions()));
  results.texts.push_back(std::move(second));
  return {};
}

Section FormSection(const FormComparison& forms) {
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
  if (forms.runs.size() > 1) {
    section.note +=
        Concat(" At a depth of ", forms.chunk_depth, ", expanded was faster than absorbed ",
               forms.crossover > 0 ? Concat("from ", forms.crossover, " tokens per step on")
                                   : std::string("at no measured number of tokens per step"),
               forms.chosen_crossover > 0
                   ? Concat("; the choice by operations changes at ", forms.chosen_crossover, ".")
                   : std::string("; the choice by operations stays absorbed."));
  }
  return section;
}

Section SpeedSection(const FormComparison& forms, bool prefill) {
  Section section{prefill ? "Prefill, tokens per second" : "Decode, tokens per second",
                  {prefill ? "prompt" : "depth"},
                  {},
                  ""};
  for (const FormRun& run : forms.runs) section.header.push_back(FormTitle(run.form));
  const auto& first = prefill ? forms.runs[0].prefill : forms.runs[0].decode;
  for (size_t i = 0; i < first.size(); ++i) {
    std::vector<std::string> row = {WithCommas(prefill ? first[i].tokens : first[i].depth)};
    for (const FormRun& run : forms.runs) {
      row.push_back(Rate((prefill ? run.prefill : run.decode)[i].tokens_per_second));
    }
    section.rows.push_back(std::move(row));
  }
  return section;
}

Section LayerSection(const CompareFlags& flags, const std::vector<LayerRun>& layers) {
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
  const LayerOptions& o = flags.layers;
  section.note = Concat("Width ", o.hidden, ", ", o.heads, " heads of ", o.head_dim, "; GQA with ",
                        o.kv_heads, " KV heads; MLA with kv_lora_rank ", o.kv_lora_rank,
                        " and qk_rope_head_dim ", o.qk_rope_head_dim,
                        ". bf16 weights, random; bf16 cache; attention with its projections.");
  return section;
}

Section TextSection(const std::vector<TextRun>& texts) {
  Section section{"The same text",
                  {"model", "tokens", "perplexity", "bits per byte", "bytes/s", "weights",
                   "cache per token", "cache per byte of text"},
                  {},
                  "Perplexity is per token: where tokens differ, compare bits per byte."};
  for (const TextRun& run : texts) {
    section.rows.push_back(
        {run.model, WithCommas(run.tokens), Fixed(run.perplexity, 3), Fixed(run.bits_per_byte, 4),
         Rate(run.bytes_per_second), HumanBytes(static_cast<double>(run.weight_bytes)),
         WithCommas(run.cache_bytes_per_token), Fixed(run.cache_bytes_per_text_byte, 1)});
  }
  return section;
}

std::vector<Section> Sections(const CompareFlags& flags, const Results& results) {
  std::vector<Section> sections;
  if (!results.forms.runs.empty()) {
    sections.push_back(FormSection(results.forms));
    sections.push_back(SpeedSection(results.forms, /*prefill=*/true));
    sections.push_back(SpeedSection(results.forms, /*prefill=*/false));
  }
  if (!results.layers.empty()) sections.push_back(LayerSection(flags, results.layers));
  if (!results.texts.empty()) sections.push_back(TextSection(results.texts));
  return sections;
}

std::string CompareText(const CompareFlags& flags, const Results& results) {
  std::string text = CpuModel() + "\n";
  for (const Section& section : Sections(flags, results)) {
    Table table(section.header);
    for (const auto& row : section.rows) table.Add(row);
    text += Concat("\n", section.title, "\n\n", table.ToString(), section.note,
                   section.note.empty() ? "" : "\n");
  }
  return text;
}

Json PointsJson(const std::vector<SpeedPoint>& points) {
  Json json = Json::array();
  for (const SpeedPoint& p : points) {
    json.push_back(
        {{"depth", p.depth}, {"tokens", p.tokens}, {"tokens_per_second", p.tokens_per_second}});
  }
  return json;
}

Json CompareJson(const CompareFlags& flags, const Results& results) {
  Json json;
  json["cpu"] = CpuModel();
  if (!results.forms.runs.empty()) {
    json["model"] = flags.session.model;
    json["same_tokens"] = results.forms.same_tokens;
    json["chunk_depth"] = results.forms.chunk_depth;
    json["crossover"] = results.forms.crossover;
    json["chosen_crossover"] = results.forms.chosen_crossover;
  }
  for (const FormRun& run : results.forms.runs) {
    json["forms"].push_back({{"form", run.form},
                             {"kv_dtype", run.kv_dtype},
                             {"cache_bytes_per_token", run.cache_bytes_per_token},
                             {"max_logit_difference", run.max_logit_difference},
                             {"greedy", run.greedy},
                             {"prefill", PointsJson(run.prefill)},
                             {"decode", PointsJson(run.decode)},
                             {"chunks", PointsJson(run.chunks)}});
  }
  for (const LayerRun& layer : results.layers) {
    json["layers"].push_back({{"kind", layer.kind},
                              {"parameters", layer.parameters},
                              {"cache_bytes_per_token", layer.cache_bytes_per_token},
                              {"prefill_tokens_per_second", layer.prefill_tokens_per_second},
                              {"decode", PointsJson(layer.decode)}});
  }
  for (const TextRun& run : results.texts) {
    json["texts"].push_back({{"model", run.model},
                             {"tokens", run.tokens},
                             {"nll", run.nll},
                             {"perplexity", run.perplexity},
                             {"bits_per_byte", run.bits_per_byte},
                             {"tokens_per_second", run.tokens_per_second},
                             {"bytes_per_second", run.bytes_per_second},
                             {"weight_bytes", run.weight_bytes},
                             {"cache_bytes_per_token", run.cache_bytes_per_token},
                             {"cache_bytes_per_text_byte", run.cache_bytes_per_text_byte}});
  }
  return json;
}

LineChart SpeedChart(const FormComparison& forms, const std::string& title,
                     std::vector<SpeedPoint> FormRun::*points, bool by_depth) {
  LineChart chart{title,
                  by_depth ? "tokens in the cache" : "tokens per step",
                  "tokens per second",
                  /*log_x=*/!by_depth,
                  /*log_y=*/!by_depth,
                  {}};
  for (const FormRun& run : forms.runs) {
    Series series{FormTitle(run.form), {}};
    for (const SpeedPoint& p : run.*points) {
      series.points.push_back(
          {static_cast<double>(by_depth ? p.depth : p.tokens), p.tokens_per_second});
    }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

void AddFormCharts(const FormComparison& forms, HtmlReport& report) {
  LineChart growth{"Cache of one sequence", "tokens", "bytes", false, false, {}};
  for (const FormRun& run : forms.runs) {
    if (run.form == "expanded") continue;  // the same latent cache
    Series series{run.form == "absorbed" ? "latent (absorbed, expanded)" : FormTitle(run.form), {}};
    for (const SpeedPoint& p : run.decode) {
      series.points.push_back(
          {static_cast<double>(p.depth),
           static_cast<double>(p.depth) * static_cast<double>(run.cache_bytes_per_token)});
    }
    growth.series.push_back(std::move(series));
  }
  report.BeginCharts();
  report.Chart(ToSvg(growth));
  report.Chart(ToSvg(SpeedChart(forms, "Decode speed with depth", &FormRun::decode, true)));
  report.Chart(ToSvg(SpeedChart(forms, "Prefill speed with length", &FormRun::prefill, false)));
  report.Chart(ToSvg(SpeedChart(
      forms, Concat("Tokens per step at depth ", forms.chunk_depth, ": where the forms cross"),
      &FormRun::chunks, false)));
  report.EndCharts();
}

void AddLayerCharts(const std::vector<LayerRun>& layers, HtmlReport& report) {
  LineChart speed{
      "Decode of one layer", "tokens in the cache", "tokens per second", false, false, {}};
  BarChart bytes{"Cache of one layer, bytes per token", {}};
  for (const LayerRun& layer : layers) {
    Series series{layer.kind, {}};
    for (const SpeedPoint& p : layer.decode) {
      series.points.push_back({static_cast<double>(p.depth), p.tokens_per_second});
    }
    speed.series.push_back(std::move(series));
    bytes.bars.push_back({layer.kind, static_cast<double>(layer.cache_bytes_per_token),
                          WithCommas(layer.cache_bytes_per_token)});
  }
  report.BeginCharts();
  report.Chart(ToSvg(bytes));
  report.Chart(ToSvg(speed));
  report.EndCharts();
}

std::string MapSvg(const Results& results, const HeadMap& map) {
  return ToSvg(AttentionMapChart{Concat("Layer ", map.layer, ", head ", map.head), results.tokens,
                                 map.weights});
}

std::string CompareHtml(const CompareFlags& flags, const Results& results) {
  HtmlReport report("Attention compared: " +
                    (flags.session.model.empty() ? std::string("layers") : flags.session.model));
  report.Paragraph(Concat("Measured on ", CpuModel(), "."));
  if (!results.forms.runs.empty()) AddFormCharts(results.forms, report);
  if (!results.layers.empty()) AddLayerCharts(results.layers, report);
  for (const Section& section : Sections(flags, results)) {
    report.Heading(section.title);
    report.Table(section.header, section.rows);
    if (!section.note.empty()) report.Paragraph(section.note);
  }
  if (!results.maps.empty()) {
    report.Heading("Where heads look");
    report.Paragraph(
        "Each row is a token, and shows how its attention is spread over the tokens "
        "before it. Darker is more.");
    report.BeginCharts();
    for (const HeadMap& map : results.maps) {
      report.Chart(MapSvg(results, map));
    }
    report.EndCharts();
  }
  return report.ToString();
}

Status RunLayers(const CompareFlags& flags, Results& results) {
  LayerOptions options = flags.layers;
  if (options.heads % options.kv_heads != 0) {
    return InvalidArgument("--kv-heads is ", options.kv_heads, ", want a divisor of ",
                           options.heads, ", the heads");
  }
  if (options.head_dim % 2 != 0 || options.qk_rope_head_dim % 2 != 0) {
    return InvalidArgument("--head-dim is ", options.head_dim, " and --rope-dim ",
                           options.qk_rope_head_dim, ", want even numbers");
  }
  options.threads = flags.session.threads;
  options.depths = {0, 512, 1024, 2048, 4096};
  if (!flags.depths.empty()) {
    MLA_ASSIGN_OR_RETURN(options.depths, ParseIntList(flags.depths, "--depths", 0, 1 << 20));
    std::sort(options.depths.begin(), options.depths.end());
  }
  ProgressBar bar("layers", 4 * std::ssize(options.depths));
  int64_t done = 0;
  MLA_ASSIGN_OR_RETURN(results.layers, CompareLayers(options, [&] { bar.Update(++done); }));
  return {};
}

Status RunCompare(const CompareFlags& flags) {
  // Before minutes of measuring: a report that has nowhere to go.
  for (const std::string& path : {flags.html, flags.svg}) {
    if (!path.empty()) MLA_RETURN_IF_ERROR(CheckWritable(path));
  }
  Results results;
  if (!flags.session.model.empty()) {
    MLA_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModelAndTokenizer(flags.session.model));
    if (!flags.html.empty() || !flags.svg.empty()) {
      MLA_RETURN_IF_ERROR(DrawMaps(flags, loaded, results));
    }
    if (!flags.file.empty()) {
      MLA_RETURN_IF_ERROR(ScoreTexts(flags, loaded, results));
    } else {
      MLA_RETURN_IF_ERROR(MeasureForms(flags, loaded, results));
    }
  }
  if (flags.with_layers) MLA_RETURN_IF_ERROR(RunLayers(flags, results));
  // Printed first: a report that cannot be written loses nothing.
  MLA_RETURN_IF_ERROR(flags.json ? PrintJson(CompareJson(flags, results))
                                 : Print(CompareText(flags, results)));
  if (!flags.svg.empty()) {
    MLA_RETURN_IF_ERROR(WriteReport(flags.svg, StandaloneSvg(MapSvg(results, results.maps[0]))));
  }
  return flags.html.empty() ? Status() : WriteReport(flags.html, CompareHtml(flags, results));
}

void AddLayerFlags(CLI::App& app, LayerOptions& layers) {
  const auto add = [&](const char* flag, int32_t& value, int64_t most, const char* text) {
    app.add_option(flag, value, text)->check(IntRange(1, most))->type_name("N");
  };
  add("--width", layers.hidden, 1 << 14, "Of --layers: hidden size (default: 1024)");
  add("--heads", layers.heads, 256, "Of --layers: heads (default: 16)");
  add("--head-dim", layers.head_dim, 1024, "Of --layers: numbers per head (default: 64)");
  add("--kv-heads", layers.kv_heads, 256, "Of --layers: KV heads of the GQA layer (default: 4)");
  add("--rank", layers.kv_lora_rank, 4096, "Of --layers: kv_lora_rank of the MLA layer (256)");
  add("--rope-dim", layers.qk_rope_head_dim, 1024, "Of --layers: qk_rope_head_dim (default: 32)");
}

}  // namespace

int CompareCommand(int argc, char** argv) {
  CompareFlags flags;
  Command command("compare", kDescription, kExamples);
  CLI::App& app = command.app();
  flags.session.AddModel(app, /*required=*/false);
  app.add_option("MODEL2", flags.other, "A model to set beside it on --file");
  app.add_option("--file", flags.file, "Score this text; - for standard input")->type_name("FILE");
  app.add_flag("--layers", flags.with_layers, "One MHA, GQA, MQA and MLA layer, random weights");
  app.add_option("--depths", flags.depths, "Tokens in the cache, as 0,1024")->type_name("LIST");
  app.add_option("-n,--decode-tokens", flags.decode_tokens, "Tokens to decode (default: 16)")
      ->check(IntRange(1))
      ->type_name("N");
  app.add_option("--repetitions", flags.repetitions, "Timed runs; the fastest counts (default: 3)")
      ->check(IntRange(1, 1000))
      ->type_name("R");
  app.add_option("--text", flags.text, "For the attention maps, and the prompt to continue");
  app.add_option("--maps", flags.maps, "LAYER:HEAD of the maps (default: 0:0,1:0)")
      ->type_name("LIST");
  AddLayerFlags(app, flags.layers);
  flags.session.AddSession(app);
  app.add_flag("--json", flags.json, "Print one JSON object");
  app.add_option("--svg", flags.svg, "Write the first of the maps to this file too")
      ->type_name("FILE");
  app.add_option("--html", flags.html, "Write a report with charts to this file too")
      ->type_name("FILE");
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  if (flags.session.model.empty() && !flags.with_layers) {
    return command.UsageError("nothing to compare: want MODEL, --layers or both");
  }
  if (!flags.svg.empty() && flags.session.model.empty()) {
    return command.UsageError("--svg draws an attention map: want MODEL");
  }
  if (!flags.other.empty() && flags.file.empty()) {
    return command.UsageError("two models are compared on a text: want --file");
  }
  return command.Finish(RunCompare(flags));
}

}  // namespace mla
