"""`mla.decode` with PyTorch, CuPy and JAX; each is skipped where it is not installed."""

import os

import mla
import numpy as np
import pytest
import reference

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

D_V, SCALE = 512, 576**-0.5
needs_gpu = pytest.mark.skipif(not mla.devices(), reason="there is no CUDA device")


@pytest.fixture(scope="module")
def halves():
    """A problem in float16, and its result."""
    p = reference.problem([300, 0, 65], s_q=2, heads=16, d_k=576, page_size=64, dtype=np.float16)
    p.q /= 10
    return p, reference.decode(p.q, p.cache, p.pages, p.kv_lens, D_V, SCALE, True)


def expect_close(out, lse, want):
    np.testing.assert_allclose(out, want[0], rtol=4e-3, atol=4e-3)
    np.testing.assert_allclose(lse, want[1], rtol=1e-3, atol=1e-3)


def decode(p, to_array, **options):
    arrays = [to_array(a) for a in (p.q, p.cache, p.pages, p.kv_lens)]
    plan = mla.plan(*arrays, kv_lora_rank=D_V)
    return mla.decode(*arrays, kv_lora_rank=D_V, scale=SCALE, plan=plan, **options)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_torch(halves, device):
    torch = pytest.importorskip("torch")
    p, want = halves
    out, lse = decode(p, lambda a: torch.from_numpy(a).to(device))
    assert out.dtype == torch.float16 and out.device.type == device
    expect_close(out.cpu().numpy(), lse.cpu().numpy(), want)


@needs_gpu
def test_torch_plan_is_updated(halves):
    torch = pytest.importorskip("torch")
    p, _ = halves
    q, cache, pages, lens = (torch.from_numpy(a).cuda() for a in (p.q, p.cache, p.pages, p.kv_lens))
    plan = mla.plan(q, cache, pages, lens, kv_lora_rank=D_V, batch_invariant=True)
    new = np.array([20, 0, 64], np.int32)
    lens.copy_(torch.from_numpy(new))
    plan.update(lens)
    out, lse = mla.decode(q, cache, pages, lens, kv_lora_rank=D_V, scale=SCALE, plan=plan)
    want = reference.decode(p.q, p.cache, p.pages, new, D_V, SCALE, True)
    expect_close(out.cpu().numpy(), lse.cpu().numpy(), want)


@needs_gpu
def test_torch_errors(halves):
    torch = pytest.importorskip("torch")
    p, _ = halves
    q, cache, pages, lens = (torch.from_numpy(a).cuda() for a in (p.q, p.cache, p.pages, p.kv_lens))
    with pytest.raises(mla.ArgumentError, match="cache of shape .* is on the CPU, want CUDA"):
        mla.decode(q, cache.cpu(), pages, lens, kv_lora_rank=D_V, scale=SCALE)
    with pytest.raises(mla.ArgumentError, match="q is f32, want"):
        mla.decode(q.float(), cache.float(), pages, lens, kv_lora_rank=D_V, scale=SCALE)
    with pytest.raises(mla.ArgumentError, match="stream: PyTorch tensors are used on"):
        mla.decode(q, cache, pages, lens, kv_lora_rank=D_V, scale=SCALE, stream=1)
    verdicts = mla.explain(q, cache, pages, lens, kv_lora_rank=D_V)
    assert any(v.accepts for v in verdicts)
    for verdict in verdicts:
        print(verdict)


@needs_gpu
def test_torch_through_dlpack(halves):
    torch = pytest.importorskip("torch")
    p, want = halves

    class ByDlpack:
        def __init__(self, array):
            self.tensor = torch.from_numpy(array).cuda()

        def __dlpack__(self, stream=None):
            return self.tensor.__dlpack__(stream=stream)

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    out, lse = decode(p, ByDlpack)
    torch.cuda.synchronize()
    expect_close(out.cpu().numpy(), lse.cpu().numpy(), want)


@needs_gpu
def test_cupy(halves):
    cupy = pytest.importorskip("cupy")
    p, want = halves
    with cupy.cuda.Stream():
        out, lse = decode(p, cupy.asarray)
        assert isinstance(out, cupy.ndarray) and out.dtype == np.float16
        expect_close(out.get(), lse.get(), want)


@needs_gpu
def test_cuda_array_interface(halves):
    cupy = pytest.importorskip("cupy")
    p, want = halves

    class ByInterface:
        def __init__(self, array):
            self.array = cupy.asarray(array)
            self.__cuda_array_interface__ = self.array.__cuda_array_interface__

    out = cupy.empty((*p.q.shape[:3], D_V), np.float16)
    lse = cupy.empty(p.q.shape[:3], np.float32)
    arrays = [ByInterface(a) for a in (p.q, p.cache, p.pages, p.kv_lens)]
    mla.decode(*arrays, kv_lora_rank=D_V, scale=SCALE, out=out, lse=lse)
    cupy.cuda.Device().synchronize()
    expect_close(out.get(), lse.get(), want)


def test_jax(halves):
    jax = pytest.importorskip("jax")
    p, want = halves
    out, lse = decode(p, jax.numpy.asarray)
    assert isinstance(out, jax.Array) and out.dtype == np.float16
    expect_close(np.asarray(out), np.asarray(lse), want)
