"""Arrays that are not NumPy's: by DLPack and by the array interfaces."""

import ctypes
import gc
import sys

import mla
import numpy as np
import pytest
import reference
from mla import _array, _dlpack

D_V, SCALE = 32, 0.17


class ByDlpack:
    """Exports an array through DLPack alone, and counts what it has handed out."""

    def __init__(self, array):
        self.array = array
        self.streams = []

    def __dlpack__(self, **options):
        self.streams.append(options)
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class ByInterface:
    def __init__(self, array):
        self.array = array
        self.__array_interface__ = array.__array_interface__


def decode(p, wrap, **options):
    return mla.decode(
        wrap(p.q),
        wrap(p.cache),
        wrap(p.pages),
        wrap(p.kv_lens),
        kv_lora_rank=D_V,
        scale=SCALE,
        **options,
    )


@pytest.mark.parametrize("wrap", [ByDlpack, ByInterface])
def test_any_exporter(wrap):
    p = reference.problem([17, 5], s_q=2)
    want, want_lse = reference.decode(p.q, p.cache, p.pages, p.kv_lens, D_V, SCALE, True)
    out, lse = decode(p, wrap)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    given = np.empty_like(out)
    assert decode(p, wrap, out=wrap(given))[0].array is given
    np.testing.assert_allclose(given, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrap", [ByDlpack, ByInterface])
def test_strides_and_offsets(wrap):
    p = reference.problem([17, 5], s_q=2)
    want, _ = decode(p, lambda a: a)
    whole = np.full((5, 2, 9, 40), np.nan, np.float32)
    whole[1:5:2, :, 1:9:2] = p.q
    q = whole[1:5:2, :, 1:9:2]
    out, _ = mla.decode(wrap(q), wrap(p.cache), p.pages, p.kv_lens, kv_lora_rank=D_V, scale=SCALE)
    np.testing.assert_array_equal(out, want)


def test_what_dlpack_hands_out_is_released():
    array = np.zeros((3, 4), np.float32)
    before = sys.getrefcount(array)
    view = _array.view(ByDlpack(array), "q")
    assert sys.getrefcount(array) > before
    assert (view.address, view.shape, view.strides) == (array.ctypes.data, (3, 4), (4, 1))
    del view
    gc.collect()
    assert sys.getrefcount(array) == before


def test_nothing_is_kept_after_a_call():
    p = reference.problem([17, 5])
    arrays = (p.q, p.cache, p.pages, p.kv_lens)
    before = [sys.getrefcount(a) for a in arrays]
    plan = mla.plan(*(ByDlpack(a) for a in arrays), kv_lora_rank=D_V)
    decode(p, ByDlpack, plan=plan)
    gc.collect()
    assert [sys.getrefcount(a) for a in arrays] == before


def test_a_capsule_that_is_used_up_is_refused():
    class Once(ByDlpack):
        def __dlpack__(self, **options):
            return self.array

        def __dlpack_device__(self):
            return (1, 0)

    class UsedUp(ByDlpack):
        def __dlpack__(self, **options):
            capsule = super().__dlpack__()
            np.from_dlpack(Once(capsule))
            return capsule

    with pytest.raises(ValueError, match="want a capsule named 'dltensor'"):
        _array.view(UsedUp(np.zeros(3, np.float32)), "q")


def capsule_of(address, device_type, code, bits, lanes=1):
    """A DLManagedTensor of shape [2], row-major, with no deleter; and what it lies in."""
    shape = (ctypes.c_int64 * 1)(2)
    tensor = _dlpack._DLTensor(address, device_type, 3, 1, code, bits, lanes, shape, None, 8)
    managed = ctypes.create_string_buffer(bytes(tensor) + bytes(16))
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_void_p,
    ]
    return new(ctypes.addressof(managed), b"dltensor", None), (managed, shape, tensor)


def versioned_capsule_of(array, flags, major=1):
    """A DLManagedTensorVersioned of a row-major array of float32, and what it lies in."""
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    tensor = _dlpack._DLTensor(
        array.ctypes.data, _dlpack.CPU, 0, array.ndim, _dlpack.FLOAT, 32, 1, shape, None, 0
    )
    managed = _dlpack._Versioned(major, 1, None, None, flags, tensor)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_void_p,
    ]
    return new(ctypes.addressof(managed), b"dltensor_versioned", None), (managed, shape, tensor)


class Versioned:
    """Exports by DLPack 1.0, to those who ask for it."""

    def __init__(self, array, flags=0, major=1):
        self.array, self.flags, self.major = array, flags, major

    def __dlpack__(self, max_version=None):
        assert max_version == (1, 0)
        capsule, self.kept = versioned_capsule_of(self.array, self.flags, self.major)
        return capsule

    def __dlpack_device__(self):
        return (_dlpack.CPU, 0)


class OnDevice:
    def __init__(self, device_type, code=_dlpack.FLOAT, bits=32, lanes=1):
        self.device_type = device_type
        self.capsule, self.kept = capsule_of(0x1000, device_type, code, bits, lanes)
        self.options = None

    def __dlpack__(self, **options):
        self.options = options
        return self.capsule

    def __dlpack_device__(self):
        return (self.device_type, 3)


def test_cuda_arrays_are_asked_for_on_the_stream():
    array = OnDevice(_dlpack.CUDA, _dlpack.BFLOAT, 16)
    view = _array.view(array, "q", stream=77)
    assert array.options == {"stream": 77, "max_version": (1, 0)}
    assert view.device == (_array.CUDA, 3) and view.dtype == _array.BF16
    assert view.address == 0x1008 and view.strides == (1,)
    _array.view(array, "q")
    assert array.options["stream"] == 1  # the default stream


@pytest.mark.parametrize(
    "array, message",
    [
        (OnDevice(10), "q is on device type 10 of DLPack, want the CPU"),
        (OnDevice(1, _dlpack.INT, 64), "q is type 0 of 64 bits"),
        (OnDevice(1, lanes=4), "has 4 lanes, want 1"),
        ([1, 2], "q is a list, want a tensor of PyTorch, or an array with __dlpack__"),
        (np.float32(3), r"q has shape \[\], want 1 to 4 axes"),
        (np.ones(3, ">f4"), r"q is >f4 \(float32 in the other byte order\), want it in this"),
        (np.ones(3, ">i4"), "q is >i4"),
        (ByInterface(np.ones(3, ">f4")), "q is >f4, want float32"),
        (Versioned(np.ones(3, np.float32), major=2), "tensor of DLPack 2.1, want 1.x"),
        (np.zeros((1, 1, 1, 1, 1), np.float32), "want 1 to 4 axes"),
    ],
)
def test_what_cannot_be_read(array, message):
    with pytest.raises(ValueError, match=message):
        _array.view(array, "q")


def test_cuda_array_interface():
    class Cuda:
        __cuda_array_interface__ = {
            "shape": (2, 3),
            "typestr": "<f2",
            "data": (4096, False),
            "version": 3,
            "strides": (12, 4),
            "stream": 5,
        }

    view = _array.view(Cuda(), "q")
    assert view.device[0] == _array.CUDA and view.dtype == _array.F16
    assert (view.address, view.strides, view.stream) == (4096, (6, 2), 5)
    Cuda.__cuda_array_interface__["strides"] = (12, 3)
    with pytest.raises(mla.ArgumentError, match="want multiples of 2"):
        _array.view(Cuda(), "q")


def test_dlpack_of_version_1():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    view = _array.view(Versioned(array), "q")
    assert (view.address, view.shape, view.strides) == (array.ctypes.data, (2, 3), (3, 1))
    assert not view.readonly and _array.view(Versioned(array, flags=1), "q").readonly


def read_only(array):
    array.flags.writeable = False
    return array


def read_only_memmap(array, path):
    array.tofile(path)
    return np.memmap(path, array.dtype, "r", shape=array.shape)


@pytest.mark.parametrize("how", ["flags", "memmap", "interface", "dlpack"])
def test_what_is_read_only_is_not_written(how, tmp_path):
    def closed(array):
        if how == "memmap":
            return read_only_memmap(array, tmp_path / "array")
        if how == "dlpack":
            return Versioned(array, flags=1)
        return ByInterface(read_only(array)) if how == "interface" else read_only(array)

    p = reference.problem([17, 5])
    for name, shape in (("out", (2, 1, 4, D_V)), ("lse", (2, 1, 4))):
        with pytest.raises(mla.ArgumentError, match=f"{name} is read-only, want an array that can"):
            decode(p, lambda a: a, **{name: closed(np.zeros(shape, np.float32))})
    parts = np.zeros((2, 1, 1, 3), np.float32), np.zeros((2, 1, 1), np.float32)
    with pytest.raises(mla.ArgumentError, match="out is read-only"):
        mla.merge(*parts, out=closed(np.zeros((1, 1, 3), np.float32)))
    with pytest.raises(mla.ArgumentError, match="lse is read-only"):
        mla.merge(*parts, lse=closed(np.zeros((1, 1), np.float32)))
    x, w = np.ones((1, 1, 3), np.float32), np.ones((1, 2, 3), np.float32)
    with pytest.raises(mla.ArgumentError, match="out is read-only"):
        mla.head_linear(x, w, out=closed(np.zeros((1, 1, 2), np.float32)))
    step = {
        "positions": np.zeros(1, np.int32),
        "slots": np.zeros(1, np.int64),
        "inv_freq": np.ones(1, np.float32),
    }
    c_kv, k_pe = np.ones((1, 4), np.float32), np.ones((1, 2), np.float32)
    with pytest.raises(mla.ArgumentError, match="cache is read-only"):
        mla.append(c_kv, k_pe, closed(np.zeros((1, 4, 6), np.float32)), **step)
    cache = np.zeros((1, 4, 6), np.float32)
    with pytest.raises(mla.ArgumentError, match="q_pe is read-only"):
        mla.append(c_kv, k_pe, cache, q_pe=closed(np.ones((1, 1, 2), np.float32)), **step)
    assert not cache.any()
    # To be read they are good enough.
    assert mla.head_linear(closed(x), closed(w)).tolist() == [[[3.0, 3.0]]]


def test_a_mixture_of_devices_is_refused():
    p = reference.problem([17, 5])
    p.pages = OnDevice(_dlpack.CUDA, _dlpack.INT)
    with pytest.raises(mla.ArgumentError, match="page_table"):
        decode(p, lambda a: a)


def test_memory_is_aligned():
    like = _array.view(np.zeros(2, np.float32), "q")
    for size in (0, 1, 1000, 4097):
        address, array = _array.memory(size, like, None)
        begin = array.ctypes.data
        assert address % 256 == 0 and begin <= address and address + size <= begin + array.nbytes
