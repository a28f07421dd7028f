"""Runs the examples of docs/python.md; those that import torch only where there is a GPU."""

import pathlib
import re

import mla
import pytest

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "python.md"
BLOCKS = [m.group(1) for m in re.finditer(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)]


def run(blocks):
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_examples_with_numpy():
    blocks = [block for block in BLOCKS if "torch" not in block]
    assert len(blocks) >= 2
    run(blocks)


def test_examples_with_pytorch():
    blocks = [block for block in BLOCKS if "torch" in block]
    assert len(blocks) >= 2
    for block in blocks:
        compile(block, str(PAGE), "exec")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available() or not mla.build_info().cuda:
        pytest.skip("there is no GPU, or no kernels for it in the library")
    run(blocks)
    torch.cuda.synchronize()
