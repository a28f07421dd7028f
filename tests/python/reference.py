"""Decode attention in float64, key by key as the definition says, and random problems for it."""

import dataclasses

import numpy as np

POISON = 2147480000  # in page table entries that must not be read


def decode(q, cache, pages, kv_lens, d_v, scale, causal):
    """(out [b, s_q, h, d_v], lse [b, s_q, h]) in float64; lse is -inf where there is no key."""
    b, s_q, heads, _ = q.shape
    page_size = cache.shape[1]
    out = np.zeros((b, s_q, heads, d_v))
    lse = np.full((b, s_q, heads), -np.inf)
    for s in range(b):
        used = pages[s, : -(-kv_lens[s] // page_size)]
        keys = cache[used].reshape(-1, cache.shape[2])[: kv_lens[s]].astype(np.float64)
        for i in range(s_q):
            seen = kv_lens[s] - s_q + i + 1 if causal else kv_lens[s]
            if seen <= 0:
                continue
            scores = scale * (q[s, i].astype(np.float64) @ keys[:seen].T)
            top = scores.max(axis=1, keepdims=True)
            weights = np.exp(scores - top)
            total = weights.sum(axis=1, keepdims=True)
            out[s, i] = (weights / total) @ keys[:seen, :d_v]
            lse[s, i] = (top + np.log(total))[:, 0]
    return out, lse


@dataclasses.dataclass
class Problem:
    q: np.ndarray
    cache: np.ndarray
    pages: np.ndarray
    kv_lens: np.ndarray


def problem(kv_lens, s_q=1, heads=4, d_k=40, page_size=8, dtype=np.float32, seed=0):
    """Random inputs with shuffled pages. What holds no token is NaN, or a page far away."""
    rng = np.random.default_rng(seed)
    counts = [-(-n // page_size) for n in kv_lens]
    width = max(counts) + 1
    ids = rng.permutation(sum(counts) + 2)  # two pages that nobody uses
    pages = np.full((len(kv_lens), width), POISON, np.int32)
    cache = np.full((len(ids), page_size, d_k), np.nan, dtype)
    taken = 0
    for s, (n, count) in enumerate(zip(kv_lens, counts)):
        pages[s, :count] = ids[taken : taken + count]
        for j in range(n):
            cache[pages[s, j // page_size], j % page_size] = rng.standard_normal(d_k)
        taken += count
    q = rng.standard_normal((len(kv_lens), s_q, heads, d_k)).astype(dtype)
    return Problem(q, cache, pages, np.array(kv_lens, np.int32))
