#!/usr/bin/env python3
"""Holds a GGUF file written by `mla quantize` against the format's own Python package.

    mla quantize MODEL -o q.gguf --type q4_k
    mla quantize q.gguf -o f32.gguf --type f32
    tools/check_gguf.py q.gguf f32.gguf

Reads both with `gguf` (pip install gguf), lists metadata and tensor types, and dequantises every
tensor of the first: each must be, to the last bit, what the second holds, which is what mla decodes.
"""
import collections
import sys

import gguf
import numpy


def describe(reader):
    for field in reader.fields.values():
        value = field.contents()
        text = repr(value) if not isinstance(value, list) else f"{len(value)} x {value[:3]!r}"
        print(f"  {field.name} = {text[:100]}")
    types = collections.Counter(t.tensor_type.name for t in reader.tensors)
    print(" ", ", ".join(f"{n} {name}" for name, n in sorted(types.items())))


def values(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    written, decoded = (gguf.GGUFReader(path) for path in sys.argv[1:])
    describe(written)
    ours = {tensor.name: tensor for tensor in decoded.tensors}
    if ours.keys() != {tensor.name for tensor in written.tensors}:
        sys.exit("the files do not hold the same tensors")
    wrong = 0
    for tensor in written.tensors:
        want, got = values(tensor), values(ours[tensor.name])
        if want.shape != got.shape or not numpy.array_equal(want, got):
            wrong += 1
            worst = numpy.abs(want - got).max() if want.shape == got.shape else "shapes differ"
            print(f"  {tensor.name} {tensor.tensor_type.name}: {worst}")
    print(f"{len(written.tensors) - wrong} of {len(written.tensors)} tensors are equal")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
