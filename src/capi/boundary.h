// What stands between the C interface and the library: errors, and the structs of the caller.
#ifndef MLA_CAPI_BOUNDARY_H_
#define MLA_CAPI_BOUNDARY_H_

#include <cstddef>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "mla/mla.h"
#include "mla/result.h"
#include "mla/tensor.h"

namespace mla::capi {

// Keeps the error's message for this thread and returns its code.
mla_status Report(const Status& status);
mla_status Report(mla_status code, std::string_view message) noexcept;

// Runs `body`, which returns a Status, and turns what it returns or throws into a code.
template <typename Body>
mla_status Guarded(const Body& body) noexcept {
  try {
    return Report(body());
  } catch (const std::bad_alloc&) {
    return Report(MLA_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& e) {
    return Report(MLA_INTERNAL, e.what());
  } catch (...) {
    return Report(MLA_INTERNAL, "an unknown exception");
  }
}

// Checks the size field of a caller's struct of which this library knows `known` bytes, and that
// what lies beyond is zero.
Status CheckStruct(const void* given, size_t known, std::string_view what);

// A copy of a caller's struct; fields that it does not have are zero.
template <typename Struct>
Result<Struct> ReadStruct(const Struct* given, std::string_view what) {
  MLA_RETURN_IF_ERROR(CheckStruct(given, sizeof(Struct), what));
  Struct copy = {};
  std::memcpy(&copy, given, given->size < sizeof(Struct) ? given->size : sizeof(Struct));
  return copy;
}

// Fills in a caller's struct as far as it goes; its size field stays.
template <typename Struct>
Status WriteStruct(Struct filled, Struct* given, std::string_view what) {
  if (given == nullptr || given->size < sizeof(size_t)) {
    return InvalidArgument(what, ": the struct is null, or its size field is not set");
  }
  filled.size = given->size;
  std::memcpy(given, &filled, given->size < sizeof(Struct) ? given->size : sizeof(Struct));
  return {};
}

// The view of a caller's tensor; an absent one, of rank 0, where the pointer is null.
Result<Tensor> ReadTensor(const mla_tensor* given, std::string_view what);

// [rows, cols] of i32 with the inner stride 1: the distance between two rows, in elements.
Result<int64_t> RowStride(const Tensor& matrix, std::string_view what);

// i32, contiguous, of this length.
Status CheckInts(const Tensor& vector, int64_t length, std::string_view what);

// The error of an operand that must be there.
Error Absent(std::string_view what);

// An absent tensor is on every device.
Status CheckOnDevice(const ConstTensor& tensor, Device device, std::string_view what);

std::string_view OrEmpty(const char* text);

}  // namespace mla::capi

#endif  // MLA_CAPI_BOUNDARY_H_
