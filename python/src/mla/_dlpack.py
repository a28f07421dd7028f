"""Reads what `__dlpack__` hands out: a capsule that holds a DLManagedTensor (DLPack 0.x and 1.x,
the layout without a version)."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple, Optional, Tuple

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
INT, UINT, FLOAT, BFLOAT, FLOAT8_E4M3FN = 0, 1, 2, 4, 10

_NAME = b"dltensor"


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Contents(NamedTuple):
    address: int
    code: int
    bits: int
    device_type: int
    device_id: int
    shape: Tuple[int, ...]
    strides: Optional[Tuple[int, ...]]  # in elements; None: row-major


_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype = ctypes.c_int
_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def read(capsule: Any) -> Contents:
    """Borrows: the capsule keeps its name, so that its own destructor releases the tensor when the
    last reference to it goes. The caller holds one for as long as it uses the address."""
    if not _is_valid(capsule, _NAME):
        raise ValueError(f"__dlpack__ gave {capsule!r}, want a capsule named 'dltensor'")
    # A DLManagedTensor begins with its DLTensor.
    tensor = _DLTensor.from_address(_get_pointer(capsule, _NAME))
    rank = tensor.ndim
    if tensor.lanes != 1:
        raise ValueError(f"a DLPack tensor has {tensor.lanes} lanes, want 1")
    return Contents(
        address=(tensor.data or 0) + tensor.byte_offset,
        code=tensor.code,
        bits=tensor.bits,
        device_type=tensor.device_type,
        device_id=tensor.device_id,
        shape=tuple(tensor.shape[:rank]),
        strides=tuple(tensor.strides[:rank]) if tensor.strides else None,
    )
