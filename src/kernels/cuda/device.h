// What kernels are chosen and sized by.
#ifndef MLA_KERNELS_CUDA_DEVICE_H_
#define MLA_KERNELS_CUDA_DEVICE_H_

#include <cstddef>
#include <cstdint>

#include "mla/result.h"

namespace mla::cuda {

struct DeviceProperties {
  int arch = 0;  // compute capability, 10 * major + minor
  int32_t num_sms = 0;
  size_t max_shared_bytes = 0;  // that one thread block can have, opted in
  size_t shared_bytes_per_sm = 0;
};

// Of the calling thread's current device; read once per device and process.
Result<DeviceProperties> CurrentDevice();

// Lets a kernel without static shared memory have all of it that the current device allows a thread
// block; a cudaError_t. Not what one call needs: host threads would lower it for each other.
int AllowAllSharedMemory(const void* kernel);

// The error of a CUDA call, in words, with what was tried.
Error CudaError(int code, const char* what);

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_DEVICE_H_
