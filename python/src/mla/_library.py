"""libmla.so through ctypes: its structs (include/mla/mla.h), its functions, its errors."""

from __future__ import annotations

import ctypes
import os
import pathlib
from typing import Any, Optional

_INVALID_ARGUMENT = 1
_CODES = {1: "invalid_argument", 2: "unsupported", 3: "out_of_memory", 4: "internal"}


class Error(Exception):
    """What the library refused or could not do; `code` is one of "invalid_argument",
    "unsupported", "out_of_memory" and "internal"."""

    def __init__(self, message: str, code: str = "unsupported") -> None:
        super().__init__(message)
        self.code = code


class ArgumentError(Error, ValueError):
    """A shape, stride, type, device or value that is out of range."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "invalid_argument")


MAX_RANK = 4


class Tensor(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("device_type", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * MAX_RANK),
        ("strides", ctypes.c_int64 * MAX_RANK),
    ]


_TensorPointer = ctypes.POINTER(Tensor)


class DecodeArgs(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("q", _TensorPointer),
        ("cache", _TensorPointer),
        ("page_table", _TensorPointer),
        ("kv_lens", _TensorPointer),
        ("out", _TensorPointer),
        ("lse", _TensorPointer),
        ("kv_lora_rank", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("causal", ctypes.c_int32),
        ("batch_invariant", ctypes.c_int32),
        ("kernel", ctypes.c_char_p),
        ("stream", ctypes.c_void_p),
        ("schedule", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("schedule_bytes", ctypes.c_size_t),
        ("workspace_bytes", ctypes.c_size_t),
        ("num_threads", ctypes.c_int32),
        ("compute", ctypes.c_int32),
    ]


class DecodeSizes(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("schedule_bytes", ctypes.c_size_t),
        ("workspace_bytes", ctypes.c_size_t),
    ]


class Verdict(ctypes.Structure):
    _fields_ = [("kernel", ctypes.c_char_p), ("refusal", ctypes.c_char_p)]


class Verdicts(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("count", ctypes.c_int32),
        ("items", ctypes.POINTER(Verdict)),
    ]


class AppendArgs(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("c_kv", _TensorPointer),
        ("k_pe", _TensorPointer),
        ("q_pe", _TensorPointer),
        ("cache", _TensorPointer),
        ("positions", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("inv_freq", ctypes.c_void_p),
        ("magnitude", ctypes.c_float),
        ("pairing", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("num_threads", ctypes.c_int32),
    ]


class HeadLinearArgs(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("x", _TensorPointer),
        ("w", _TensorPointer),
        ("y", _TensorPointer),
        ("kernel", ctypes.c_char_p),
        ("stream", ctypes.c_void_p),
        ("num_threads", ctypes.c_int32),
        ("compute", ctypes.c_int32),
    ]


class MergeArgs(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("part_out", _TensorPointer),
        ("part_lse", _TensorPointer),
        ("out", _TensorPointer),
        ("lse", _TensorPointer),
    ]


class BuildInfo(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("version", ctypes.c_char_p),
        ("cuda", ctypes.c_int32),
        ("cuda_architectures", ctypes.c_char_p),
        ("isas", ctypes.c_char_p),
    ]


class DeviceInfo(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("name", ctypes.c_char * 256),
        ("compute_capability", ctypes.c_int32),
        ("num_sms", ctypes.c_int32),
        ("memory_bytes", ctypes.c_int64),
    ]


# enum mla_compute; None: by the types.
COMPUTE = {None: 0, "bf16": 1, "f32": 2}


def compute_mode(given: Optional[str]) -> Optional[str]:
    if given not in COMPUTE:
        raise ArgumentError(f"compute is {given!r}, want 'f32', 'bf16' or None")
    return given


def make(struct: type, **fields: Any) -> Any:
    """A struct with its size field set."""
    return struct(ctypes.sizeof(struct), **fields)


_FUNCTIONS = {
    "mla_get_build_info": [ctypes.POINTER(BuildInfo)],
    "mla_device_count": [ctypes.POINTER(ctypes.c_int32)],
    "mla_get_device_info": [ctypes.c_int32, ctypes.POINTER(DeviceInfo)],
    "mla_stream_synchronize": [ctypes.c_int32, ctypes.c_void_p],
    "mla_decode_memory": [ctypes.POINTER(DecodeArgs), ctypes.POINTER(DecodeSizes)],
    "mla_decode_schedule": [ctypes.POINTER(DecodeArgs)],
    "mla_decode": [ctypes.POINTER(DecodeArgs)],
    "mla_decode_explain": [ctypes.POINTER(DecodeArgs), ctypes.POINTER(Verdicts)],
    "mla_append": [ctypes.POINTER(AppendArgs)],
    "mla_head_linear": [ctypes.POINTER(HeadLinearArgs)],
    "mla_merge": [ctypes.POINTER(MergeArgs)],
}


def _path() -> str:
    """The library that MLA_LIBRARY names, else the one in this package."""
    named = os.environ.get("MLA_LIBRARY")
    path = pathlib.Path(named) if named else pathlib.Path(__file__).with_name("libmla.so")
    if not path.is_file():
        where = "MLA_LIBRARY names" if named else "the package was installed without"
        raise ImportError(f"mla: {where} {path}, which is not there")
    return str(path)


_library = ctypes.CDLL(_path())
_library.mla_error_message.restype = ctypes.c_char_p
_library.mla_error_message.argtypes = []
for _name, _arguments in _FUNCTIONS.items():
    _function = getattr(_library, _name)
    _function.restype = ctypes.c_int32
    _function.argtypes = _arguments


def call(name: str, *args: Any) -> None:
    """Calls a function of the library; its error becomes an exception."""
    status = getattr(_library, name)(*args)
    if status == 0:
        return
    message = _library.mla_error_message().decode(errors="replace")
    if status == _INVALID_ARGUMENT:
        raise ArgumentError(message)
    raise Error(message, _CODES.get(status, "internal"))
