"""The library behind the package: what it exports, and that the structs are the header's."""

import ctypes
import doctest
import os
import pathlib
import re
import shutil
import subprocess
import sys

import mla
import mla.flash_mla
import pytest
from mla import _decode, _library, _system

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = ROOT / "include" / "mla" / "mla.h"

STRUCTS = {
    "mla_tensor": _library.Tensor,
    "mla_decode_args": _library.DecodeArgs,
    "mla_decode_sizes": _library.DecodeSizes,
    "mla_verdict": _library.Verdict,
    "mla_verdicts": _library.Verdicts,
    "mla_merge_args": _library.MergeArgs,
    "mla_build_info": _library.BuildInfo,
    "mla_device_info": _library.DeviceInfo,
}


def test_structs_are_laid_out_as_in_the_header(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    want = {f"{name} size": ctypes.sizeof(struct) for name, struct in STRUCTS.items()}
    lines = [f'printf("{name} size %zu\\n", sizeof({name}));' for name in STRUCTS]
    for name, struct in STRUCTS.items():
        for field, *_ in struct._fields_:
            at = getattr(struct, field)
            want[f"{name} {field}"], want[f"{name} {field} bytes"] = at.offset, at.size
            lines.append(f'printf("{name} {field} %zu\\n", offsetof({name}, {field}));')
            lines.append(f'printf("{name} {field} bytes %zu\\n", sizeof((({name}*)0)->{field}));')
    source = tmp_path / "layout.c"
    source.write_text(
        '#include <stdio.h>\n#include "mla/mla.h"\nint main(void) {\n'
        + "\n".join(lines)
        + "\nreturn 0; }\n"
    )
    program = tmp_path / "layout"
    subprocess.run(
        [compiler, "-std=c99", f"-I{ROOT / 'include'}", str(source), "-o", str(program)], check=True
    )
    printed = subprocess.run([str(program)], check=True, stdout=subprocess.PIPE, text=True).stdout
    got = dict(line.rsplit(" ", 1) for line in printed.splitlines())
    assert {key: int(value) for key, value in got.items()} == want


def test_the_library_exports_the_header_and_no_more():
    if shutil.which("nm") is None:
        pytest.skip("no nm here")
    declared = set(re.findall(r"MLA_API [^;(]*?\b(mla_\w+)\(", HEADER.read_text()))
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", _library._path()],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert {line.split()[-1] for line in listed.splitlines()} == declared
    assert len(declared) > 10


def test_build_info():
    info = mla.build_info()
    assert info.version == mla.__version__
    assert bool(info.cuda_architectures) == info.cuda and info.isas
    project = (ROOT / "CMakeLists.txt").read_text()
    assert f"project(mla VERSION {info.version}" in project
    assert f'\nversion = "{info.version}"' in (ROOT / "python" / "pyproject.toml").read_text()


def test_devices():
    for device in mla.devices():
        assert device.name and device.num_sms > 0 and device.compute_capability >= (5, 0)


def test_no_framework_is_imported():
    program = (
        "import sys, mla, mla.flash_mla; "
        "print({'numpy', 'torch', 'cupy', 'jax'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    ).stdout
    assert printed == "set()\n"


def test_a_missing_library_is_named():
    run = subprocess.run(
        [sys.executable, "-c", "import mla"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MLA_LIBRARY": "/no/libmla.so"},
    )
    assert "ImportError: mla: MLA_LIBRARY names /no/libmla.so, which is not there" in run.stderr


@pytest.mark.parametrize("module", [_decode, _system, mla.flash_mla])
def test_examples_of_the_docstrings(module):
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted > 0
