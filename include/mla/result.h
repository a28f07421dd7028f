// Error values. A fallible call returns Status or Result<T>; nothing in the library throws across
// its interface, and only a bug of our own (a failed MLA_CHECK) stops the program.
#ifndef MLA_RESULT_H_
#define MLA_RESULT_H_

#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

namespace mla {

enum class ErrorCode {
  kInvalidArgument,  // a flag, shape, stride or token id that is out of range
  kNotFound,         // a file, tensor or key that does not exist
  kIoError,          // the operating system refused: permissions, full disk
  kCorruptFile,      // a file whose contents contradict themselves or its format
  kUnsupported,      // well-formed, but nothing here implements it
  kOutOfPages,       // the KV-cache pool is exhausted; free a sequence and retry
  kOutOfMemory,
  kCancelled,  // the caller's own callback asked to stop
};

std::string_view ErrorCodeName(ErrorCode code);

struct Error {
  ErrorCode code;
  std::string message;  // one line, with the offending value and what would be right
};

// Concatenates anything that has operator<<. Used for error messages, never on a hot path.
template <typename... Parts>
std::string Concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

template <typename... Parts>
Error InvalidArgument(const Parts&... parts) {
  return Error{ErrorCode::kInvalidArgument, Concat(parts...)};
}
template <typename... Parts>
Error NotFound(const Parts&... parts) {
  return Error{ErrorCode::kNotFound, Concat(parts...)};
}
template <typename... Parts>
Error IoError(const Parts&... parts) {
  return Error{ErrorCode::kIoError, Concat(parts...)};
}
template <typename... Parts>
Error CorruptFile(const Parts&... parts) {
  return Error{ErrorCode::kCorruptFile, Concat(parts...)};
}
template <typename... Parts>
Error Unsupported(const Parts&... parts) {
  return Error{ErrorCode::kUnsupported, Concat(parts...)};
}

// Success, or an Error.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // implicit: `return InvalidArgument(...)`

  bool ok() const { return !error_.has_value(); }
  const Error& error() const { return *error_; }  // requires !ok()
  std::string_view message() const { return ok() ? std::string_view() : error_->message; }

 private:
  std::optional<Error> error_;
};

// A value, or an Error.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const { return value_.has_value(); }
  const Error& error() const { return *error_; }  // requires !ok()
  std::string_view message() const { return ok() ? std::string_view() : error_->message; }

  T& operator*() & { return *value_; }  // requires ok()
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return *std::move(value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  std::optional<T> value_;
  std::optional<Error> error_;
};

}  // namespace mla

#define MLA_CONCAT_INNER_(a, b) a##b
#define MLA_CONCAT_(a, b) MLA_CONCAT_INNER_(a, b)

// Returns the error of a Status or Result expression from the enclosing function.
#define MLA_RETURN_IF_ERROR(expr)                       \
  do {                                                  \
    if (auto mla_status_ = (expr); !mla_status_.ok()) { \
      return mla_status_.error();                       \
    }                                                   \
  } while (false)

// MLA_ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
#define MLA_ASSIGN_OR_RETURN(decl, expr) \
  MLA_ASSIGN_OR_RETURN_(MLA_CONCAT_(mla_result_, __LINE__), decl, expr)
#define MLA_ASSIGN_OR_RETURN_(result, decl, expr) \
  auto result = (expr);                           \
  if (!result.ok()) return result.error();        \
  decl = *std::move(result)

#endif  // MLA_RESULT_H_
