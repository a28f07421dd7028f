"""Arrays of any framework as the library's tensors, and new arrays of the framework in use.

PyTorch tensors are read directly; others through `__dlpack__`, `__cuda_array_interface__` or
`__array_interface__`. No framework is imported unless one of its arrays is given.
"""

from __future__ import annotations

import sys
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

from mla import _dlpack
from mla._library import MAX_RANK, ArgumentError, Tensor, call, make

CPU, CUDA = 0, 1
F32, F16, BF16, I32, F8E4M3 = range(5)
# To make arrays of; FP8 and the library's own memory are bytes.
_NAMES = ("float32", "float16", "bfloat16", "int32", "uint8")

# The default stream, as DLPack and __cuda_array_interface__ number it.
_LEGACY_STREAM = 1

# Of the library's own memory.
_ALIGNMENT = 256

# The names that PyTorch, NumPy (with ml_dtypes) and CuPy have for the types. Bytes hold FP8.
_DTYPES: Dict[str, int] = {
    "float32": F32,
    "float16": F16,
    "bfloat16": BF16,
    "int32": I32,
    "float8_e4m3fn": F8E4M3,
    "uint8": F8E4M3,
}
_DLPACK_DTYPES: Dict[Tuple[int, int], int] = {
    (_dlpack.FLOAT, 32): F32,
    (_dlpack.FLOAT, 16): F16,
    (_dlpack.BFLOAT, 16): BF16,
    (_dlpack.INT, 32): I32,
    (_dlpack.FLOAT8_E4M3FN, 8): F8E4M3,
    (_dlpack.UINT, 8): F8E4M3,
}
_TYPESTRS = {"<f4": F32, "<f2": F16, "<i4": I32, "|u1": F8E4M3}
ITEM_BYTES = (4, 2, 2, 4, 1)
_MANAGED = (_dlpack.CUDA, _dlpack.CUDA_MANAGED)


class View(NamedTuple):
    """An array as the library sees it."""

    address: int
    dtype: int
    device: Tuple[int, int]  # (CPU or CUDA, index)
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]  # in elements
    array: Any  # the caller's object
    owner: Any  # what keeps the memory alive
    stream: Optional[int] = None  # that its contents are ready on, where it says so
    readonly: bool = False  # may not be written, as far as the array says

    def struct(self) -> Tensor:
        result: Tensor = make(
            Tensor,
            data=self.address,
            dtype=self.dtype,
            device_type=self.device[0],
            device_index=self.device[1],
            rank=len(self.shape),
            dims=self.shape,
            strides=self.strides,
        )
        return result


def is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


_FRAMEWORKS = {"numpy": "numpy", "cupy": "cupy", "jax": "jax", "jaxlib": "jax"}
_known_types: Dict[type, str] = {}


def _framework(array: Any) -> str:
    """ "torch", "numpy", "cupy", "jax", or "" for another."""
    kind = type(array)
    name = _known_types.get(kind)
    if name is None:
        name = "torch" if is_torch(array) else _FRAMEWORKS.get(kind.__module__.split(".")[0], "")
        if name:  # of others, too many could come
            _known_types[kind] = name
    return name


def _row_major(shape: Sequence[int]) -> Tuple[int, ...]:
    strides, stride = [], 1
    for extent in reversed(shape):
        strides.append(stride)
        stride *= extent
    return tuple(reversed(strides))


def _known(dtype: Optional[int], given: Any, what: str) -> int:
    if dtype is None:
        raise ArgumentError(f"{what} is {given}, want float32, float16, bfloat16 or int32")
    return dtype


# PyTorch's types, as they come: a name is slow to ask for.
_TORCH_DTYPES: Dict[Any, int] = {}


def _view_torch(tensor: Any, what: str) -> View:
    given = tensor.dtype
    dtype = _TORCH_DTYPES.get(given)
    if dtype is None:
        dtype = _known(_DTYPES.get(str(given).rpartition(".")[2]), given, what)
        _TORCH_DTYPES[given] = dtype
    if tensor.is_cuda:
        device = (CUDA, tensor.get_device())
    elif tensor.device.type == "cpu":
        device = (CPU, 0)
    else:
        raise ArgumentError(f"{what} is on {tensor.device}, want the CPU or a CUDA device")
    return View(
        tensor.data_ptr(), dtype, device, tuple(tensor.shape), tensor.stride(), tensor, tensor
    )


def _element_strides(
    strides: Optional[Sequence[int]], shape: Sequence[int], size: int, what: str
) -> Tuple[int, ...]:
    if strides is None:
        return _row_major(shape)
    if any(stride % size for stride in strides):
        raise ArgumentError(f"{what} has strides {tuple(strides)} bytes, want multiples of {size}")
    return tuple(stride // size for stride in strides)


def _view_interface(
    array: Any, interface: Dict[str, Any], device: Tuple[int, int], dtype: int, what: str
) -> View:
    shape = tuple(interface["shape"])
    return View(
        address=interface["data"][0] or 0,
        dtype=dtype,
        device=device,
        shape=shape,
        strides=_element_strides(interface.get("strides"), shape, ITEM_BYTES[dtype], what),
        array=array,
        owner=array,
        stream=interface.get("stream"),
        readonly=bool(interface["data"][1]),
    )


def _view_numpy(array: Any, what: str) -> View:
    if not array.dtype.isnative:
        raise ArgumentError(
            f"{what} is {array.dtype.str} ({array.dtype.name} in the other byte order), want it "
            "in this machine's"
        )
    dtype = _known(_DTYPES.get(array.dtype.name), array.dtype, what)
    return _view_interface(array, array.__array_interface__, (CPU, 0), dtype, what)


def _view_dlpack(array: Any, stream: Optional[int], what: str) -> View:
    device_type, device_id = array.__dlpack_device__()
    if int(device_type) in _MANAGED:
        options = {"stream": _LEGACY_STREAM if stream is None else stream}
    else:
        options = {}
    # All of JAX's arrays are immutable, which does not keep us from filling in our own.
    capsule = array.__dlpack__(**options) if is_jax(array) else _dlpack.export(array, options)
    contents = _dlpack.read(capsule)
    if contents.device_type in _MANAGED:
        device = (CUDA, contents.device_id)
    elif contents.device_type in (_dlpack.CPU, _dlpack.CUDA_HOST):
        device = (CPU, 0)
    else:
        raise ArgumentError(
            f"{what} is on device type {contents.device_type} of DLPack, "
            "want the CPU (1) or CUDA (2)"
        )
    given = f"type {contents.code} of {contents.bits} bits (DLPack)"
    return View(
        address=contents.address,
        dtype=_known(_DLPACK_DTYPES.get((contents.code, contents.bits)), given, what),
        device=device,
        shape=contents.shape,
        strides=contents.strides if contents.strides is not None else _row_major(contents.shape),
        array=array,
        owner=capsule,
        readonly=contents.readonly,
    )


def _view_cuda(array: Any, what: str) -> View:
    interface = array.__cuda_array_interface__
    dtype = _known(_TYPESTRS.get(interface["typestr"]), interface["typestr"], what)
    # The interface does not say which device; a device's arrays are used while it is current.
    return _view_interface(array, interface, (CUDA, 0), dtype, what)


def view(array: Any, what: str, stream: Optional[int] = None) -> View:
    """Reads an array. `stream` is where the work on a CUDA array will be enqueued."""
    if isinstance(array, View):
        return array
    framework = _framework(array)
    if framework == "torch":
        result = _view_torch(array, what)
    elif framework == "numpy":
        result = _view_numpy(array, what)
    elif hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        result = _view_dlpack(array, stream, what)
    elif hasattr(array, "__cuda_array_interface__"):
        result = _view_cuda(array, what)
    elif hasattr(array, "__array_interface__"):
        interface = array.__array_interface__
        dtype = _known(_TYPESTRS.get(interface["typestr"]), interface["typestr"], what)
        result = _view_interface(array, interface, (CPU, 0), dtype, what)
    else:
        raise ArgumentError(
            f"{what} is a {type(array).__name__}, want a tensor of PyTorch, or an "
            "array with __dlpack__ or __cuda_array_interface__"
        )
    if not 1 <= len(result.shape) <= MAX_RANK:
        raise ArgumentError(f"{what} has shape {list(result.shape)}, want 1 to {MAX_RANK} axes")
    return result


def output(array: Any, what: str, stream: Optional[int] = None) -> View:
    """Reads an array that is to be written."""
    result = view(array, what, stream)
    if result.readonly:
        raise ArgumentError(f"{what} is read-only, want an array that can be written")
    return result


def stream_of(arrays: Sequence[Any], given: Optional[int]) -> Optional[int]:
    """The stream that work on these arrays goes to: PyTorch's current one where a tensor of its is
    among them, else the one given, else CuPy's current one; None is the default stream. For views
    the caller has asked already."""
    if isinstance(arrays[0], View):
        return given
    for array in arrays:
        if is_torch(array) and array.is_cuda:
            if given is not None:
                raise ArgumentError(
                    "stream: PyTorch tensors are used on PyTorch's current stream; "
                    "want None, inside `with torch.cuda.stream(...)`"
                )
            return sys.modules["torch"].cuda.current_stream(array.device).cuda_stream or None
    if given is not None:
        return given
    for array in arrays:
        if _framework(array) == "cupy":
            return sys.modules["cupy"].cuda.get_current_stream().ptr or None
    return None


def wait_for(views: Sequence[View], stream: Optional[int]) -> None:
    """Waits for what arrays of __cuda_array_interface__ say is still being written elsewhere."""
    ours = stream if stream is not None else _LEGACY_STREAM
    for other in {v.stream for v in views if v.stream} - {ours}:
        call("mla_stream_synchronize", views[0].device[1], other)


# --- new arrays ----------------------------------------------------------------------------------


def _maker(like: View) -> str:
    """The framework that makes new arrays beside this one."""
    framework = _framework(like.array)
    if framework:
        return framework
    if like.device[0] == CPU:
        return "numpy"
    for name in ("torch", "cupy"):
        if name in sys.modules:
            return name
    raise ArgumentError(
        f"a {type(like.array).__name__} says nothing of how to make another, and "
        "the call needs device memory: import torch or cupy first"
    )


def _empty_numpy(shape: Tuple[int, ...], dtype: str, like: View) -> Any:
    import numpy

    if dtype == "bfloat16":
        if _framework(like.array) != "numpy":
            raise ArgumentError("out: NumPy has no bfloat16 of its own; give an array to write to")
        return numpy.empty(shape, like.array.dtype)
    return numpy.empty(shape, dtype)


def _empty_cuda(maker: str, shape: Tuple[int, ...], dtype: str, index: int) -> Any:
    if maker == "torch":
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=f"cuda:{index}")
    import cupy

    with cupy.cuda.Device(index):
        return cupy.empty(shape, dtype)


def _empty_jax(shape: Tuple[int, ...], dtype: str, like: View) -> Any:
    import jax

    with jax.default_device(next(iter(like.array.devices()))):
        # Written behind JAX's back: the memory must be there, and be nobody else's.
        return jax.numpy.zeros(shape, dtype).block_until_ready()


def empty(shape: Sequence[int], like: View, dtype: Optional[int] = None) -> Any:
    """A new array, not filled in, of the framework of `like`, on its device and of its type unless
    another is named."""
    shape = tuple(shape)
    name = _NAMES[like.dtype if dtype is None else dtype]
    if is_torch(like.array):
        if dtype is None:
            return like.array.new_empty(shape)
        return like.array.new_empty(shape, dtype=getattr(sys.modules["torch"], name))
    maker = _maker(like)
    if like.device[0] == CUDA and maker in ("torch", "cupy"):
        return _empty_cuda(maker, shape, name, like.device[1])
    if maker == "jax":
        return _empty_jax(shape, name, like)
    return _empty_numpy(shape, name, like)


def is_jax(array: Any) -> bool:
    return _framework(array) == "jax"


def memory(num_bytes: int, like: View, stream: Optional[int]) -> Tuple[int, Any]:
    """Device memory for the library's own use: its address, a multiple of 256, and the array that
    it lies in."""
    array = empty((max(num_bytes, 1),), like, F8E4M3)
    address = array.data_ptr() if is_torch(array) else view(array, "memory", stream).address
    # The allocators of PyTorch, CuPy and JAX align so already.
    if address % _ALIGNMENT:
        array = empty((num_bytes + _ALIGNMENT,), like, F8E4M3)
        address = view(array, "memory", stream).address
        address += -address % _ALIGNMENT
    return address, array
