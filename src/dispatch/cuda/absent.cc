// The functions of mla/cuda.h in a library that was built without nvcc.
#include "mla/cuda.h"

namespace mla::cuda {
namespace {

Error Absent() {
  return Unsupported(
      "this build has no CUDA kernels: it was made without nvcc, or with MLA_CUDA=OFF");
}

}  // namespace

bool BuiltWithCuda() { return false; }
Result<std::vector<DeviceInfo>> Devices() { return Absent(); }

Result<MlaDecodeSizes> MlaDecodeMemory(const MlaDecodeArgs&, const CudaContext&) {
  return Absent();
}
Status MlaDecodeSchedule(const MlaDecodeArgs&, const CudaContext&) { return Absent(); }
Status MlaDecode(const MlaDecodeArgs&, const CudaContext&) { return Absent(); }
Result<KernelVerdicts> ExplainMlaDecode(const MlaDecodeArgs&, const CudaContext&) {
  return Absent();
}
Status HeadLinear(const HeadLinearArgs&, const CudaContext&) { return Absent(); }
Result<KernelVerdicts> ExplainHeadLinear(const HeadLinearArgs&, const CudaContext&) {
  return Absent();
}
Status MlaAppend(const MlaAppendArgs&, const CudaContext&) { return Absent(); }

}  // namespace mla::cuda
