"""Attention within each of many packed documents, and its gradient, as an operator of torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

BLOCK = 128  # queries computed at once: what lies beyond the diagonal block is never computed
SLACK = 1.25  # documents are padded, for attention alone, to at most this share of their length


@torch.library.custom_op("head_or_prompt::packed_attention", mutates_args=())
def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, scale: float, window: int, causal: bool
) -> Tensor:
    """Attention within each document, softmax(scale q k^T) v, (S, heads, D).

    Documents of about one length are computed together, in blocks of queries that see no more keys
    than they may: the tiling of arXiv 2205.14135, but of matrix products of the library. Query
    heads that share a key head are rows of one product. No (T, T) matrix is kept for the backward
    pass, which computes it again.

    Parameters
    ----------
    q, k, v
        (S, heads, D), (S, key heads, D) and (S, key heads, D), one dtype.
    offsets
        (B + 1,) int32: document b holds the tokens offsets[b] to offsets[b + 1].
    window
        Keys that a query sees, itself included; 0 for all up to it.
    causal
        Whether a query sees no key after it. Otherwise it sees the whole document, and `window` is
        0.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for group in _groups(offsets):
        qg, kg, vg = (group.gather(x, k.shape[1]) for x in (q, k, v))
        og = group.place(out, k.shape[1])
        for rows, keys in _blocks(group.length, window, causal):
            probs, _ = _softmax(qg, kg, rows, keys, scale, window, causal, group.real)
            og[:, :, :, rows] = (probs @ _flat(vg, keys)).view(*qg.shape[:3], -1, q.shape[-1])
        group.scatter(out, og)
    return out


@torch.library.custom_op("head_or_prompt::packed_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    scale: float,
    window: int,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    for group in _groups(offsets):
        qg, kg, vg = (group.gather(x, k.shape[1]) for x in (q, k, v))
        dog = group.gather(grad, k.shape[1], zero_padding=True)
        dqg = group.place(dq, k.shape[1])
        dkg = torch.zeros(_flat(kg).shape, dtype=k.dtype, device=k.device)  # (g K, T, D)
        dvg = torch.zeros_like(dkg)
        for rows, keys in _blocks(group.length, window, causal):
            probs, queries = _softmax(qg, kg, rows, keys, scale, window, causal, group.real)
            do = _flat(dog, rows)  # (g K, R b, D)
            dvg[:, keys].baddbmm_(probs.mT, do)
            dprobs = do @ _flat(vg, keys).mT
            dscores = torch._softmax_backward_data(dprobs, probs, -1, probs.dtype)
            products = (dscores @ _flat(kg, keys)).mul_(scale)
            dqg[:, :, :, rows] = products.view(*qg.shape[:3], -1, q.shape[-1])
            dkg[:, keys].baddbmm_(dscores.mT, queries, alpha=scale)
        group.scatter(dq, dqg)
        group.scatter(dk, dkg.view(kg.shape))
        group.scatter(dv, dvg.view(vg.shape))
    return dq, dk, dv


@packed_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, scale: float, window: int, causal: bool
) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    scale: float,
    window: int,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.scale, ctx.window, ctx.causal = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple:
    grads = _backward(grad, *ctx.saved_tensors, ctx.scale, ctx.window, ctx.causal)
    return *grads, None, None, None, None


packed_attention.register_autograd(_differentiate, setup_context=_save)


@dataclass(frozen=True)
class _Group:
    """Documents of about one length that stand side by side, padded to the longest of them.

    `index` (g, T) says which token stands where; it is None where all are of one length.
    """

    start: int
    stop: int
    length: int
    index: Tensor | None
    real: Tensor | None

    def gather(self, x: Tensor, key_heads: int, *, zero_padding: bool = False) -> Tensor:
        """(S, heads, D) -> (g, K, R, T, D): R query heads share each of K key heads."""
        if self.index is None:
            rows = x[self.start : self.stop].unflatten(0, (-1, self.length))
        else:
            rows = x[self.index]  # (g, T, heads, D)
            if zero_padding:
                rows = rows.masked_fill_(~self.real[..., None, None], 0.0)
        return rows.unflatten(2, (key_heads, -1)).permute(0, 2, 3, 1, 4)

    def place(self, out: Tensor, key_heads: int) -> Tensor:
        """Where to write (g, K, R, T, D) results: within `out` itself unless there is padding."""
        view = self.gather(out, key_heads)
        return view if self.index is None else torch.empty_like(view)

    def scatter(self, out: Tensor, x: Tensor) -> None:
        """The reverse of `gather`, into (S, heads, D), leaving out what stands at padding."""
        rows = x.permute(0, 3, 1, 2, 4).flatten(2, 3)  # (g, T, heads, D)
        if self.index is not None:
            out[self.start : self.stop] = rows[self.real]
        elif rows.data_ptr() != out[self.start].data_ptr():
            out[self.start : self.stop] = rows.flatten(0, 1)


def _groups(offsets: Tensor) -> Iterator[_Group]:
    """Neighbours grouped while padding them to the longest adds little."""
    bounds = offsets.tolist()
    lengths = [stop - start for start, stop in pairwise(bounds)]
    first = 0
    for last in range(len(lengths)):
        members = lengths[first : last + 2]
        if last + 1 == len(lengths) or len(members) * max(members) > SLACK * sum(members):
            members, start, stop = lengths[first : last + 1], bounds[first], bounds[last + 1]
            longest, first = max(members), last + 1
            if len(members) * longest == stop - start:
                yield _Group(start, stop, longest, None, None)
            else:
                position = torch.arange(longest, device=offsets.device)
                size = torch.tensor(members, device=offsets.device)[:, None]
                begin = offsets[first - len(members) : first, None]
                index = begin + torch.minimum(position, size - 1)
                yield _Group(start, stop, longest, index, position < size)


def _blocks(length: int, window: int, causal: bool) -> Iterator[tuple[slice, slice]]:
    """Blocks of queries, and the keys that some query of the block sees."""
    for start in range(0, length, BLOCK):
        first = max(0, start - window + 1) if window else 0
        stop = min(start + BLOCK, length)
        yield slice(start, stop), slice(first, stop if causal else length)


def _flat(x: Tensor, positions: slice = slice(None)) -> Tensor:
    """(g, K, R, T, D) -> (g K, R t, D)."""
    return x[:, :, :, positions].flatten(2, 3).flatten(0, 1)


def _softmax(
    q: Tensor,
    k: Tensor,
    rows: slice,
    keys: slice,
    scale: float,
    window: int,
    causal: bool,
    real: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Attention probabilities, (g K, R b, n), of a block of queries, and the queries."""
    queries = _flat(q, rows)  # (g K, R b, D)
    if causal:  # padding comes after all that is real, so it is hidden as well
        i = torch.arange(rows.start, rows.stop, device=q.device)[:, None]
        j = torch.arange(keys.start, keys.stop, device=q.device)
        hidden = (j > i) | (j <= i - window) if window else j > i
        hidden = hidden.repeat(q.shape[2], 1)  # (R b, n)
    elif real is None:
        hidden = torch.zeros(1, 1, dtype=torch.bool, device=q.device)
    else:
        hidden = ~real.repeat_interleave(q.shape[1], dim=0)[:, None]  # (g K, 1, n)
    mask = queries.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
    scores = torch.baddbmm(mask, queries, _flat(k, keys).mT, alpha=scale)
    return scores.softmax(dim=-1), queries
