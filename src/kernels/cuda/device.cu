#include <cuda_runtime_api.h>

#include <array>
#include <mutex>
#include <optional>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "mla/cuda.h"

namespace mla::cuda {
namespace {

constexpr int kMaxDevices = 64;

Result<DeviceProperties> ReadDevice(int index) {
  DeviceProperties device;
  const auto attribute = [&](cudaDeviceAttr which, auto& value) {
    int number = 0;
    const cudaError_t error = cudaDeviceGetAttribute(&number, which, index);
    value = static_cast<std::remove_reference_t<decltype(value)>>(number);
    return error;
  };
  int major = 0, minor = 0;
  for (const cudaError_t error :
       {attribute(cudaDevAttrComputeCapabilityMajor, major),
        attribute(cudaDevAttrComputeCapabilityMinor, minor),
        attribute(cudaDevAttrMultiProcessorCount, device.num_sms),
        attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device.max_shared_bytes),
        attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device.shared_bytes_per_sm)}) {
    if (error != cudaSuccess) return CudaError(error, "reading the device's properties");
  }
  device.arch = 10 * major + minor;
  return device;
}

}  // namespace

bool BuiltWithCuda() { return true; }

Result<std::vector<DeviceInfo>> Devices() {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    cudaGetLastError();  // not left behind for the caller's next check
    return CudaError(error, "counting the devices");
  }
  std::vector<DeviceInfo> devices(count);
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (const cudaError_t error = cudaGetDeviceProperties(&properties, i); error != cudaSuccess) {
      return CudaError(error, "reading the device's properties");
    }
    devices[i] = {.name = properties.name,
                  .compute_capability = 10 * properties.major + properties.minor,
                  .num_sms = properties.multiProcessorCount,
                  .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem)};
  }
  return devices;
}

Error CudaError(int code, const char* what) {
  const auto error = static_cast<cudaError_t>(code);
  const Error result{
      error == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kUnsupported,
      Concat("CUDA: ", what, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")")};
  return result;
}

int AllowAllSharedMemory(const void* kernel) {
  const Result<DeviceProperties> device = CurrentDevice();
  if (!device.ok()) return cudaErrorInvalidDevice;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(device->max_shared_bytes));
}

Result<DeviceProperties> CurrentDevice() {
  static std::mutex mutex;
  static std::array<std::optional<DeviceProperties>, kMaxDevices> known;
  int index = 0;
  if (const cudaError_t error = cudaGetDevice(&index); error != cudaSuccess) {
    cudaGetLastError();  // not left behind for the caller's next check
    return CudaError(error, "asking for the current device");
  }
  if (index < 0 || index >= kMaxDevices) return ReadDevice(index);
  const std::lock_guard lock(mutex);
  if (!known[index]) {
    MLA_ASSIGN_OR_RETURN(known[index], ReadDevice(index));
  }
  return *known[index];
}

}  // namespace mla::cuda
