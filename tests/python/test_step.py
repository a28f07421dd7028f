"""`append` and `head_linear`: on the CPU against NumPy, on a GPU with PyTorch against fp32."""

import mla
import numpy as np
import pytest


def rotated(x, positions, inv_freq, magnitude, pairing):
    """x is [tokens, ..., rope]; in fp64 but for the angle."""
    angle = (positions[:, None].astype(np.float32) * inv_freq[None]).astype(np.float64)
    while angle.ndim < x.ndim:
        angle = angle[:, None]
    cos, sin = np.cos(angle) * magnitude, np.sin(angle) * magnitude
    half = x.shape[-1] // 2
    if pairing == "halves":
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    a, b = x[..., ::2], x[..., 1::2]
    return np.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)


def step(tokens=5, heads=3, rank=16, rope=8, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "c_kv": rng.standard_normal((tokens, rank)).astype(np.float32),
        "k_pe": rng.standard_normal((tokens, rope)).astype(np.float32),
        "q_pe": rng.standard_normal((tokens, heads, rope)).astype(np.float32),
        "positions": rng.integers(0, 1000, tokens).astype(np.int32),
        "inv_freq": (10000.0 ** (-np.arange(rope // 2) / (rope // 2))).astype(np.float32),
    }


@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_append_on_the_cpu(pairing, dtype):
    s = step()
    cache = np.full((3, 4, 24), 7, dtype)
    slots = np.array([2, -1, 11, 4, 0])
    q_pe = s["q_pe"].copy()
    mla.append(s["c_kv"], s["k_pe"], cache, positions=s["positions"], slots=slots,
               inv_freq=s["inv_freq"], q_pe=q_pe, magnitude=1.25, pairing=pairing)
    turn = (s["positions"], s["inv_freq"], 1.25, pairing)
    np.testing.assert_allclose(q_pe, rotated(s["q_pe"], *turn), rtol=2e-6, atol=2e-6)
    want = np.full((12, 24), 7.0)
    for token, slot in enumerate(slots):
        if slot >= 0:
            want[slot] = np.concatenate([s["c_kv"][token], rotated(s["k_pe"], *turn)[token]])
    tolerance = 2e-6 if dtype == np.float32 else 1e-3
    np.testing.assert_allclose(cache.reshape(12, 24), want, rtol=tolerance, atol=tolerance)


def test_append_that_is_refused_writes_nothing():
    s = step()
    good = {"positions": s["positions"], "slots": np.arange(5), "inv_freq": s["inv_freq"]}
    for cache, changed in (
        (np.zeros((3, 4, 24), np.float32), {"slots": np.array([0, 1, 2, 3, 12])}),
        (np.zeros((3, 4, 24), np.int32), {}),
        (np.zeros((3, 4, 24), np.int32), {"slots": np.full(5, -1)}),
        (np.zeros((3, 4, 24), np.float32), {"q_pe": s["q_pe"].astype(np.float16)}),
    ):
        q_pe = changed.get("q_pe", s["q_pe"]).copy()
        with pytest.raises(mla.ArgumentError):
            mla.append(s["c_kv"], s["k_pe"], cache, **{**good, **changed, "q_pe": q_pe})
        np.testing.assert_array_equal(q_pe, changed.get("q_pe", s["q_pe"]))
        assert not cache.any()


def test_append_says_what_is_wrong():
    s = step()
    cache = np.zeros((3, 4, 24), np.float32)
    good = {"positions": s["positions"], "slots": np.zeros(5, np.int64), "inv_freq": s["inv_freq"]}

    def refusal(c_kv=s["c_kv"], k_pe=s["k_pe"], cache=cache, **changed):
        with pytest.raises(mla.Error) as error:
            mla.append(c_kv, k_pe, cache, **{**good, **changed})
        return str(error.value)

    assert "slots has shape [5] of int32" in refusal(slots=np.zeros(5, np.int32))
    assert "want [5] int32" in refusal(positions=s["positions"][:4])
    assert "want [4] float32" in refusal(inv_freq=s["inv_freq"][:2])
    assert "pairing is 'both'" in refusal(pairing="both")
    assert "magnitude is 0" in refusal(magnitude=0)
    assert "c_kv has shape [5]" in refusal(c_kv=s["c_kv"][:, 0])
    assert "cache has shape [3, 4, 23]" in refusal(cache=np.zeros((3, 4, 23), np.float32))
    assert "12" in refusal(slots=np.full(5, 12))


def test_head_linear_on_the_cpu():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 3, 10)).astype(np.float32)
    w = rng.standard_normal((3, 6, 10)).astype(np.float32)
    want = np.einsum("thi,hoi->tho", x.astype(np.float64), w)
    np.testing.assert_allclose(mla.head_linear(x, w), want, rtol=1e-5, atol=1e-5)
    turned = np.ascontiguousarray(w.transpose(0, 2, 1)).transpose(0, 2, 1)
    out = np.full((4, 3, 6), np.nan, np.float32)
    assert mla.head_linear(x, turned, out=out, num_threads=1) is out
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    rounded = mla.head_linear(x, w, compute="bf16")
    np.testing.assert_allclose(rounded, want, rtol=0.02, atol=0.02)
    np.testing.assert_array_equal(mla.head_linear(x, w, compute="f32"), mla.head_linear(x, w))
    with pytest.raises(mla.ArgumentError, match="compute is 'f16', want 'f32', 'bf16' or None"):
        mla.head_linear(x, w, compute="f16")
    with pytest.raises(mla.ArgumentError, match="want"):
        mla.head_linear(x, w[:2])
    with pytest.raises(mla.ArgumentError, match="x has shape"):
        mla.head_linear(x[0], w)


def cuda():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available() or not mla.build_info().cuda:
        pytest.skip("there is no GPU, or no kernels for it in the library")
    return torch


def test_head_linear_on_a_gpu():
    torch = cuda()
    torch.manual_seed(0)
    x = torch.randn(7, 16, 128, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(16, 512, 128, device="cuda", dtype=torch.bfloat16) / 11
    got = mla.head_linear(x, w).float()
    want = torch.einsum("thi,hoi->tho", x.float(), w.float())
    assert torch.allclose(got, want, rtol=2**-7, atol=2e-2)


def test_append_and_decode_fp8_on_a_gpu():
    torch = cuda()
    torch.manual_seed(0)
    tokens, heads, page = 100, 16, 64
    c_kv = torch.randn(tokens, 512, device="cuda", dtype=torch.bfloat16)
    k_pe = torch.randn(tokens, 64, device="cuda", dtype=torch.bfloat16)
    turn = {
        "positions": torch.arange(tokens, device="cuda", dtype=torch.int32),
        "inv_freq": 10000.0 ** (-torch.arange(32, device="cuda", dtype=torch.float32) / 32),
    }
    table = torch.tensor([[2, 0]], device="cuda", dtype=torch.int32)
    lens = torch.tensor([tokens], device="cuda", dtype=torch.int32)
    at = torch.arange(tokens, device="cuda")
    slots = table[0].long()[at // page] * page + at % page
    fp8 = torch.full((3, page, 656), 0xFF, device="cuda", dtype=torch.uint8)
    dense = torch.full((3, page, 576), float("nan"), device="cuda", dtype=torch.bfloat16)
    for cache in (fp8, dense):
        mla.append(c_kv, k_pe, cache, slots=slots, **turn)
    q = torch.randn(1, 1, heads, 576, device="cuda", dtype=torch.bfloat16) / 4
    call = {"kv_lora_rank": 512, "scale": 192**-0.5}
    out, lse = mla.decode(q, fp8, table, lens, **call)
    want, want_lse = mla.decode(q, dense, table, lens, **call)
    cosine = torch.nn.functional.cosine_similarity(out.float(), want.float(), -1)
    assert cosine.min() > 0.999
    assert torch.allclose(lse, want_lse, atol=0.05)
    kernels = {v.kernel: v.accepts for v in mla.explain(q, fp8, table, lens, kv_lora_rank=512)}
    assert kernels["plain"] and not kernels["sm90"]
