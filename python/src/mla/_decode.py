"""The operators: `decode` with its `plan` and `explain`, and `merge`."""

from __future__ import annotations

import ctypes
from typing import Any, List, NamedTuple, Optional, Tuple

from mla import _array, _library
from mla._array import CPU, F32, View
from mla._library import ArgumentError

# What a plan and an explanation pass for the scale, on which neither depends.
_ANY_SCALE = 1.0


class Verdict(NamedTuple):
    """What a kernel says of a call. The first that accepts runs."""

    kernel: str
    refusal: str  # why it does not run the call; "": it accepts

    @property
    def accepts(self) -> bool:
        return not self.refusal


class Problem(NamedTuple):
    """The inputs of a decode call."""

    q: View  # [num_seqs, s_q, heads, d_k]
    cache: View  # [num_pages, page_size, d_k]
    page_table: View  # [num_seqs, pages]
    kv_lens: View  # [num_seqs]
    kv_lora_rank: int
    scale: float
    causal: bool
    batch_invariant: bool
    kernel: Optional[str]
    stream: Optional[int]
    num_threads: int
    compute: Optional[str]  # None: by the types

    @property
    def out_shape(self) -> Tuple[int, ...]:
        return (*self.q.shape[:3], self.kv_lora_rank)

    @property
    def inputs(self) -> Tuple[View, View, View, View]:
        return self.q, self.cache, self.page_table, self.kv_lens


class Frame:
    """The structs of a call, which are slow to make: kept for the calls after it that differ in
    addresses alone."""

    def __init__(self, p: Problem, outputs: Tuple[View, ...] = ()) -> None:
        self.tensors = [view.struct() for view in (*p.inputs, *outputs)]
        names = ("q", "cache", "page_table", "kv_lens", "out", "lse")
        self.args = _library.make(
            _library.DecodeArgs,
            kv_lora_rank=p.kv_lora_rank,
            scale=p.scale,
            causal=p.causal,
            batch_invariant=p.batch_invariant,
            kernel=None if p.kernel is None else p.kernel.encode(),
            stream=p.stream,
            num_threads=p.num_threads,
            compute=_library.COMPUTE[p.compute],
            **{name: ctypes.pointer(t) for name, t in zip(names, self.tensors)},
        )


def frame_kind(p: Problem, outputs: Tuple[View, View]) -> Tuple[Any, ...]:
    """What two calls must share to share a frame."""
    # Of a view: type, device, shape and strides.
    return (
        p.q[1:5],
        p.cache[1:5],
        p.page_table[1:5],
        p.kv_lens[1:5],
        outputs[0][1:5],
        outputs[1][1:5],
        p.kv_lora_rank,
        p.causal,
        p.num_threads,
        p.compute,
    )


def problem(
    q: Any,
    cache: Any,
    page_table: Any,
    kv_lens: Any,
    kv_lora_rank: int,
    *,
    scale: float = _ANY_SCALE,
    causal: bool = True,
    batch_invariant: bool = False,
    kernel: Optional[str] = None,
    stream: Optional[int] = None,
    num_threads: int = 0,
    compute: Optional[str] = None,
) -> Problem:
    """Reads the inputs of a call; the library checks most of what can be wrong with them."""
    stream = _array.stream_of((q, cache, page_table, kv_lens), stream)
    result = Problem(
        _array.view(q, "q", stream),
        _array.view(cache, "cache", stream),
        _array.view(page_table, "page_table", stream),
        _array.view(kv_lens, "kv_lens", stream),
        int(kv_lora_rank),
        float(scale),
        bool(causal),
        bool(batch_invariant),
        kernel,
        stream,
        int(num_threads),
        _library.compute_mode(compute),
    )
    shape = result.q.shape
    if len(shape) != 4:
        raise ArgumentError(f"q has shape {list(shape)}, want [num_seqs, s_q, heads, d_k]")
    if not 1 <= result.kv_lora_rank <= shape[3]:
        raise ArgumentError(
            f"kv_lora_rank is {kv_lora_rank}, want 1 to {shape[3]}, the last " "extent of q"
        )
    if result.q.device[0] != CPU:
        _array.wait_for(result.inputs, stream)
    return result


def verdicts(p: Problem) -> List[Verdict]:
    found = _library.make(_library.Verdicts)
    _library.call("mla_decode_explain", Frame(p).args, found)
    return [
        Verdict(found.items[i].kernel.decode(), found.items[i].refusal.decode())
        for i in range(found.count)
    ]


class Plan:
    """How the keys of a batch are shared out over the GPU, made by `mla.plan`.

    One plan serves every layer of a step, as long as the lengths and the shapes stay; `update`
    makes it fit new lengths. The calls that share it must follow each other, on one stream or
    ordered by events. On the CPU there is nothing to plan, and a plan holds nothing.

    Attributes:
        kernel: the kernel that decode will run.
    """

    def __init__(self, p: Problem) -> None:
        accepting = [verdict.kernel for verdict in verdicts(p) if verdict.accepts]
        # Where none accepts, the next call says why.
        self.kernel: Optional[str] = accepting[0] if accepting else p.kernel
        self._problem = p._replace(kernel=self.kernel)
        sizes = _library.make(_library.DecodeSizes)
        _library.call("mla_decode_memory", Frame(self._problem).args, sizes)
        self._schedule_bytes = sizes.schedule_bytes
        self._workspace_bytes = sizes.workspace_bytes
        self._address, self._schedule = 0, None
        if p.q.device[0] != CPU:
            self._address, self._schedule = _array.memory(self._schedule_bytes, p.q, p.stream)
        self._frames: List[Tuple[Any, Frame]] = []
        self._enqueue(self._problem)
        # The shapes stay known; the arrays need not stay alive for it.
        self._problem = self._problem._replace(
            q=_without_owner(p.q),
            cache=_without_owner(p.cache),
            page_table=_without_owner(p.page_table),
            kv_lens=_without_owner(p.kv_lens),
        )

    @property
    def schedule(self) -> Any:
        """The array that holds the schedule, on the device; None on the CPU."""
        return self._schedule

    def update(self, kv_lens: Any, stream: Optional[int] = None) -> None:
        """Plans anew for other lengths: kv_lens as given to `mla.plan`, of the same length.
        Enqueues one small kernel; can be captured in a CUDA graph."""
        stream = _array.stream_of((kv_lens,), stream)
        lens = _array.view(kv_lens, "kv_lens", stream)
        self._enqueue(self._problem._replace(kv_lens=lens, stream=stream))

    def _enqueue(self, p: Problem) -> None:
        if self._schedule is None:
            return
        args = Frame(p).args
        self._give_memory(args, self._address)  # of the workspace only the size is looked at
        _library.call("mla_decode_schedule", args)

    def _give_memory(self, args: Any, workspace: int) -> None:
        args.schedule, args.workspace = self._address, workspace
        args.schedule_bytes, args.workspace_bytes = self._schedule_bytes, self._workspace_bytes

    def _check(self, p: Problem) -> None:
        for name, ours, given in (
            ("q", _kind(self._problem.q), _kind(p.q)),
            ("cache", _kind(self._problem.cache)[1:], _kind(p.cache)[1:]),
            ("page_table", _kind(self._problem.page_table), _kind(p.page_table)),
            ("kv_lora_rank", self._problem.kv_lora_rank, p.kv_lora_rank),
            ("causal", self._problem.causal, p.causal),
            # A call that says nothing of it takes the plan's.
            ("compute", self._problem.compute, p.compute or self._problem.compute),
        ):
            if ours != given:
                raise ArgumentError(f"plan: it was made for {name} {ours}, the call has {given}")

    def _take_frame(self, p: Problem, out: View, lse: View) -> Tuple[Any, Frame]:
        """A frame that no other thread has, filled in for this call."""
        kind = frame_kind(p, (out, lse))
        known, frame = self._frames.pop() if self._frames else (None, None)
        if frame is None or known != kind:
            self._check(p)
            ours = self._problem
            frame = Frame(
                p._replace(
                    kernel=self.kernel,
                    batch_invariant=ours.batch_invariant,
                    compute=ours.compute,
                ),
                (out, lse),
            )
        args, tensors = frame.args, frame.tensors
        for tensor, view in zip(tensors, (p.q, p.cache, p.page_table, p.kv_lens, out, lse)):
            tensor.data = view.address
        args.scale, args.stream = p.scale, p.stream
        return kind, frame

    def run(self, p: Problem, out: View, lse: View) -> None:
        """Enqueues the attention (on the CPU: computes it)."""
        kind, frame = self._take_frame(p, out, lse)
        workspace = None
        if self._schedule is not None:
            # Anew for each call, from the framework's pool: two streams never share one, and what
            # a captured graph uses belongs to the graph.
            address, workspace = _array.memory(self._workspace_bytes, p.q, p.stream)
            self._give_memory(frame.args, address)
        _library.call("mla_decode", frame.args)
        if _array.is_jax(p.q.array) and workspace is not None:
            # JAX does not know of this stream, and would use the memory too early.
            _library.call("mla_stream_synchronize", p.q.device[1], p.stream)
        self._frames.append((kind, frame))


def _without_owner(view: View) -> View:
    return view._replace(array=None, owner=None)


def _kind(view: View) -> Tuple[Any, ...]:
    """What a plan depends on: the number of pages comes first, which it does not."""
    return (*view.shape, ("f32", "f16", "bf16", "i32", "f8_e4m3")[view.dtype], view.device)


def plan(
    q: Any,
    cache: Any,
    page_table: Any,
    kv_lens: Any,
    *,
    kv_lora_rank: int,
    causal: bool = True,
    batch_invariant: bool = False,
    kernel: Optional[str] = None,
    stream: Optional[int] = None,
    compute: Optional[str] = None,
) -> Plan:
    """Plans a decode step; `decode` takes the result as `plan`. The arguments are those of
    `decode`: of q and cache the shapes, strides and types count, not the contents.

    Args:
        batch_invariant: a sequence's result does not depend on the other sequences of the call.
        kernel: runs this kernel and no other; see `explain`.
        compute: as in `decode`, whose calls with this plan need not repeat it.

    Example:
        >>> import numpy as np, mla
        >>> q = np.zeros((2, 1, 16, 576), np.float32)
        >>> cache = np.zeros((8, 64, 576), np.float32)
        >>> pages = np.arange(8, dtype=np.int32).reshape(2, 4)
        >>> kv_lens = np.array([200, 31], np.int32)
        >>> step = mla.plan(q, cache, pages, kv_lens, kv_lora_rank=512)
        >>> for layer in range(2):
        ...     out, lse = mla.decode(q, cache, pages, kv_lens, kv_lora_rank=512,
        ...                           scale=192 ** -0.5, plan=step)
        >>> out.shape
        (2, 1, 16, 512)
    """
    return Plan(
        problem(
            q,
            cache,
            page_table,
            kv_lens,
            kv_lora_rank,
            causal=causal,
            batch_invariant=batch_invariant,
            kernel=kernel,
            stream=stream,
            compute=compute,
        )
    )


def decode(
    q: Any,
    cache: Any,
    page_table: Any,
    kv_lens: Any,
    *,
    kv_lora_rank: int,
    scale: float,
    causal: bool = True,
    out: Any = None,
    lse: Any = None,
    plan: Optional[Plan] = None,
    stream: Optional[int] = None,
    num_threads: int = 0,
    compute: Optional[str] = None,
) -> Tuple[Any, Any]:
    """One absorbed MLA decode step of a batch over the paged latent cache: for query token i and
    key j, in each head,

        score_ij = scale * q_i . [c_kv_j ; k_pe_j],   out_i = sum_j softmax(score)_ij c_kv_j

    All arrays lie on one device. On a GPU the call enqueues and returns; on the CPU it computes.

    Args:
        q: [num_seqs, s_q, heads, d_k]: [q_lat ; q_pe], bfloat16 or float16; on the CPU float32
            too.
        cache: [num_pages, page_size, d_k]: [c_kv ; k_pe], of the type of q (on the CPU of any of
            the three); pages of 1 to 256 tokens. On a GPU, for d_k 576 and kv_lora_rank 512, also
            [num_pages, page_size, 656] uint8, FP8 latents: 512 codes in e4m3, the scales of each
            128 of them in float32, then k_pe in bfloat16.
        page_table: [num_seqs, pages] int32: page ids. Entries past a sequence's last page are not
            read.
        kv_lens: [num_seqs] int32: tokens in the cache, those of this step included. May be 0.
        kv_lora_rank: the width of c_kv, 512 for DeepSeek-V3.
        scale: (qk_nope_head_dim + qk_rope_head_dim) ** -0.5, times YaRN's mscale ** 2 where used.
        causal: query token i of s_q sees the keys up to kv_len - s_q + i; otherwise all of them.
        out: [num_seqs, s_q, heads, kv_lora_rank] of the type of q, to write to; otherwise a new
            one.
        lse: [num_seqs, s_q, heads] float32, any strides, to write to; otherwise a new one.
        plan: from `mla.plan`, made for these shapes and lengths; otherwise one is made here.
        stream: a CUDA stream, for arrays that are not PyTorch's; PyTorch's current one is used for
            its tensors, CuPy's for its arrays, and the default one for others.
        num_threads: on the CPU; 0 is as many as this process may use.
        compute: on the CPU. "f32", or "bf16": operands of products are rounded to bfloat16, which
            is faster where the machine has AVX512_BF16 and the cache is bfloat16. Otherwise "bf16"
            where q and cache are bfloat16, "f32" elsewhere.

    Returns:
        (out, lse). lse is the natural logarithm of the sum of exp(score); a row with no key to see
        has out = 0 and lse = -inf.

    Raises:
        mla.ArgumentError: a ValueError, and an mla.Error.
        mla.Error: nothing here implements the call.

    Example:
        >>> import numpy as np, mla
        >>> q = np.zeros((1, 1, 16, 576), np.float32)
        >>> cache = np.ones((4, 64, 576), np.float32)
        >>> pages = np.array([[2, 0, -1]], np.int32)
        >>> out, lse = mla.decode(q, cache, pages, np.array([100], np.int32), kv_lora_rank=512,
        ...                       scale=192 ** -0.5)
        >>> float(out[0, 0, 0, 0]), bool(np.isclose(lse[0, 0, 0], np.log(100)))
        (1.0, True)
    """
    p = problem(
        q,
        cache,
        page_table,
        kv_lens,
        kv_lora_rank,
        scale=scale,
        causal=causal,
        kernel=None,
        stream=stream,
        num_threads=num_threads,
        compute=compute,
    )
    if out is None:
        out = _array.empty(p.out_shape, p.q)
    if lse is None:
        lse = _array.empty(p.q.shape[:3], p.q, F32)
    if plan is None:
        plan = Plan(p)
    plan.run(p, _array.output(out, "out", p.stream), _array.output(lse, "lse", p.stream))
    return out, lse


def explain(
    q: Any,
    cache: Any,
    page_table: Any,
    kv_lens: Any,
    *,
    kv_lora_rank: int,
    causal: bool = True,
    batch_invariant: bool = False,
    kernel: Optional[str] = None,
    stream: Optional[int] = None,
    compute: Optional[str] = None,
) -> List[Verdict]:
    """Says which kernel a decode call would run: each kernel with the reason for which it refuses,
    best first; the first with none runs. The arguments are those of `plan`.

    Example:
        >>> import numpy as np, mla
        >>> q = np.zeros((1, 1, 16, 576), np.float32)
        >>> cache = np.ones((4, 64, 576), np.float32)
        >>> pages, kv_lens = np.zeros((1, 4), np.int32), np.array([100], np.int32)
        >>> [v.kernel for v in mla.explain(q, cache, pages, kv_lens, kv_lora_rank=512)][-1]
        'reference'
    """
    return verdicts(
        problem(
            q,
            cache,
            page_table,
            kv_lens,
            kv_lora_rank,
            causal=causal,
            batch_invariant=batch_invariant,
            kernel=kernel,
            stream=stream,
            compute=compute,
        )
    )


def merge(part_out: Any, part_lse: Any, *, out: Any = None, lse: Any = None) -> Tuple[Any, Any]:
    """Combines attention over disjoint parts of the keys, on the CPU:

        lse = log sum_p exp(lse_p),   out = sum_p exp(lse_p - lse) out_p

    Args:
        part_out: [parts, tokens, heads, d_v] float32.
        part_lse: [parts, tokens, heads] float32; parts with -inf do not count.
        out: [tokens, heads, d_v], to write to; otherwise a new one.
        lse: [tokens, heads] float32, to write to; otherwise a new one.

    Returns:
        (out, lse)

    Example:
        >>> import numpy as np, mla
        >>> out, lse = mla.merge(np.array([1, 3], np.float32).reshape(2, 1, 1, 1),
        ...                      np.zeros((2, 1, 1), np.float32))
        >>> float(out[0, 0, 0])
        2.0
    """
    parts, lses = _array.view(part_out, "part_out"), _array.view(part_lse, "part_lse")
    if out is None:
        out = _array.empty(parts.shape[1:], parts)
    if lse is None:
        lse = _array.empty(lses.shape[1:], lses)
    views = (parts, lses, _array.output(out, "out"), _array.output(lse, "lse"))
    part_out_t, part_lse_t, out_t, lse_t = (ctypes.pointer(v.struct()) for v in views)
    _library.call(
        "mla_merge",
        _library.make(
            _library.MergeArgs, part_out=part_out_t, part_lse=part_lse_t, out=out_t, lse=lse_t
        ),
    )
    return out, lse
