// mla plan: what it takes to run a model, before there is a machine or a checkpoint.
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/chart.h"
#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/model_report.h"
#include "apps/output.h"
#include "apps/plan.h"
#include "apps/report_html.h"
#include "model/known_models.h"

namespace mla {
namespace {

using Json = nlohmann::ordered_json;
using Section = ReportSection;

constexpr const char* kDescription =
    R"(Says what running a model takes: parameters by kind, bytes of weights and cache,
operations and traffic of prefill and decode, the most tokens per second that a machine's memory
and arithmetic allow, and the largest batch and context that fit. Nothing is run, and only
config.json is read. MODEL is a model directory, a config.json, or a name that --list shows.)";

constexpr const char* kExamples =
    R"(  mla plan deepseek-v3 --context 131072 --batch 64 --machine H200
  mla plan llama-2-70b --memory 80GiB --weights q4
  mla plan models/stories-mla-9m --machine this --html plan.html
  mla plan --list)";

struct PlanFlags {
  std::string model, weights, cache = "f16", memory;
  ReportPaths reports;
  std::vector<std::string> machines;
  int64_t context = 0, batch = 1;
  double bandwidth = 0, tflops = 0;
  bool json = false, list = false;
};

std::string Rate(double rate) {
  return rate >= 100 ? WithCommas(static_cast<int64_t>(rate)) : Fixed(rate, 2);
}
std::string Bytes(int64_t bytes) { return HumanBytes(static_cast<double>(bytes)); }
std::string Count(double count) { return HumanCount(count); }

std::string LayoutTitle(CacheLayout layout) {
  switch (layout) {
    case CacheLayout::kModel: return "this model";
    case CacheLayout::kMha: return "MHA, same heads";
    case CacheLayout::kGqa8: return "GQA, 8 KV heads";
    case CacheLayout::kMqa: break;
  }
  return "MQA";
}

std::string FormTitle(AttentionForm form) {
  if (form == AttentionForm::kAuto) return "its own";
  return form == AttentionForm::kMha ? "as plain MHA" : std::string(FormName(form));
}

Section ParameterSection(const PlanModel& model, const Plan& plan) {
  Section section{"Parameters", {"parameters", "total", "per token", "share"}, {}, ""};
  const auto add = [&](const std::string& name, int64_t total, int64_t active) {
    section.rows.push_back(
        {name, Count(static_cast<double>(total)), Count(static_cast<double>(active)),
         Fixed(100.0 * static_cast<double>(total) / static_cast<double>(plan.sum.total), 1) +
             " %"});
  };
  for (const ParameterKind& kind : plan.parameters) add(kind.name, kind.total, kind.active);
  add("all", plan.sum.total, plan.sum.active);
  add("all but embedding and head", plan.sum_without_embedding.total,
      plan.sum_without_embedding.active);
  if (model.extra_layers > 0) {
    section.note = Concat(
        "Not counted: ", model.extra_layers, " extra prediction layer",
        model.extra_layers > 1 ? "s" : "", ", ", Count(static_cast<double>(model.extra_parameters)),
        " parameters beside the embedding and head that they share with the model.");
  }
  return section;
}

Section WeightSection(const PlanModel& model, const Plan& plan) {
  Section section{"Weights", {"weights as", "bytes", "bits per parameter"}, {}, ""};
  for (const auto& [format, bytes] : plan.weight_bytes) {
    const std::string chosen = format == plan.weight_format ? " (planned with)" : "";
    section.rows.push_back(
        {std::string(WeightFormatName(format)) + chosen, Bytes(bytes),
         Fixed(8.0 * static_cast<double>(bytes) / static_cast<double>(plan.sum.total), 2)});
  }
  section.note =
      "fp8: linear layers in e4m3 with an f32 scale per 128 x 128 block, the rest bf16; q8 and q4: "
      "matrices in blocks of 32 (34 and 18 bytes), router and vectors f32.";
  if (!model.other_format.empty()) {
    section.note += Concat(" The release is quantised otherwise (", OneLine(model.other_format),
                           "), which is not counted here.");
  }
  return section;
}

Section CacheSection(const Plan& plan) {
  Section section{
      Concat("KV cache, ", WithCommas(plan.batch), " x ", WithCommas(plan.context), " tokens"),
      {"cache of", "format", "bytes per token", "total", "ratio"},
      {},
      ""};
  for (const CacheRow& row : plan.caches) {
    const double own =
        static_cast<double>(plan.Cache(CacheLayout::kModel, row.format).bytes_per_token);
    section.rows.push_back({LayoutTitle(row.layout), std::string(CacheFormatName(row.format)),
                            WithCommas(row.bytes_per_token), Bytes(row.total_bytes),
                            Fixed(static_cast<double>(row.bytes_per_token) / own, 2)});
  }
  section.note =
      "f16: or bf16; fp8: the latent e4m3 with an f32 scale per 128 numbers and the rope key bf16 "
      "(656 bytes for 512 + 64), keys and values of heads e4m3; int8: the latent in int8 with "
      "scales "
      "per 128 and rope keys in bf16 (656 bytes), keys and values of heads with a scale per "
      "vector.";
  return section;
}

Section StepSection(const Plan& plan) {
  Section section{"Work per token",
                  {"step", "attention", "FLOP", "of attention", "bytes", "FLOP per byte"},
                  {},
                  ""};
  for (const StepRow& row : plan.steps) {
    const StepCost& cost = row.cost;
    section.rows.push_back({row.step, FormTitle(row.form), HumanFlops(cost.flops() / row.tokens),
                            Fixed(100 * cost.attention_flops / cost.flops(), 1) + " %",
                            HumanBytes(cost.bytes() / row.tokens),
                            Rate(cost.flops() / cost.bytes())});
  }
  section.note =
      Concat("prefill: one prompt of ", WithCommas(plan.context),
             " tokens; decode: ", WithCommas(plan.batch), " sequences of ",
             WithCommas(plan.context), ", one token each. Weights ",
             WeightFormatName(plan.weight_format), ", cache ", CacheFormatName(plan.cache_format),
             "; of routed experts the expected number of distinct ones is read.");
  return section;
}

Section FloorSection(const Plan& plan) {
  Section section{"At most, in tokens per second",
                  {"machine", "step", "attention", "tokens/s", "bound by"},
                  {},
                  ""};
  for (const FloorRow& row : plan.floors) {
    section.rows.push_back({row.machine.name, row.step.step, FormTitle(row.step.form),
                            Rate(row.tokens_per_second),
                            row.memory_bound ? "memory" : "arithmetic"});
  }
  std::string note;
  for (const FloorRow& row : plan.floors) {
    const Machine& m = row.machine;
    const std::string text = Concat(m.name, ": ", HumanBytes(m.bytes_per_second), "/s, ",
                                    HumanFlops(m.flops), "FLOP/s (", m.source, "). ");
    if (note.find(text) == std::string::npos) note += text;
  }
  section.note = note + "One machine that holds everything is assumed: no real run is faster.";
  return section;
}

Section FitSection(const Plan& plan) {
  Section section{"What fits",
                  {"memory", "cache of", "format", Concat("context of ", WithCommas(plan.batch)),
                   Concat("batch of ", WithCommas(plan.context))},
                  {},
                  ""};
  for (const FitRow& row : plan.fits) {
    const std::string memory = Concat(row.memory_of, ", ", Bytes(row.memory_bytes));
    if (!row.weights_fit) {
      if (row.layout == CacheLayout::kModel && row.format == CacheFormat::kF16) {
        section.rows.push_back({memory, "the weights alone do not fit", "", "", ""});
      }
      continue;
    }
    section.rows.push_back({memory, LayoutTitle(row.layout),
                            std::string(CacheFormatName(row.format)), WithCommas(row.max_context),
                            WithCommas(row.max_batch)});
  }
  section.note = Concat("Weights in ", WeightFormatName(plan.weight_format),
                        " and the cache; activations and the system's share are not counted.");
  return section;
}

std::vector<Section> Sections(const PlanModel& model, const Plan& plan) {
  std::vector<Section> sections = {ParameterSection(model, plan), WeightSection(model, plan),
                                   CacheSection(plan), StepSection(plan)};
  if (!plan.floors.empty()) sections.push_back(FloorSection(plan));
  if (!plan.fits.empty()) sections.push_back(FitSection(plan));
  return sections;
}

std::string Headline(const PlanModel& model) {
  const ModelSpec& spec = model.spec;
  return Concat(model.name, ": ", spec.model_type, ", ", spec.layers.size(), " layers, hidden ",
                spec.hidden_size, ", vocabulary ", WithCommas(spec.vocab_size),
                spec.tie_embeddings ? " (tied)" : "", ", context ", WithCommas(spec.max_positions));
}

std::string LayersTitle(const LayerRange& range) {
  return (range.layers.find('-') == std::string::npos ? "layer " : "layers ") + range.layers;
}

std::string PlanText(const PlanModel& model, const Plan& plan) {
  std::string text = Concat(Headline(model), "\nfrom ", OneLine(model.source), "\n\n");
  for (const LayerRange& range : DescribeLayers(model.spec)) {
    text += Concat(LayersTitle(range), "\n  ", range.attention, "\n  ", range.mlp, "\n");
  }
  for (const Section& section : Sections(model, plan)) text += ToText(section);
  return text;
}

Json StepJson(const StepRow& row) {
  return {{"step", row.step},
          {"attention", FormName(row.form)},
          {"tokens", row.tokens},
          {"flops", row.cost.flops()},
          {"attention_flops", row.cost.attention_flops},
          {"weight_bytes", row.cost.weight_bytes},
          {"cache_bytes", row.cost.cache_bytes}};
}

void AddMachineJson(const Plan& plan, Json& json) {
  json["floors"] = Json::array();
  for (const FloorRow& row : plan.floors) {
    json["floors"].push_back({{"machine", row.machine.name},
                              {"bytes_per_second", row.machine.bytes_per_second},
                              {"flops", row.machine.flops},
                              {"step", row.step.step},
                              {"attention", FormName(row.step.form)},
                              {"tokens_per_second", row.tokens_per_second},
                              {"bound_by", row.memory_bound ? "memory" : "arithmetic"}});
  }
  json["fits"] = Json::array();
  for (const FitRow& row : plan.fits) {
    json["fits"].push_back({{"memory_of", row.memory_of},
                            {"memory_bytes", row.memory_bytes},
                            {"layout", CacheLayoutName(row.layout)},
                            {"format", CacheFormatName(row.format)},
                            {"weights_fit", row.weights_fit},
                            {"max_context", row.max_context},
                            {"max_batch", row.max_batch}});
  }
}

Json PlanJson(const PlanModel& model, const Plan& plan) {
  Json json;
  json["model"] = model.name;
  json["source"] = model.source;
  json["model_type"] = model.spec.model_type;
  json["context"] = plan.context;
  json["batch"] = plan.batch;
  const auto numbers = [](const ParameterKind& kind) {
    return Json{{"total", kind.total}, {"active", kind.active}};
  };
  for (const ParameterKind& kind : plan.parameters) json["parameters"][kind.name] = numbers(kind);
  json["parameters"]["all"] = numbers(plan.sum);
  json["parameters_without_embedding_and_head"] = numbers(plan.sum_without_embedding);
  json["extra_prediction_layers"] = {{"layers", model.extra_layers},
                                     {"parameters", model.extra_parameters}};
  json["weights"] = WeightFormatName(plan.weight_format);
  for (const auto& [format, bytes] : plan.weight_bytes) {
    json["weight_bytes"][std::string(WeightFormatName(format))] = bytes;
  }
  json["cache_format"] = CacheFormatName(plan.cache_format);
  for (const CacheRow& row : plan.caches) {
    json["cache"][std::string(CacheLayoutName(row.layout))]
        [std::string(CacheFormatName(row.format))] = {{"bytes_per_token", row.bytes_per_token},
                                                      {"total_bytes", row.total_bytes}};
  }
  for (const StepRow& row : plan.steps) json["steps"].push_back(StepJson(row));
  AddMachineJson(plan, json);
  return json;
}

LineChart CacheGrowth(const Plan& plan) {
  LineChart chart{"KV cache of one sequence, " + std::string(CacheFormatName(plan.cache_format)),
                  "tokens",
                  "bytes",
                  true,
                  true,
                  {},
                  {}};
  for (const CacheLayout layout : kCacheLayouts) {
    Series series{LayoutTitle(layout), {}};
    const auto each = static_cast<double>(plan.Cache(layout, plan.cache_format).bytes_per_token);
    for (double tokens = 1024; tokens < static_cast<double>(plan.context); tokens *= 4) {
      series.points.push_back({tokens, tokens * each});
    }
    series.points.push_back(
        {static_cast<double>(plan.context), each * static_cast<double>(plan.context)});
    chart.series.push_back(std::move(series));
  }
  return chart;
}

std::string PlanHtml(const PlanModel& model, const Plan& plan) {
  HtmlReport report("What it takes to run " + model.name);
  report.Paragraph(Headline(model));
  for (const LayerRange& range : DescribeLayers(model.spec)) {
    report.Paragraph(Concat(LayersTitle(range), ": ", range.attention, "; ", range.mlp));
  }
  report.Paragraph("Dimensions from " + model.source);
  BarChart kinds{"Parameters", {}};
  for (const ParameterKind& kind : plan.parameters) {
    const auto total = static_cast<double>(kind.total);
    kinds.bars.push_back({kind.name, total, Count(total)});
  }
  report.Charts({ToSvg(CacheGrowth(plan)), ToSvg(kinds)});
  for (const Section& section : Sections(model, plan)) report.Section(section);
  return report.ToString();
}

Result<PlanOptions> ToOptions(const PlanFlags& flags) {
  PlanOptions options;
  options.context = flags.context;
  options.batch = flags.batch;
  for (const WeightFormat format : kWeightFormats) {
    if (flags.weights == WeightFormatName(format)) options.weights = format;
  }
  for (const CacheFormat format : kCacheFormats) {
    if (flags.cache == CacheFormatName(format)) options.cache = format;
  }
  if (flags.cache == "bf16") options.cache = CacheFormat::kF16;
  if (!flags.memory.empty()) {
    const Result<int64_t> size = ParseSize(flags.memory);
    if (!size.ok()) return InvalidArgument("--memory: ", size.message());
    options.memory_bytes = *size;
  }
  for (const std::string& name : flags.machines) {
    MLA_ASSIGN_OR_RETURN(const Machine machine, FindMachine(name));
    options.machines.push_back(machine);
  }
  if (flags.bandwidth > 0) {
    options.machines.push_back({"given", static_cast<double>(options.memory_bytes),
                                flags.bandwidth * 1e9, flags.tflops * 1e12,
                                "--bandwidth, --flops"});
  }
  if (options.machines.empty()) {
    options.machines.assign(NamedMachines().begin(), NamedMachines().end());
  }
  return options;
}

Status PrintKnown(bool as_json) {
  if (as_json) {
    Json json = Json::array();
    for (const KnownModel& known : KnownModels()) {
      json.push_back({{"name", known.name}, {"source", known.source}});
    }
    return PrintJson(json);
  }
  Table table({"name", "dimensions from"});
  for (const KnownModel& known : KnownModels()) {
    table.Add({std::string(known.name), std::string(known.source)});
  }
  return Print(table.ToString());
}

Status RunPlan(const PlanFlags& flags) {
  MLA_RETURN_IF_ERROR(CheckReportPaths(flags.reports, {flags.model}));
  MLA_ASSIGN_OR_RETURN(const PlanModel model, ReadPlanModel(flags.model));
  MLA_ASSIGN_OR_RETURN(const PlanOptions options, ToOptions(flags));
  MLA_ASSIGN_OR_RETURN(const Plan plan, MakePlan(model, options));
  if (flags.json) {
    MLA_RETURN_IF_ERROR(PrintJson(PlanJson(model, plan)));
  } else {
    MLA_RETURN_IF_ERROR(Print(PlanText(model, plan)));
  }
  const auto& [html, svg] = flags.reports;
  std::vector<ReportFile> files;
  if (!svg.empty()) files.push_back({svg, StandaloneSvg(ToSvg(CacheGrowth(plan)))});
  if (!html.empty()) files.push_back({html, PlanHtml(model, plan)});
  return WriteReports(files);
}

void AddFlags(CLI::App& app, PlanFlags& flags) {
  constexpr int64_t kMost = int64_t{1} << 40;
  app.add_option("MODEL", flags.model, "A model directory, a config.json, or a name of --list")
      ->check(NotEmpty());
  app.add_flag("--list", flags.list, "List the models that are known by name");
  app.add_option("--context", flags.context, "Tokens per sequence (default: the model's context)")
      ->check(IntRange(1, kMost))
      ->type_name("N");
  app.add_option("--batch", flags.batch, "Sequences at once (default: 1)")
      ->check(IntRange(1, kMost))
      ->type_name("N");
  app.add_option("--weights", flags.weights, "bf16, fp8, q8 or q4 (default: as released)")
      ->check(OneOf({"bf16", "fp8", "q8", "q4"}))
      ->type_name("FORMAT");
  app.add_option("--kv-dtype", flags.cache,
                 "Cache in f16 (or bf16, as large), fp8 or int8 (default: f16)")
      ->check(OneOf({"f16", "bf16", "fp8", "int8"}))
      ->type_name("FORMAT");
  app.add_option("--memory", flags.memory, "Memory to fit into: 80GiB, 24GB")->type_name("SIZE");
  app.add_option("--machine", flags.machines,
                 "H200, H100, A100, L40S, RTX4090, or this (measured); may be repeated (default: "
                 "all named)")
      ->type_name("NAME");
  app.add_option("--bandwidth", flags.bandwidth, "Of a machine's memory, in GB/s")
      ->check(NumberRange(0, 1e9, /*above_min=*/true))
      ->type_name("X");
  app.add_option("--flops", flags.tflops, "Of a machine, in TFLOP/s")
      ->check(NumberRange(0, 1e9, /*above_min=*/true))
      ->type_name("X");
  app.add_flag("--json", flags.json, "Print one JSON object, with exact numbers");
  app.add_option("--html", flags.reports.html, "Write a report to this file too")
      ->type_name("FILE");
  app.add_option("--svg", flags.reports.svg,
                 "Write the chart of the cache's growth to this file too")
      ->type_name("FILE");
}

}  // namespace

int PlanCommand(int argc, char** argv) {
  PlanFlags flags;
  Command command("plan", kDescription, kExamples);
  AddFlags(command.app(), flags);
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  if (flags.list) return command.Finish(PrintKnown(flags.json));
  if (flags.model.empty()) return command.UsageError("want MODEL, or --list");
  if ((flags.bandwidth > 0) != (flags.tflops > 0)) {
    return command.UsageError("--bandwidth and --flops go together");
  }
  return command.Finish(RunPlan(flags));
}

}  // namespace mla
