#include "kernels/cuda/device.h"

#include <cuda_runtime_api.h>

#include "capi/cuda_device.h"

namespace mla::capi {

DeviceGuard::~DeviceGuard() {
  if (before_ >= 0) cudaSetDevice(before_);
}

Status DeviceGuard::Enter(int index) {
  int current = 0;
  cudaError_t error = cudaGetDevice(&current);
  if (error == cudaSuccess && current != index) {
    error = cudaSetDevice(index);
    if (error == cudaSuccess) before_ = current;
  }
  if (error != cudaSuccess) {
    cudaGetLastError();  // not left behind for the caller's next check
    return cuda::CudaError(error, Concat("making device ", index, " current").c_str());
  }
  return {};
}

Status SynchronizeStream(void* stream) {
  const cudaError_t error = cudaStreamSynchronize(static_cast<cudaStream_t>(stream));
  if (error != cudaSuccess) return cuda::CudaError(error, "waiting for the stream");
  return {};
}

}  // namespace mla::capi
