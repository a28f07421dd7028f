"""The decode functions of FlashMLA, under its names and with its conventions (those of its commit
9241ae3): `import mla.flash_mla as flash_mla` is all that a caller changes.

What is different: any page size from 1 to 256, any number of heads without padding, head_dim 512,
320 and 288 too, and GPUs from compute capability 8.0 on; also tensors on the CPU. Sparse attention
and the FP8 cache are not here yet: their arguments are refused by name.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Optional, Tuple

from mla import _array
from mla._array import F32, View
from mla._decode import Plan, Problem, problem
from mla._library import ArgumentError, Error

__all__ = ["FlashMLASchedMeta", "flash_mla_with_kvcache", "get_mla_metadata"]


@dataclasses.dataclass
class FlashMLASchedMeta:
    """The schedule of a decode step. The first call that is given one fills it in; the other layers
    of the step read it. For new lengths, ask `get_mla_metadata` for a new one."""

    @dataclasses.dataclass
    class Config:
        b: int
        s_q: int
        h_q: int
        page_block_size: int
        h_k: int
        causal: bool

    have_initialized: bool = False
    config: Optional[Config] = None
    # Here for code that looks at them; the schedule is kept in `plans`.
    tile_scheduler_metadata: Any = None
    num_splits: None = None
    # One for each kind of call: usually one. Layers may differ in what the kernels are chosen by.
    plans: Dict[Any, Plan] = dataclasses.field(default_factory=dict, repr=False)


def get_mla_metadata(*args: Any, **kwargs: Any) -> Tuple[FlashMLASchedMeta, None]:
    """An empty schedule, for one decode step. The arguments of older versions (cache_seqlens,
    num_heads_per_head_k, num_heads_k, ...) are accepted and not needed: the first
    `flash_mla_with_kvcache` plans, from the lengths that it is given.

    Returns:
        (tile_scheduler_metadata, None); both go to `flash_mla_with_kvcache`.

    Example:
        >>> from mla.flash_mla import get_mla_metadata
        >>> tile_scheduler_metadata, num_splits = get_mla_metadata()
        >>> tile_scheduler_metadata.have_initialized, num_splits
        (False, None)
    """
    return FlashMLASchedMeta(), None


def flash_mla_with_kvcache(
    q: Any,
    k_cache: Any,
    block_table: Any,
    cache_seqlens: Any,
    head_dim_v: int,
    tile_scheduler_metadata: Any,
    num_splits: Any = None,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    is_fp8_kvcache: bool = False,
    indices: Any = None,
    attn_sink: Any = None,
    extra_k_cache: Any = None,
    extra_indices_in_kvcache: Any = None,
    topk_length: Any = None,
    extra_topk_length: Any = None,
) -> Tuple[Any, Any]:
    """Dense decode attention over a paged cache of latents.

    Args:
        q: [batch_size, seq_len_q, num_heads_q, head_dim] bfloat16 or float16.
        k_cache: [num_blocks, page_block_size, num_heads_k, head_dim], of the type of q. num_heads_q
            is a multiple of num_heads_k.
        block_table: [batch_size, max_num_blocks_per_seq] int32.
        cache_seqlens: [batch_size] int32.
        head_dim_v: the width of the values, which are the beginning of the keys.
        tile_scheduler_metadata: from `get_mla_metadata`, reused only where shapes and lengths are
            the same. The tensor that versions before January 2026 took here is accepted, whatever
            it holds: each call then plans for itself.
        num_splits: None; with a tensor of metadata, anything.
        softmax_scale: head_dim ** -0.5 unless given.
        causal: query token i sees the keys up to cache_seqlen - seq_len_q + i.
        is_fp8_kvcache, indices, attn_sink, extra_k_cache, extra_indices_in_kvcache, topk_length,
        extra_topk_length: only their defaults are supported.

    Returns:
        (out, softmax_lse): out is [batch_size, seq_len_q, num_heads_q, head_dim_v] of the type of
        q; softmax_lse is [batch_size, num_heads_q, seq_len_q] float32, the natural logarithm, and
        +inf (with out = 0) where a query sees no key.

    Example:
        >>> import numpy as np
        >>> from mla.flash_mla import flash_mla_with_kvcache, get_mla_metadata
        >>> q = np.zeros((2, 1, 16, 576), np.float32)
        >>> k_cache = np.ones((8, 64, 1, 576), np.float32)
        >>> block_table = np.arange(8, dtype=np.int32).reshape(2, 4)
        >>> cache_seqlens = np.array([200, 0], np.int32)
        >>> metadata, num_splits = get_mla_metadata(cache_seqlens, 1 * 16, 1)
        >>> out, lse = flash_mla_with_kvcache(q, k_cache, block_table, cache_seqlens, 512, metadata,
        ...                                   num_splits, causal=True)
        >>> out.shape, lse.shape, float(lse[1, 0, 0])
        ((2, 1, 16, 512), (2, 16, 1), inf)
    """
    _refuse_unsupported(
        is_fp8_kvcache=is_fp8_kvcache,
        indices=indices,
        attn_sink=attn_sink,
        extra_k_cache=extra_k_cache,
        extra_indices_in_kvcache=extra_indices_in_kvcache,
        topk_length=topk_length,
        extra_topk_length=extra_topk_length,
    )
    metadata = _metadata(tile_scheduler_metadata, num_splits)
    for name, given in (("block_table", block_table), ("cache_seqlens", cache_seqlens)):
        if given is None:
            raise ArgumentError(f"flash_mla_with_kvcache: {name} is None, want an int32 tensor")

    stream = _array.stream_of((q, k_cache, block_table, cache_seqlens), None)
    queries, keys = _array.view(q, "q", stream), _array.view(k_cache, "k_cache", stream)
    group = _heads_per_key_head(queries, keys)
    if softmax_scale is None:
        softmax_scale = queries.shape[3] ** -0.5
    # One query token sees all keys in either case: one plan for both.
    causal = bool(causal) and queries.shape[1] > 1
    whole = problem(
        queries,
        _key_head(keys, 0),
        _array.view(block_table, "block_table", stream),
        _array.view(cache_seqlens, "cache_seqlens", stream),
        head_dim_v,
        scale=softmax_scale,
        causal=causal,
        stream=stream,
    )
    _initialize(metadata, queries, keys, causal)

    out = _array.empty(whole.out_shape, queries)
    b, s_q, h_q = queries.shape[:3]
    lse = _array.empty((b, h_q, s_q), queries, F32)
    out_view, lse_view = _array.view(out, "out", stream), _array.view(lse, "softmax_lse", stream)
    by_head, by_token = lse_view.strides[1:]
    lse_view = lse_view._replace(
        shape=(b, s_q, h_q), strides=(lse_view.strides[0], by_token, by_head)
    )
    if keys.shape[2] == 1:
        _plan(metadata, whole).run(whole, out_view, lse_view)
        return out, _with_plus_inf(lse)
    for head in range(keys.shape[2]):
        first = head * group
        p = whole._replace(q=_heads(queries, first, group), cache=_key_head(keys, head))
        _plan(metadata, p).run(p, _heads(out_view, first, group), _heads(lse_view, first, group))
    return out, _with_plus_inf(lse)


def _refuse_unsupported(**arguments: Any) -> None:
    for name, given in arguments.items():
        if given is not None and given is not False:
            what = "the FP8 cache" if name == "is_fp8_kvcache" else "sparse attention"
            want = "False" if name == "is_fp8_kvcache" else "None"
            raise Error(
                f"flash_mla_with_kvcache: {name} is given, but {what} is not supported here; "
                f"want {want}"
            )


def _metadata(given: Any, num_splits: Any) -> FlashMLASchedMeta:
    if isinstance(given, FlashMLASchedMeta):
        if num_splits is not None:
            raise ArgumentError(
                "flash_mla_with_kvcache: num_splits is given, want None, as "
                "get_mla_metadata returned it"
            )
        return given
    if hasattr(given, "shape"):
        return FlashMLASchedMeta()
    raise ArgumentError(
        "flash_mla_with_kvcache: tile_scheduler_metadata is a "
        f"{type(given).__name__}, want what get_mla_metadata returned"
    )


def _heads_per_key_head(queries: View, keys: View) -> int:
    for name, view, axes in (
        ("q", queries, "[batch_size, seq_len_q, num_heads_q, head_dim]"),
        ("k_cache", keys, "[num_blocks, page_block_size, num_heads_k, head_dim]"),
    ):
        if len(view.shape) != 4:
            raise ArgumentError(
                f"flash_mla_with_kvcache: {name} has shape {list(view.shape)}, want " f"{axes}"
            )
    h_q, h_k = queries.shape[2], keys.shape[2]
    if h_k < 1 or h_q % h_k != 0:
        raise ArgumentError(
            f"flash_mla_with_kvcache: num_heads_q is {h_q}, want a multiple of "
            f"num_heads_k, {h_k}"
        )
    return h_q // h_k


def _address(view: View, head: int) -> int:
    """Where a head begins, along axis 2."""
    return view.address + head * view.strides[2] * _array.ITEM_BYTES[view.dtype]


def _heads(view: View, first: int, count: int) -> View:
    """Heads first to first + count of [batch_size, seq_len_q, heads, ...]."""
    shape = (*view.shape[:2], count, *view.shape[3:])
    return view._replace(address=_address(view, first), shape=shape)


def _key_head(keys: View, head: int) -> View:
    """One head of the cache: [num_blocks, page_block_size, head_dim]."""
    return keys._replace(
        address=_address(keys, head),
        shape=(*keys.shape[:2], keys.shape[3]),
        strides=(*keys.strides[:2], keys.strides[3]),
    )


def _initialize(metadata: FlashMLASchedMeta, queries: View, keys: View, causal: bool) -> None:
    """Fills the metadata in at its first use; later calls must be of the same kind."""
    (b, s_q, h_q), (page, h_k) = queries.shape[:3], keys.shape[1:3]
    config = FlashMLASchedMeta.Config(b, s_q, h_q, page, h_k, causal)
    if not metadata.have_initialized:
        metadata.have_initialized, metadata.config = True, config
        return
    if metadata.config == config:
        return
    for field in dataclasses.fields(config):
        before, now = getattr(metadata.config, field.name), getattr(config, field.name)
        if before != now:
            raise ArgumentError(
                f"flash_mla_with_kvcache: {field.name} is {now}, but tile_scheduler_metadata was "
                f"first used with {before}; want a new one from get_mla_metadata"
            )


def _plan(metadata: FlashMLASchedMeta, p: Problem) -> Plan:
    """The plan for a call: kept for each kind of arrays, as the choice of a kernel may depend on
    types, strides and alignment."""
    q, cache = p.q, p.cache
    kind = (
        q[1:5],
        q.address % 128,
        cache[1:3],
        cache.shape[1:],
        cache.strides,
        cache.address % 128,
        p.page_table[1:5],
        p.kv_lora_rank,
    )
    plan = metadata.plans.get(kind)
    if plan is None:
        plan = metadata.plans[kind] = Plan(p)
        metadata.tile_scheduler_metadata = plan.schedule
    return plan


def _with_plus_inf(lse: Any) -> Any:
    """A query that sees no key has +inf here, and -inf in the rest of this package."""
    inf = float("inf")
    if _array.is_torch(lse):
        return lse.nan_to_num_(nan=float("nan"), posinf=inf, neginf=inf)
    if _array.is_jax(lse):
        import jax

        return jax.numpy.where(lse == -inf, inf, lse)
    lse[lse == -inf] = inf
    return lse
