#!/usr/bin/env python3
"""Prints the known values of tests/kernels/quant_blocks_test.cc and tests/io/gguf_test.cc.

The bytes come from a generator that the tests have too; the `gguf` package (pip install gguf),
which is the format's own, decodes them. For each type: values at eleven places, the sum of all, and
the sum of value i times i + 1.
"""
import struct

import gguf
import numpy

# Where in a block its f16 scales lie.
SCALES = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}


def block_bytes(size, scales):
    """Two blocks of bytes from a linear congruential generator, with sensible scales put in."""
    data, state = bytearray(), size
    for _ in range(2 * size):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        data.append(state >> 24)
    for block in range(2):
        for i, place in enumerate(scales):
            scale = numpy.float32(numpy.float32(0.0123) * numpy.float32(1 + block))
            scale = numpy.float32(scale + numpy.float32(0.01) * numpy.float32(i))
            at = block * size + place
            data[at : at + 2] = struct.pack("<e", numpy.float16(scale))
    return bytes(data)


def main():
    for name, scales in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        raw = numpy.frombuffer(block_bytes(size, scales), dtype=numpy.uint8)
        values = gguf.quants.dequantize(raw, kind).astype(numpy.float64)
        n = elements
        places = [0, 1, 15, 16, 17, 31, n // 2 + 3, n - 1, n, n + 5, 2 * n - 1]
        shown = ", ".join(repr(float(values[i])) for i in places)
        ramp = float((values * numpy.arange(1, 2 * n + 1)).sum())
        print(f"{name}: {{{shown}}},\n  {float(values.sum())!r}, {ramp!r}")


if __name__ == "__main__":
    main()
