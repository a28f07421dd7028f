#include "apps/cuda_info.h"

#include <cstdint>

#include "apps/output.h"
#include "mla/cuda.h"

namespace mla {
namespace {

using Json = nlohmann::json;

// A decode step of DeepSeek-V3 for one sequence. Only asked about: its memory is never touched.
cuda::MlaDecodeArgs TypicalDecode() {
  constexpr int64_t kHeads = 128, kLatent = 576;
  constexpr int32_t kRank = 512;
  alignas(256) static int32_t nowhere[64];
  const Device gpu = {DeviceType::kCuda, 0};
  cuda::MlaDecodeArgs args;
  args.q = ConstTensor(nowhere, DType::kBF16, {1, 1, kHeads, kLatent}, gpu);
  args.cache = ConstTensor(nowhere, DType::kBF16, {1, 64, kLatent}, gpu);
  args.kv_lens = nowhere;
  args.page_table = nowhere;
  args.page_table_stride = 1;
  args.kv_lora_rank = kRank;
  args.scale = 1;
  args.out = Tensor(nowhere, DType::kBF16, {1, 1, kHeads, kRank}, gpu);
  return args;
}

}  // namespace

Json CudaJson() {
  Json json = {{"built", cuda::BuiltWithCuda()}, {"devices", Json::array()}};
  const Result<std::vector<cuda::DeviceInfo>> devices = cuda::Devices();
  if (!devices.ok()) {
    json["problem"] = devices.message();
    return json;
  }
  for (const cuda::DeviceInfo& device : *devices) {
    json["devices"].push_back({{"name", device.name},
                               {"compute_capability", device.compute_capability},
                               {"num_sms", device.num_sms},
                               {"memory_bytes", device.memory_bytes}});
  }
  const Result<KernelVerdicts> verdicts = cuda::ExplainMlaDecode(TypicalDecode(), {});
  if (!verdicts.ok()) {
    json["problem"] = verdicts.message();
    return json;
  }
  for (const KernelVerdict& verdict : *verdicts) {
    json["mla_decode"].push_back({{"kernel", verdict.kernel}, {"refuses", verdict.refusal}});
  }
  return json;
}

std::string CudaText(const Json& cuda) {
  std::string text;
  for (const Json& device : cuda["devices"]) {
    const int capability = device["compute_capability"].get<int>();
    text += Concat("GPU     ", device["name"].get<std::string>(), ", compute capability ",
                   capability / 10, ".", capability % 10, ", ", device["num_sms"].dump(),
                   " multiprocessors, ", HumanBytes(device["memory_bytes"].get<double>()), "\n");
  }
  if (cuda.contains("problem")) {
    return Concat(text, "CUDA    not usable: ", cuda["problem"].get<std::string>(), "\n");
  }
  bool chosen = false;
  for (const Json& kernel : cuda["mla_decode"]) {
    const auto refuses = kernel["refuses"].get<std::string>();
    text += Concat("mla_decode on CUDA: ", kernel["kernel"].get<std::string>(), " ",
                   !refuses.empty() ? Concat("refuses: ", refuses)
                   : chosen         ? "would too"
                                    : "runs",
                   "\n");
    chosen = chosen || refuses.empty();
  }
  return text;
}

}  // namespace mla
