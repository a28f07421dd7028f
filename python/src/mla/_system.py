"""What this library was built with, and what it finds."""

from __future__ import annotations

import ctypes
from typing import List, NamedTuple, Tuple

from mla import _library


class BuildInfo(NamedTuple):
    version: str
    cuda: bool  # the CUDA kernels are in the library
    cuda_architectures: Tuple[str, ...]  # what they are compiled for: ("90a-real", "80-virtual")
    isas: Tuple[str, ...]  # instruction sets that the CPU kernels use on this machine, best first


class Device(NamedTuple):
    name: str  # "NVIDIA H200"
    compute_capability: Tuple[int, int]
    num_sms: int
    memory_bytes: int


def build_info() -> BuildInfo:
    """What the library was built with.

    Example:
        >>> import mla
        >>> mla.build_info().version.count(".")
        2
    """
    info = _library.make(_library.BuildInfo)
    _library.call("mla_get_build_info", info)
    return BuildInfo(
        info.version.decode(),
        bool(info.cuda),
        tuple(info.cuda_architectures.decode().split()),
        tuple(info.isas.decode().split()),
    )


def devices() -> List[Device]:
    """The CUDA devices, in the driver's order; none without a driver or without the CUDA kernels.

    Example:
        >>> import mla
        >>> all(device.num_sms > 0 for device in mla.devices())
        True
    """
    count = ctypes.c_int32()
    try:
        _library.call("mla_device_count", count)
    except _library.Error:
        return []
    found = []
    for index in range(count.value):
        info = _library.make(_library.DeviceInfo)
        _library.call("mla_get_device_info", index, info)
        found.append(
            Device(
                info.name.decode(),
                divmod(info.compute_capability, 10),
                info.num_sms,
                info.memory_bytes,
            )
        )
    return found
