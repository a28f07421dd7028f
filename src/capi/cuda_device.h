// The few things that the C interface asks of CUDA itself. Without the CUDA kernels:
// cuda/absent.cc.
#ifndef MLA_CAPI_CUDA_DEVICE_H_
#define MLA_CAPI_CUDA_DEVICE_H_

#include "mla/result.h"

namespace mla::capi {

// Makes a device the current one of the calling thread while it lives.
class DeviceGuard {
 public:
  DeviceGuard() = default;
  ~DeviceGuard();  // NOLINT(performance-trivially-destructible): with CUDA it is not
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  Status Enter(int index);

 private:
  int before_ = -1;  // to go back to; -1: nothing was changed
};

Status SynchronizeStream(void* stream);

}  // namespace mla::capi

#endif  // MLA_CAPI_CUDA_DEVICE_H_
