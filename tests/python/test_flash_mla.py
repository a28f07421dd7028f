"""`mla.flash_mla`: the conventions with NumPy, the kernels with PyTorch where there is a GPU."""

import math

import mla
import numpy as np
import pytest
import reference
from mla.flash_mla import FlashMLASchedMeta, flash_mla_with_kvcache, get_mla_metadata

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
needs_gpu = pytest.mark.skipif(
    torch is None or not torch.cuda.is_available() or not mla.build_info().cuda,
    reason="needs PyTorch, a GPU, and a library with the CUDA kernels",
)

D_V = 32


def call(p, metadata=None, h_k=1, **options):
    cache = p.cache.reshape(*p.cache.shape[:2], h_k, -1)
    if metadata is None:
        metadata = get_mla_metadata()
    return flash_mla_with_kvcache(p.q, cache, p.pages, p.kv_lens, D_V, *metadata, **options)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("s_q", [1, 3])
def test_conventions(causal, s_q):
    p = reference.problem([17, 0, 2], s_q=s_q)
    out, lse = call(p, causal=causal)
    want, want_lse = reference.decode(p.q, p.cache, p.pages, p.kv_lens, D_V, 40**-0.5, causal)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    assert lse.shape == (3, 4, s_q) and lse.dtype == np.float32
    want_lse[np.isneginf(want_lse)] = np.inf
    np.testing.assert_allclose(lse, want_lse.transpose(0, 2, 1), rtol=1e-5, atol=1e-5)
    assert np.isposinf(lse[1]).all() and (out[1] == 0).all()


def test_softmax_scale():
    p = reference.problem([17])
    _, lse = call(p, softmax_scale=0.5)
    _, want = reference.decode(p.q, p.cache, p.pages, p.kv_lens, D_V, 0.5, False)
    np.testing.assert_allclose(lse, want.transpose(0, 2, 1), rtol=1e-5, atol=1e-5)


def test_several_key_heads():
    p = reference.problem([17, 5], s_q=2, heads=6, d_k=80)  # two key heads of 40
    p.q = np.ascontiguousarray(p.q[..., :40])
    out, lse = call(p, h_k=2, causal=True)
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        want, want_lse = reference.decode(
            p.q[:, :, part],
            p.cache[..., 40 * head : 40 * head + 40],
            p.pages,
            p.kv_lens,
            D_V,
            40**-0.5,
            True,
        )
        np.testing.assert_allclose(out[:, :, part], want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(lse[:, part], want_lse.transpose(0, 2, 1), rtol=1e-5, atol=1e-5)


def test_every_form_of_metadata():
    p = reference.problem([17, 5])
    want, want_lse = call(p)
    forms = [
        get_mla_metadata(p.kv_lens, 1 * 4, 1),
        get_mla_metadata(cache_seqlens=p.kv_lens, num_heads_per_head_k=4, num_heads_k=1),
        get_mla_metadata(p.kv_lens, 4, 1, 4, False, None),
        # What a caller kept who computed it with an older FlashMLA, or made room for it.
        (np.zeros((78, 8), np.int32), np.zeros(3, np.int32)),
    ]
    for metadata in forms:
        assert len(metadata) == 2
        for _ in range(2):
            out, lse = call(p, metadata)
            np.testing.assert_array_equal(out, want)
            np.testing.assert_array_equal(lse, want_lse)


def test_metadata_is_filled_in_once():
    p = reference.problem([17, 5], s_q=2)
    metadata, num_splits = get_mla_metadata()
    assert isinstance(metadata, FlashMLASchedMeta)
    assert not metadata.have_initialized and num_splits is None
    call(p, (metadata, num_splits), causal=True)
    assert metadata.have_initialized and len(metadata.plans) == 1
    assert metadata.config == FlashMLASchedMeta.Config(2, 2, 4, 8, 1, True)
    plan = next(iter(metadata.plans.values()))
    call(p, (metadata, num_splits), causal=True)
    assert list(metadata.plans.values()) == [plan]
    with pytest.raises(mla.ArgumentError, match="causal is False, but tile_scheduler_metadata was"):
        call(p, (metadata, num_splits))
    with pytest.raises(mla.ArgumentError, match="b is 3, but tile_scheduler_metadata was first"):
        call(reference.problem([17, 5, 1], s_q=2), (metadata, num_splits), causal=True)


@pytest.mark.parametrize(
    "name, value",
    [
        ("is_fp8_kvcache", True),
        ("indices", np.zeros((1, 1, 64), np.int32)),
        ("attn_sink", np.zeros(4, np.float32)),
        ("extra_k_cache", np.zeros((1, 8, 1, 40), np.float32)),
        ("extra_indices_in_kvcache", np.zeros((1, 1, 64), np.int32)),
        ("topk_length", np.zeros(1, np.int32)),
        ("extra_topk_length", np.zeros(1, np.int32)),
    ],
)
def test_what_is_not_supported_is_named(name, value):
    with pytest.raises(mla.Error, match=f"flash_mla_with_kvcache: {name} is given, but"):
        call(reference.problem([17]), **{name: value})


def test_arguments_are_checked():
    p = reference.problem([17])
    cache = p.cache[:, :, None]
    metadata, _ = get_mla_metadata()
    with pytest.raises(mla.ArgumentError, match="num_splits is given, want None"):
        call(p, (metadata, np.zeros(2, np.int32)))
    with pytest.raises(mla.ArgumentError, match="tile_scheduler_metadata is a NoneType, want what"):
        call(p, (None, None))
    with pytest.raises(mla.ArgumentError, match="block_table is None"):
        flash_mla_with_kvcache(p.q, cache, None, p.kv_lens, D_V, metadata)
    with pytest.raises(mla.ArgumentError, match="cache_seqlens is None"):
        flash_mla_with_kvcache(p.q, cache, p.pages, None, D_V, metadata)
    with pytest.raises(mla.ArgumentError, match=r"k_cache has shape \[5, 8, 40\], want \[num_bl"):
        flash_mla_with_kvcache(p.q, p.cache, p.pages, p.kv_lens, D_V, metadata)
    with pytest.raises(mla.ArgumentError, match="num_heads_q is 4, want a multiple of num_heads_k"):
        call(reference.problem([17], d_k=120), h_k=3)
    with pytest.raises(mla.ArgumentError, match="kv_lora_rank is 41"):
        flash_mla_with_kvcache(p.q, cache, p.pages, p.kv_lens, 41, metadata)
    assert not metadata.have_initialized


# --- PyTorch -------------------------------------------------------------------------------------


def make(lens, s_q, h_q, h_k=1, d=576, page=64, dtype=None, device="cuda", seed=0):
    """The inputs of a call, with NaN and far page ids where nothing is to be read."""
    generator = torch.Generator(device=device).manual_seed(seed)
    dtype = torch.bfloat16 if dtype is None else dtype

    def random(*shape):
        values = torch.randn(*shape, generator=generator, device=device) / 10
        return values.clamp_(-1, 1).to(dtype)

    b, width = len(lens), max(1, -(-max(lens) // page)) + 1
    order = torch.randperm(b * width, generator=generator, device=device).to(torch.int32)
    table = order.view(b, width)
    k_cache = random(b * width, page, h_k, d)
    for s, n in enumerate(lens):
        used = -(-n // page)
        k_cache[table[s, used:].long()] = math.nan
        if n % page:
            k_cache[table[s, used - 1].long(), n % page :] = math.nan
        table[s, used:] = reference.POISON
    seqlens = torch.tensor(lens, dtype=torch.int32, device=device)
    return random(b, s_q, h_q, d), k_cache, table, seqlens


def expected(q, k_cache, table, lens, d_v, causal):
    """In float64, on the device of q."""
    b, s_q, h_q, d = q.shape
    h_k = k_cache.shape[2]
    out = torch.zeros(b, s_q, h_q, d_v, dtype=torch.float64, device=q.device)
    lse = torch.full((b, h_q, s_q), math.inf, dtype=torch.float64, device=q.device)
    for s, n in enumerate(lens):
        used = table[s, : -(-n // k_cache.shape[1])].long()
        keys = k_cache[used].reshape(-1, h_k, d)[:n].double().repeat_interleave(h_q // h_k, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q[s].double(), keys) * d**-0.5
        if causal:
            seen = torch.ones(s_q, n, dtype=torch.bool, device=q.device).tril(n - s_q)
            scores = scores.masked_fill(~seen, -math.inf)
        rows = scores.logsumexp(dim=-1)
        some = torch.isfinite(rows)
        weights = torch.where(some[..., None], scores - rows[..., None], -math.inf).exp()
        out[s] = torch.einsum("hqk,khd->qhd", weights, keys[..., :d_v])
        lse[s] = torch.where(some, rows, math.inf)
    return out, lse


def expect_close(got, want):
    (out, lse), (want_out, want_lse) = got, want
    out = out.double()
    assert not out.isnan().any() and not lse.isnan().any()
    worst = ((out - want_out).abs() - 2.01 / 128 * want_out.abs()).max().item()
    assert worst <= 8e-4, f"out is {worst} further off than the relative tolerance allows"
    norms = (out**2 + want_out**2).sum().item()
    if norms > 0:
        assert 1 - 2 * (out * want_out).sum().item() / norms <= 5e-6
    assert torch.equal(lse.isinf(), want_lse.isinf()) and not (lse == -math.inf).any()
    finite = want_lse.isfinite()
    difference = (lse.double() - want_lse)[finite].abs()
    assert (difference <= 1e-6 + 8.01 / 65536 * want_lse[finite].abs()).all()


LENGTHS = {
    "one": [20],
    "two": [140, 4096],
    "ragged": [0, 1, 63, 64, 65, 1000],
    "many": [(37 * i) % 600 for i in range(64)],
}
GPU_CASES = [
    (lens, s_q, h_q, h_k)
    for lens in LENGTHS
    for s_q in (1, 2, 4)
    for h_q in (1, 9, 64, 128)
    for h_k in (1, 2)
    if h_q % h_k == 0
]


@needs_gpu
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lens, s_q, h_q, h_k", GPU_CASES)
def test_gpu(lens, s_q, h_q, h_k, causal):
    lens = LENGTHS[lens]
    inputs = make(lens, s_q, h_q, h_k)
    out, lse = flash_mla_with_kvcache(*inputs, 512, *get_mla_metadata(), causal=causal)
    assert out.shape == (len(lens), s_q, h_q, 512) and out.dtype == torch.bfloat16
    assert lse.shape == (len(lens), h_q, s_q) and lse.dtype == torch.float32
    assert out.is_contiguous() and lse.is_contiguous()
    expect_close((out, lse), expected(*inputs[:3], lens, 512, causal))


@needs_gpu
@pytest.mark.parametrize("page", [1, 16, 64, 100, 256])
@pytest.mark.parametrize("d, d_v", [(576, 512), (512, 512), (320, 256), (288, 256)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gpu_other_pages_widths_and_types(page, d, d_v, dtype):
    lens = [300, 0, 65]
    inputs = make(lens, 2, 20, d=d, page=page, dtype=getattr(torch, dtype))
    got = flash_mla_with_kvcache(*inputs, d_v, *get_mla_metadata(), causal=True)
    assert got[0].dtype == getattr(torch, dtype)
    expect_close(got, expected(*inputs[:3], lens, d_v, True))


@needs_gpu
def test_gpu_layers_share_the_schedule():
    lens = LENGTHS["ragged"]
    metadata, num_splits = get_mla_metadata(torch.tensor(lens), 16, 1)
    schedules = set()
    for layer in range(3):
        inputs = make(lens, 1, 16, seed=layer)
        got = flash_mla_with_kvcache(*inputs, 512, metadata, num_splits)
        expect_close(got, expected(*inputs[:3], lens, 512, False))
        schedules.add(metadata.tile_scheduler_metadata.data_ptr())
    assert len(schedules) == 1 and len(metadata.plans) == 1
    # Metadata of an older FlashMLA: whatever it holds.
    old = torch.full((78, 8), 7, dtype=torch.int32, device="cuda"), torch.zeros(7, device="cuda")
    expect_close(
        flash_mla_with_kvcache(*inputs, 512, *old), expected(*inputs[:3], lens, 512, False)
    )


@needs_gpu
def test_gpu_strides():
    lens = [300, 65]
    q, k_cache, table, seqlens = make(lens, 2, 16)
    want = flash_mla_with_kvcache(q, k_cache, table, seqlens, 512, *get_mla_metadata())
    wide_q = torch.full((2, 16, 2, 640), math.nan, dtype=q.dtype, device="cuda").transpose(1, 2)
    wide_q[..., :576] = q
    wide_cache = torch.full((*k_cache.shape[:3], 640), math.nan, dtype=q.dtype, device="cuda")
    wide_cache[..., :576] = k_cache
    wide_table = torch.cat([table, table], dim=1)[:, : table.shape[1]]
    got = flash_mla_with_kvcache(
        wide_q[..., :576], wide_cache[..., :576], wide_table, seqlens, 512, *get_mla_metadata()
    )
    expect_close(got, expected(q, k_cache, table, lens, 512, False))
    torch.testing.assert_close(got[1], want[1])


@needs_gpu
def test_gpu_graph_with_new_lengths():
    """The schedule is captured too: a replay follows the lengths in place."""
    q, k_cache, table, seqlens = make([640, 640, 640], 2, 16)
    lens = torch.tensor([100, 0, 640], dtype=torch.int32, device="cuda")
    seqlens.copy_(lens)
    flash_mla_with_kvcache(q, k_cache, table, seqlens, 512, *get_mla_metadata(), causal=True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        metadata = get_mla_metadata()
        first = flash_mla_with_kvcache(q, k_cache, table, seqlens, 512, *metadata, causal=True)
        second = flash_mla_with_kvcache(q, k_cache, table, seqlens, 512, *metadata, causal=True)
    for lens in ([100, 0, 640], [1, 640, 33]):
        seqlens.copy_(torch.tensor(lens, dtype=torch.int32))
        graph.replay()
        want = expected(q, k_cache, table, lens, 512, True)
        expect_close(first, want)
        expect_close(second, want)


@needs_gpu
def test_gpu_current_stream():
    """Behind slow work on another stream, which makes the inputs."""
    lens = [300, 65]
    q, *rest = make(lens, 1, 16)
    stream = torch.cuda.Stream()
    late = torch.full_like(q, math.nan)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(q)
        got = flash_mla_with_kvcache(late, *rest, 512, *get_mla_metadata())
    stream.synchronize()
    expect_close(got, expected(q, *rest[:2], lens, 512, False))


@needs_torch
def test_torch_on_the_cpu():
    lens = [130, 0, 65]
    inputs = make(lens, 2, 4, d=288, dtype=torch.bfloat16, device="cpu")
    got = flash_mla_with_kvcache(*inputs, 256, *get_mla_metadata(), causal=True)
    assert got[0].dtype == torch.bfloat16 and got[1].shape == (3, 4, 2)
    expect_close(got, expected(*inputs[:3], lens, 256, True))
