"""`mla.decode` and its siblings on the CPU, against NumPy in float64."""

import ctypes

import mla
import numpy as np
import pytest
import reference
from mla import _dlpack

D_V = 32
SCALE = 0.17
TOLERANCE = {np.float32: 1e-5, np.float16: 2e-3}


def run(p, **options):
    options = {"kv_lora_rank": D_V, "scale": SCALE, **options}
    return mla.decode(p.q, p.cache, p.pages, p.kv_lens, **options)


def expect_right(p, out, lse, causal=True):
    want_out, want_lse = reference.decode(p.q, p.cache, p.pages, p.kv_lens, D_V, SCALE, causal)
    tolerance = TOLERANCE[p.q.dtype.type]
    np.testing.assert_allclose(out, want_out, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("s_q", [1, 3])
@pytest.mark.parametrize("kv_lens", [[1], [0], [17, 0, 2, 8], [64, 63]])
@pytest.mark.parametrize("page_size", [1, 8, 64])
def test_matches_the_definition(dtype, causal, s_q, kv_lens, page_size):
    p = reference.problem(kv_lens, s_q=s_q, page_size=page_size, dtype=dtype)
    out, lse = run(p, causal=causal)
    assert out.dtype == dtype and lse.dtype == np.float32
    expect_right(p, out, lse, causal)


def test_rows_without_keys():
    p = reference.problem([2, 0], s_q=4)
    out, lse = run(p)
    assert np.isneginf(lse[0, :2]).all() and np.isfinite(lse[0, 2:]).all()
    assert np.isneginf(lse[1]).all()
    assert (out[0, :2] == 0).all() and (out[1] == 0).all()


def test_no_sequences():
    p = reference.problem([3])
    out, lse = mla.decode(p.q[:0], p.cache, p.pages[:0], p.kv_lens[:0], kv_lora_rank=D_V, scale=1)
    assert out.shape == (0, 1, 4, D_V) and lse.shape == (0, 1, 4)


def test_strides_are_honoured():
    p = reference.problem([17, 5], s_q=2)
    heads_first = np.ascontiguousarray(p.q.transpose(2, 1, 0, 3)).transpose(2, 1, 0, 3)
    wide_pages = np.repeat(p.pages, 2, axis=1)
    wide_pages[:, : p.pages.shape[1]] = p.pages
    wide_cache = np.full((*p.cache.shape[:2], 100), np.nan, np.float32)
    wide_cache[..., 30:70] = p.cache
    out = np.empty((4, 2, 2, D_V), np.float32).transpose(2, 1, 0, 3)
    lse = np.empty((4, 2, 2), np.float32).transpose(2, 1, 0)
    got = mla.decode(
        heads_first,
        wide_cache[..., 30:70],
        wide_pages[:, : p.pages.shape[1]],
        p.kv_lens,
        kv_lora_rank=D_V,
        scale=SCALE,
        out=out,
        lse=lse,
    )
    assert got[0] is out and got[1] is lse
    expect_right(p, out, lse)


def test_a_plan_serves_every_layer():
    p = reference.problem([17, 5, 0])
    plan = mla.plan(p.q, p.cache, p.pages, p.kv_lens, kv_lora_rank=D_V)
    for layer in range(2):
        p.q = p.q + layer
        expect_right(p, *run(p, plan=plan))
    assert plan.kernel == next(
        v.kernel
        for v in mla.explain(p.q, p.cache, p.pages, p.kv_lens, kv_lora_rank=D_V)
        if v.accepts
    )
    _, lse = run(p, plan=plan, scale=0.5)
    _, want = reference.decode(p.q, p.cache, p.pages, p.kv_lens, D_V, 0.5, True)
    np.testing.assert_allclose(lse, want, rtol=1e-5, atol=1e-5)
    p.kv_lens[1] = 3
    plan.update(p.kv_lens)
    expect_right(p, *run(p, plan=plan))


def test_a_plan_for_other_shapes_is_refused():
    p = reference.problem([17, 5])
    plan = mla.plan(p.q, p.cache, p.pages, p.kv_lens, kv_lora_rank=D_V)
    with pytest.raises(mla.ArgumentError, match=r"plan: it was made for q \(2, 1, 4, 40, 'f32'"):
        run(reference.problem([17, 5], heads=5), plan=plan)
    with pytest.raises(mla.ArgumentError, match="plan: it was made for causal True"):
        run(p, plan=plan, causal=False)


def test_explain_names_every_kernel():
    p = reference.problem([17])
    args = (p.q, p.cache, p.pages, p.kv_lens)
    verdicts = mla.explain(*args, kv_lora_rank=D_V)
    assert verdicts[-1] == mla.Verdict("reference", "") and verdicts[-1].accepts
    forced = mla.explain(*args, kv_lora_rank=D_V, kernel="reference")
    assert [v.accepts for v in forced] == [v.kernel == "reference" for v in forced]


def test_a_kernel_can_be_asked_for():
    p = reference.problem([17, 3], s_q=2)
    plan = mla.plan(p.q, p.cache, p.pages, p.kv_lens, kv_lora_rank=D_V, kernel="reference")
    assert plan.kernel == "reference"
    expect_right(p, *run(p, plan=plan))
    none = mla.plan(p.q, p.cache, p.pages, p.kv_lens, kv_lora_rank=D_V, kernel="sm_9000")
    with pytest.raises(mla.ArgumentError, match="no kernel is called sm_9000, want one of"):
        run(p, plan=none)


def to_bf16(array):
    """Truncated, as uint16."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Bf16:
    """bfloat16 in an array of uint16, by DLPack."""

    def __init__(self, bits):
        shape = (ctypes.c_int64 * bits.ndim)(*bits.shape)
        strides = (ctypes.c_int64 * bits.ndim)(*(s // 2 for s in bits.strides))
        tensor = _dlpack._DLTensor(
            bits.ctypes.data, _dlpack.CPU, 0, bits.ndim, _dlpack.BFLOAT, 16, 1, shape, strides, 0
        )
        self.managed = ctypes.create_string_buffer(bytes(tensor) + bytes(16))
        self.kept = (bits, shape, strides)

    def __dlpack__(self):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.managed), b"dltensor", None)

    def __dlpack_device__(self):
        return (_dlpack.CPU, 0)


def bf16_problem(**options):
    p = reference.problem([170, 5, 64], **options)
    q, cache = to_bf16(p.q), to_bf16(p.cache)
    p.q, p.cache = from_bf16(q), from_bf16(cache)
    want, want_lse = reference.decode(p.q, p.cache, p.pages, p.kv_lens, D_V, SCALE, True)
    return p, q, Bf16(cache), want, want_lse


def test_bfloat16_on_the_cpu():
    p, q, cache, want, want_lse = bf16_problem(s_q=2)
    out, lse = np.zeros((3, 2, 4, D_V), np.uint16), np.zeros((3, 2, 4), np.float32)
    for compute, tolerance in ((None, 2e-2), ("bf16", 2e-2), ("f32", 8e-3)):
        out[:] = 0x7FC0
        mla.decode(Bf16(q), cache, p.pages, p.kv_lens, kv_lora_rank=D_V, scale=SCALE,
                   out=Bf16(out), lse=lse, compute=compute)
        np.testing.assert_allclose(from_bf16(out), want, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(lse, want_lse, rtol=1e-2, atol=1e-2)
    # Of other types than q and each other: f32 and f16 around a cache in bfloat16.
    for dtype, tolerance in ((np.float32, 1e-5), (np.float16, 2e-3)):
        result = np.zeros(want.shape, dtype)
        mla.decode(p.q, cache, p.pages, p.kv_lens, kv_lora_rank=D_V, scale=SCALE, out=result)
        np.testing.assert_allclose(result, want, rtol=tolerance, atol=tolerance)


def chosen(q, cache, p, **options):
    verdicts = mla.explain(q, cache, p.pages, p.kv_lens, kv_lora_rank=D_V, **options)
    return next(v.kernel for v in verdicts if v.accepts)


def test_16_bit_operands_run_on_the_kernels_of_32_bits():
    p, q, cache, _, _ = bf16_problem()
    fast = chosen(p.q, p.cache, p)
    assert chosen(p.q.astype(np.float16), p.cache.astype(np.float16), p) == fast
    assert chosen(Bf16(q), cache, p, compute="f32") == fast
    # The mode follows the types where the call leaves it open.
    in_bf16 = chosen(p.q, cache, p, compute="bf16")
    assert chosen(Bf16(q), cache, p) == in_bf16
    assert chosen(p.q, cache, p) == chosen(p.q, cache, p, compute="f32") == fast


@pytest.mark.parametrize("causal", [True, False])
def test_more_tokens_than_are_converted_at_once(causal):
    # 128 heads of 576 + 512 numbers in f32: about 120 tokens in 64 MiB. The second sequence is cut,
    # and has query tokens that see nothing.
    p = reference.problem([110, 40], s_q=100, heads=128, d_k=576, page_size=64, dtype=np.float16)
    call = {"kv_lora_rank": 512, "scale": 0.05, "causal": causal}
    out, lse = mla.decode(p.q, p.cache, p.pages, p.kv_lens, **call)
    want, want_lse = mla.decode(p.q.astype(np.float32), p.cache, p.pages, p.kv_lens, **call)
    np.testing.assert_allclose(out, want, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-5)
    assert np.isneginf(lse[1, :60]).all() == causal


def test_compute_of_a_plan():
    p = reference.problem([17, 5])
    args = (p.q, p.cache, p.pages, p.kv_lens)
    plan = mla.plan(*args, kv_lora_rank=D_V, compute="f32")
    expect_right(p, *run(p, plan=plan))
    expect_right(p, *run(p, plan=plan, compute="f32"))
    with pytest.raises(mla.ArgumentError, match="plan: it was made for compute f32, the call has"):
        run(p, plan=plan, compute="bf16")
    with pytest.raises(mla.ArgumentError, match="compute is 'f64', want 'f32', 'bf16' or None"):
        run(p, compute="f64")


@pytest.mark.parametrize("num_threads", [1, 2, 0])
def test_threads(num_threads):
    p = reference.problem([170, 5, 64])
    expect_right(p, *run(p, num_threads=num_threads))


def changed(**changes):
    p = reference.problem([17, 5])
    for name, value in changes.items():
        setattr(p, name, value(getattr(p, name)))
    return p


@pytest.mark.parametrize(
    "p, options, message",
    [
        (changed(q=lambda q: q[0]), {}, r"q has shape \[1, 4, 40\], want \[num_seqs"),
        (changed(q=lambda q: q.astype(np.float64)), {}, "q is float64, want float32"),
        (changed(cache=lambda c: c[..., :39]), {}, r"cache has shape .*, 39\], want .*, 40\]"),
        (changed(kv_lens=lambda n: n.astype(np.int64)), {}, "kv_lens is int64, want"),
        (changed(kv_lens=lambda n: n[:1]), {}, r"kv_lens has shape \[1\], want \[2\]"),
        (changed(kv_lens=lambda n: -n), {}, r"kv_lens\[0\] is -17, want >= 0"),
        (changed(kv_lens=lambda n: n * 100), {}, r"kv_lens\[0\] is 1700, which needs 213 pages"),
        (changed(pages=lambda t: t[:1]), {}, r"page_table has shape \[1, 4\], want \[2, any\]"),
        (changed(pages=lambda t: t - t - 1), {}, r"page_table\[0\]\[0\] is -1, the cache has"),
        (changed(pages=lambda t: t.astype(np.float32)), {}, "page_table is f32, want i32"),
        (changed(), {"kv_lora_rank": 41}, "kv_lora_rank is 41, want 1 to 40"),
        (changed(), {"scale": 0.0}, "scale is 0, want a finite number > 0"),
        (changed(), {"out": np.empty((2, 1, 4, 31), np.float32)}, r"out has shape \[2, 1, 4, 31\]"),
        (changed(), {"lse": np.empty((2, 1, 4), np.float16)}, "lse is f16, want f32"),
        (changed(), {"num_threads": -1}, "num_threads is -1, want 0 to"),
    ],
)
def test_errors_name_the_value(p, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(p, **options)
    assert isinstance(caught.value, mla.Error) and caught.value.code == "invalid_argument"


def test_merge():
    rng = np.random.default_rng(3)
    parts = rng.standard_normal((3, 5, 2, 7)).astype(np.float32)
    lses = rng.standard_normal((3, 5, 2)).astype(np.float32)
    lses[1, 2] = -np.inf
    parts[1, 2] = np.nan
    weights = np.exp(lses.astype(np.float64))
    want = np.nansum(parts * weights[..., None], axis=0) / weights.sum(axis=0)[..., None]
    out, lse = mla.merge(parts, lses)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(lse, np.log(weights.sum(axis=0)), rtol=1e-5, atol=1e-6)
    with pytest.raises(mla.ArgumentError, match="part_lse"):
        mla.merge(parts, lses[:2])
