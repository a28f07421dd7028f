// capi/cuda_device.h in a library that was built without nvcc.
#include "capi/cuda_device.h"
#include "mla/cuda.h"

namespace mla::capi {

DeviceGuard::~DeviceGuard() = default;

// The one place that has the words for it.
Status DeviceGuard::Enter(int) { return cuda::Devices().error(); }
Status SynchronizeStream(void*) { return cuda::Devices().error(); }

}  // namespace mla::capi
