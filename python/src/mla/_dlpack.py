"""Reads what `__dlpack__` hands out: a capsule that holds a DLManagedTensorVersioned, of exporters
that know DLPack 1.0, or a DLManagedTensor. Only the first says whether the memory may be written.
"""

from __future__ import annotations

import ctypes
from typing import Any, Dict, NamedTuple, Optional, Set, Tuple

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
INT, UINT, FLOAT, BFLOAT, FLOAT8_E4M3FN = 0, 1, 2, 4, 10

_NAME, _VERSIONED_NAME = b"dltensor", b"dltensor_versioned"
_VERSION = (1, 0)
_READ_ONLY = 1  # of a versioned tensor's flags


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


class _Versioned(ctypes.Structure):
    """A DLManagedTensorVersioned."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    ]


class Contents(NamedTuple):
    address: int
    code: int
    bits: int
    device_type: int
    device_id: int
    shape: Tuple[int, ...]
    strides: Optional[Tuple[int, ...]]  # in elements; None: row-major
    readonly: bool  # False where the exporter does not say


_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype = ctypes.c_int
_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


# The types whose __dlpack__ takes no max_version.
_older_exporters: Set[type] = set()


def export(array: Any, options: Dict[str, Any]) -> Any:
    """A capsule, of DLPack 1.0 where the exporter has heard of it."""
    kind = type(array)
    if kind not in _older_exporters:
        try:
            return array.__dlpack__(max_version=_VERSION, **options)
        except TypeError:
            _older_exporters.add(kind)
    return array.__dlpack__(**options)


def _managed(capsule: Any) -> Tuple[_DLTensor, bool]:
    """The tensor in a capsule, and whether it is read-only."""
    if _is_valid(capsule, _VERSIONED_NAME):
        versioned = _Versioned.from_address(_get_pointer(capsule, _VERSIONED_NAME))
        if versioned.major != _VERSION[0]:
            raise ValueError(
                f"__dlpack__ gave a tensor of DLPack {versioned.major}.{versioned.minor}, want 1.x"
            )
        return versioned.tensor, bool(versioned.flags & _READ_ONLY)
    if not _is_valid(capsule, _NAME):
        raise ValueError(f"__dlpack__ gave {capsule!r}, want a capsule named 'dltensor'")
    # A DLManagedTensor begins with its DLTensor.
    return _DLTensor.from_address(_get_pointer(capsule, _NAME)), False


def read(capsule: Any) -> Contents:
    """Borrows: the capsule keeps its name, so that its own destructor releases the tensor when the
    last reference to it goes. The caller holds one for as long as it uses the address."""
    tensor, readonly = _managed(capsule)
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
        readonly=readonly,
    )
