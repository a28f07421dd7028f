#include "capi/boundary.h"

#include <algorithm>

namespace mla::capi {
namespace {

thread_local std::string last_message;

mla_status CodeOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument: return MLA_INVALID_ARGUMENT;
    case ErrorCode::kOutOfMemory: return MLA_OUT_OF_MEMORY;
    default: return MLA_UNSUPPORTED;
  }
}

Result<DType> ReadDType(int32_t dtype, std::string_view what) {
  switch (dtype) {
    case MLA_F32: return DType::kF32;
    case MLA_F16: return DType::kF16;
    case MLA_BF16: return DType::kBF16;
    case MLA_I32: return DType::kI32;
    case MLA_F8E4M3: return DType::kF8E4M3;
    default: return InvalidArgument(what, ": dtype is ", dtype, ", want 0 to 4 (enum mla_dtype)");
  }
}

std::string DeviceName(Device device) {
  return device.type == DeviceType::kCpu ? "the CPU" : Concat("CUDA device ", device.index);
}

}  // namespace

mla_status Report(const Status& status) {
  if (!status.ok()) return Report(CodeOf(status.error().code), status.error().message);
  last_message.clear();
  return MLA_OK;
}

mla_status Report(mla_status code, std::string_view message) noexcept {
  try {
    last_message = message;
  } catch (...) {
    last_message.clear();
  }
  return code;
}

Status CheckStruct(const void* given, size_t known, std::string_view what) {
  if (given == nullptr) return InvalidArgument(what, " is null");
  size_t size = 0;
  std::memcpy(&size, given, sizeof(size));
  // The most that a later version could plausibly have: a size field that nobody set is likely to
  // hold more, or next to nothing.
  constexpr size_t kMost = 4096;
  if (size < 2 * sizeof(size_t) || size > kMost) {
    return InvalidArgument(what, ": the size field is ", size,
                           ", want the size of the struct in bytes");
  }
  const auto* bytes = static_cast<const unsigned char*>(given);
  if (size > known && std::any_of(bytes + known, bytes + size, [](auto b) { return b != 0; })) {
    return InvalidArgument(what, ": the struct has ", size, " bytes and this library knows ", known,
                           " of them; those beyond must be 0");
  }
  return {};
}

Result<Tensor> ReadTensor(const mla_tensor* given, std::string_view what) {
  if (given == nullptr) return Tensor();
  MLA_ASSIGN_OR_RETURN(const mla_tensor t, ReadStruct(given, what));
  MLA_ASSIGN_OR_RETURN(const DType dtype, ReadDType(t.dtype, what));
  if (t.device_type != MLA_CPU && t.device_type != MLA_CUDA) {
    return InvalidArgument(what, ": device_type is ", t.device_type, ", want 0 (CPU) or 1 (CUDA)");
  }
  const Device device =
      t.device_type == MLA_CPU ? Device{} : Device{DeviceType::kCuda, t.device_index};
  const auto &d = t.dims, &s = t.strides;
  switch (t.rank) {
    case 1: return Tensor(t.data, dtype, {d[0]}, {s[0]}, device);
    case 2: return Tensor(t.data, dtype, {d[0], d[1]}, {s[0], s[1]}, device);
    case 3: return Tensor(t.data, dtype, {d[0], d[1], d[2]}, {s[0], s[1], s[2]}, device);
    case 4:
      return Tensor(t.data, dtype, {d[0], d[1], d[2], d[3]}, {s[0], s[1], s[2], s[3]}, device);
    default: return InvalidArgument(what, ": rank is ", t.rank, ", want 1 to ", int{MLA_MAX_RANK});
  }
}

Result<int64_t> RowStride(const Tensor& matrix, std::string_view what) {
  const int64_t rows = matrix.dim(0), cols = matrix.dim(1);
  // The stride of an axis with one element, or of one that is never taken, may be anything.
  const int64_t stride = rows <= 1 ? cols : matrix.stride(0);
  if (stride < cols) {
    return InvalidArgument(what, " has stride ", stride, " on axis 0, want at least ", cols,
                           ", the length of a row");
  }
  return stride;
}

Status CheckInts(const Tensor& vector, int64_t length, std::string_view what) {
  if (vector.rank() != 1 || vector.dim(0) != length) {
    return InvalidArgument(what, " has shape ", vector.ShapeString(), ", want [", length, "]");
  }
  if (vector.dtype() != DType::kI32) {
    return InvalidArgument(what, " is ", DTypeName(vector.dtype()), ", want i32");
  }
  if (length > 1 && vector.stride(0) != 1) {
    return InvalidArgument(what, " has stride ", vector.stride(0), ", want 1");
  }
  if (length > 0 && !vector.present()) return InvalidArgument(what, " is null");
  return {};
}

Error Absent(std::string_view what) {
  return InvalidArgument(what, " is absent: the pointer to its mla_tensor is null");
}

Status CheckOnDevice(const ConstTensor& tensor, Device device, std::string_view what) {
  if (!tensor.present() || tensor.device() == device) return {};
  return InvalidArgument(what, " of shape ", tensor.ShapeString(), " is on ",
                         DeviceName(tensor.device()), ", want ", DeviceName(device));
}

std::string_view OrEmpty(const char* text) { return text == nullptr ? std::string_view() : text; }

}  // namespace mla::capi

extern "C" const char* mla_error_message(void) { return mla::capi::last_message.c_str(); }
