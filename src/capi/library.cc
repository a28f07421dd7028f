// The C interface: the library and the machine.
#include <string>
#include <vector>

#include "capi/boundary.h"
#include "capi/cuda_device.h"
#include "kernels/cpu/isa.h"
#include "mla/cuda.h"
#include "mla/mla.h"

namespace mla::capi {
namespace {

const char* Isas() {
  static const std::string text = [] {
    std::string joined;
    bool usable = false;
    for (const std::string_view isa : cpu::SupportedIsas()) {
      usable = usable || isa == cpu::CurrentIsa();
      if (!usable) continue;
      if (!joined.empty()) joined += ' ';
      joined += isa;
    }
    return joined;
  }();
  return text.c_str();
}

Status GetBuildInfo(mla_build_info* info) {
  return WriteStruct({.size = 0,
                      .version = MLA_VERSION,
                      .cuda = cuda::BuiltWithCuda() ? 1 : 0,
                      .cuda_architectures = MLA_CUDA_ARCHITECTURES,
                      .isas = Isas()},
                     info, "mla_get_build_info");
}

Status DeviceCount(int32_t* count) {
  if (count == nullptr) return InvalidArgument("mla_device_count: count is null");
  *count = 0;
  MLA_ASSIGN_OR_RETURN(const std::vector<cuda::DeviceInfo> devices, cuda::Devices());
  *count = static_cast<int32_t>(devices.size());
  return {};
}

Status GetDeviceInfo(int32_t index, mla_device_info* info) {
  MLA_ASSIGN_OR_RETURN(const std::vector<cuda::DeviceInfo> devices, cuda::Devices());
  if (index < 0 || index >= static_cast<int32_t>(devices.size())) {
    return InvalidArgument("mla_get_device_info: index is ", index, ", this machine has ",
                           devices.size(), " devices");
  }
  const cuda::DeviceInfo& device = devices[index];
  mla_device_info filled = {};
  device.name.copy(filled.name, sizeof(filled.name) - 1);
  filled.compute_capability = device.compute_capability;
  filled.num_sms = device.num_sms;
  filled.memory_bytes = device.memory_bytes;
  return WriteStruct(filled, info, "mla_get_device_info");
}

Status StreamSynchronize(int32_t device_index, void* stream) {
  DeviceGuard guard;
  MLA_RETURN_IF_ERROR(guard.Enter(device_index));
  return SynchronizeStream(stream);
}

}  // namespace
}  // namespace mla::capi

using mla::capi::Guarded;

extern "C" {

mla_status mla_get_build_info(mla_build_info* info) {
  return Guarded([&] { return mla::capi::GetBuildInfo(info); });
}

mla_status mla_device_count(int32_t* count) {
  return Guarded([&] { return mla::capi::DeviceCount(count); });
}

mla_status mla_get_device_info(int32_t index, mla_device_info* info) {
  return Guarded([&] { return mla::capi::GetDeviceInfo(index, info); });
}

mla_status mla_stream_synchronize(int32_t device_index, void* stream) {
  return Guarded([&] { return mla::capi::StreamSynchronize(device_index, stream); });
}

}  // extern "C"
