"""What an engine needs around a decode step: `append` and `head_linear`."""

from __future__ import annotations

import ctypes
from typing import Any, Optional

from mla import _array, _library
from mla._array import CPU, F32, I32, View
from mla._library import ArgumentError

_PAIRINGS = {"interleaved": 0, "halves": 1}


def _vector(array: Any, what: str, dtype: int, length: int, device: Any, stream: Any) -> View:
    """A contiguous array of one axis, where the other operands are."""
    found = _array.view(array, what, stream)
    if found.dtype != dtype or found.shape != (length,) or found.strides[0] != 1 < length:
        kind = "int32" if dtype == I32 else "float32"
        raise ArgumentError(
            f"{what} has shape {list(found.shape)} and strides {list(found.strides)}, want "
            f"[{length}] {kind}, contiguous"
        )
    if found.device != device:
        raise ArgumentError(f"{what} is on device {found.device}, want {device}")
    return found


def _slots(array: Any, length: int, device: Any, stream: Any) -> View:
    """int64, which the library's tensors do not have: read as twice as many int32."""
    if not str(array.dtype).endswith("int64") or tuple(array.shape) != (length,):
        raise ArgumentError(
            f"slots has shape {list(array.shape)} of {array.dtype}, want [{length}] int64"
        )
    if _array.is_torch(array):
        import torch

        if not array.is_contiguous():
            raise ArgumentError("slots is not contiguous")
        return _vector(array.view(torch.int32), "slots", I32, 2 * length, device, stream)
    return _vector(array.view("int32"), "slots", I32, 2 * length, device, stream)


def append(
    c_kv: Any,
    k_pe: Any,
    cache: Any,
    *,
    positions: Any,
    slots: Any,
    inv_freq: Any,
    q_pe: Any = None,
    magnitude: float = 1.0,
    pairing: str = "interleaved",
    stream: Optional[int] = None,
    num_threads: int = 0,
) -> None:
    """Rotates a step's keys and queries (RoPE) and appends the step's latents to the paged cache.

    All arrays lie on one device. On a GPU the call enqueues one kernel and returns. On the CPU a
    call that is refused has written nothing.

    Args:
        c_kv: [tokens, kv_lora_rank] float32, bfloat16 or float16 (on the CPU float32): normalised.
        k_pe: [tokens, qk_rope_head_dim], of the type of c_kv, not rotated.
        cache: [num_pages, page_size, kv_lora_rank + qk_rope_head_dim] bfloat16 or float16 (on the
            CPU float32 too), written at `slots`. On a GPU also [num_pages, page_size, 656] uint8,
            the FP8 latents of `mla.decode`, into which c_kv is quantised.
        positions: [tokens] int32.
        slots: [tokens] int64: page * page_size + offset; a token with a negative one is not cached.
        inv_freq: [qk_rope_head_dim / 2] float32: the angle of pair i is positions * inv_freq[i].
        q_pe: [tokens, heads, qk_rope_head_dim], of the type of c_kv, rotated in place; the end of
            each row of q of `mla.decode`.
        magnitude: cos and sin are multiplied by it, YaRN's attention factor; not 0.
        pairing: "interleaved" rotates elements (0, 1), (2, 3), ...; "halves" i and i + half.
        stream: as in `mla.decode`.
        num_threads: on the CPU; 0 is as many as this process may use.

    Example:
        >>> import numpy as np, mla
        >>> cache = np.zeros((2, 4, 6), np.float32)
        >>> mla.append(np.ones((1, 4), np.float32), np.array([[1, 0]], np.float32), cache,
        ...            positions=np.array([0], np.int32), slots=np.array([5]),
        ...            inv_freq=np.ones(1, np.float32))
        >>> cache[1, 1].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    """
    if pairing not in _PAIRINGS:
        raise ArgumentError(f"pairing is {pairing!r}, want 'interleaved' or 'halves'")
    if magnitude == 0:
        raise ArgumentError("magnitude is 0, want another number")
    stream = _array.stream_of((c_kv, k_pe, cache, positions, slots, inv_freq), stream)
    views = [_array.view(c_kv, "c_kv", stream), _array.view(k_pe, "k_pe", stream)]
    views.append(_array.output(cache, "cache", stream))
    if q_pe is not None:
        views.append(_array.output(q_pe, "q_pe", stream))
    for view, name in ((views[0], "c_kv"), (views[1], "k_pe")):
        if len(view.shape) != 2:
            raise ArgumentError(f"{name} has shape {list(view.shape)}, want two axes")
    tokens, device = views[0].shape[0], views[0].device
    at = _vector(positions, "positions", I32, tokens, device, stream)
    to = _slots(slots, tokens, device, stream)
    turns = _vector(inv_freq, "inv_freq", F32, views[1].shape[1] // 2, device, stream)
    if device[0] != CPU:
        _array.wait_for((*views, at, to, turns), stream)
    structs = [ctypes.pointer(view.struct()) for view in views]
    args = _library.make(
        _library.AppendArgs,
        c_kv=structs[0],
        k_pe=structs[1],
        cache=structs[2],
        positions=at.address,
        slots=to.address,
        inv_freq=turns.address,
        magnitude=magnitude,
        pairing=_PAIRINGS[pairing],
        stream=stream,
        num_threads=num_threads,
    )
    if q_pe is not None:
        args.q_pe = structs[3]
    _library.call("mla_append", args)


def head_linear(
    x: Any,
    w: Any,
    *,
    out: Any = None,
    kernel: Optional[str] = None,
    stream: Optional[int] = None,
    num_threads: int = 0,
    compute: Optional[str] = None,
) -> Any:
    """A product for each head, out[t, h] = w[h] @ x[t, h]: of q_nope with W_UK before a decode
    step, and of its result with W_UV after it. Sums are in fp32.

    Args:
        x: [tokens, heads, in] bfloat16 or float16; on the CPU float32.
        w: [heads, out, in] of the type of x (on the CPU float32, bfloat16 or float16), any view of
            the weights with one of the two inner strides 1.
        out: [tokens, heads, out] of the type of x, to write to; otherwise a new one.
        kernel: runs this kernel and no other.
        stream: as in `mla.decode`.
        num_threads: on the CPU; 0 is as many as this process may use.
        compute: on the CPU. "f32", as it is otherwise, or "bf16": x is rounded to bfloat16.

    Returns:
        out

    Example:
        >>> import numpy as np, mla
        >>> w = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
        >>> mla.head_linear(np.ones((1, 1, 3), np.float32), w).tolist()
        [[[3.0, 12.0]]]
    """
    stream = _array.stream_of((x, w), stream)
    inputs, weights = _array.view(x, "x", stream), _array.view(w, "w", stream)
    if len(inputs.shape) != 3 or len(weights.shape) != 3:
        raise ArgumentError(
            f"x has shape {list(inputs.shape)} and w {list(weights.shape)}, want "
            "[tokens, heads, in] and [heads, out, in]"
        )
    if out is None:
        out = _array.empty((*inputs.shape[:2], weights.shape[1]), inputs)
    views = (inputs, weights, _array.output(out, "out", stream))
    if inputs.device[0] != CPU:
        _array.wait_for(views, stream)
    x_t, w_t, y_t = (ctypes.pointer(view.struct()) for view in views)
    args = _library.make(
        _library.HeadLinearArgs,
        x=x_t,
        w=w_t,
        y=y_t,
        kernel=None if kernel is None else kernel.encode(),
        stream=stream,
        num_threads=num_threads,
        compute=_library.COMPUTE[_library.compute_mode(compute)],
    )
    _library.call("mla_head_linear", args)
    if _array.is_jax(inputs.array) and inputs.device[0] != CPU:
        _library.call("mla_stream_synchronize", inputs.device[1], stream)
    return out
