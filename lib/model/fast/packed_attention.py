"""Attention within each of many packed documents, and its gradient, as an operator of torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

# Queries computed at once; what lies beyond the diagonal block is never computed.
BLOCK, SMALLEST_BLOCK = 128, 64
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
    for group in _groups(tuple(offsets.tolist()), offsets.device):
        qg, kg, vg = (group.gather(x, k.shape[1]) for x in (q, k, v))
        kf, vf = _flat(kg), _flat(vg)  # (g K, T, D)
        og = group.place(out, k.shape[1])
        for rows, keys in _blocks(group.length, window, causal):
            mask = group.mask(qg, rows, keys, window, causal)
            probs = _softmax(_flat(qg[:, :, :, rows]), kf[:, keys], mask, scale)
            og[:, :, :, rows] = (probs @ vf[:, keys]).view(*qg.shape[:3], -1, q.shape[-1])
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
    for group in _groups(tuple(offsets.tolist()), offsets.device):
        qg, kg, vg = (group.gather(x, k.shape[1]) for x in (q, k, v))
        dog = group.gather(grad, k.shape[1], zero_padding=True)
        kf, vf = _flat(kg), _flat(vg)  # (g K, T, D)
        dkf, dvf = torch.zeros_like(kf), torch.zeros_like(vf)
        dqg = group.place(dq, k.shape[1])
        for rows, keys in _blocks(group.length, window, causal):
            queries, do = _flat(qg[:, :, :, rows]), _flat(dog[:, :, :, rows])  # (g K, R b, D)
            mask = group.mask(qg, rows, keys, window, causal)
            probs = _softmax(queries, kf[:, keys], mask, scale)
            dvf[:, keys].baddbmm_(probs.mT, do)
            dprobs = do @ vf[:, keys].mT
            dscores = torch._softmax_backward_data(dprobs, probs, -1, probs.dtype)
            products = (dscores @ kf[:, keys]).mul_(scale)
            dqg[:, :, :, rows] = products.view(*qg.shape[:3], -1, q.shape[-1])
            dkf[:, keys].baddbmm_(dscores.mT, queries, alpha=scale)
        group.scatter(dq, dqg)
        group.scatter(dk, dkf.view(kg.shape))
        group.scatter(dv, dvf.view(vg.shape))
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
    """g documents of about one length that stand side by side, padded to the longest of them.

    `index` (g T,) says which token stands where, `real` (tokens,) where the real ones stand, and
    `padding` the rest of these places; all are None where no document is padded.
    """

    start: int
    stop: int
    length: int
    index: Tensor | None = None
    real: Tensor | None = None
    padding: Tensor | None = None

    def gather(self, x: Tensor, key_heads: int, *, zero_padding: bool = False) -> Tensor:
        """(S, heads, D) -> (g, K, R, T, D): R query heads share each of K key heads."""
        if self.index is None:
            return self._by_head(x[self.start : self.stop], key_heads)
        rows = x.index_select(0, self.index)
        if zero_padding:
            rows.index_fill_(0, self.padding, 0.0)
        return self._by_head(rows, key_heads)

    def place(self, out: Tensor, key_heads: int) -> Tensor:
        """Where to write (g, K, R, T, D) results: within `out` itself unless there is padding."""
        if self.index is None:
            return self._by_head(out[self.start : self.stop], key_heads)
        return self._by_head(out.new_empty(len(self.index), *out.shape[1:]), key_heads)

    def scatter(self, out: Tensor, x: Tensor) -> None:
        """The reverse of `gather`, into (S, heads, D), leaving out what stands at padding."""
        rows = x.permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)  # (g T, heads, D)
        part = out[self.start : self.stop]
        if self.index is not None:
            torch.index_select(rows, 0, self.real, out=part)
        elif rows.data_ptr() != part.data_ptr():
            part.copy_(rows)

    def mask(self, q: Tensor, rows: slice, keys: slice, window: int, causal: bool) -> Tensor:
        """What is added to the scores of a block of (g, K, R, T, D) queries: -inf, or nothing."""
        if causal:  # padding comes after all that is real, so it is hidden as well
            block = (rows.start, rows.stop, keys.start, keys.stop)
            return _causal_mask(*block, window, q.shape[2], q.dtype, q.device)
        mask = q.new_zeros(q.shape[0] * self.length)
        if self.padding is not None:
            mask.index_fill_(0, self.padding, -torch.inf)
        return mask.view(-1, 1, self.length).repeat_interleave(q.shape[1], 0)  # (g K, 1, T)

    def _by_head(self, rows: Tensor, key_heads: int) -> Tensor:
        split = rows.unflatten(1, (key_heads, -1)).unflatten(0, (-1, self.length))
        return split.permute(0, 2, 3, 1, 4)


@lru_cache(maxsize=16)  # all layers, in both passes, ask for the same
def _groups(bounds: tuple[int, ...], device: torch.device) -> tuple[_Group, ...]:
    """Neighbours grouped while padding them to the longest adds little."""
    lengths = [stop - start for start, stop in pairwise(bounds)]
    groups, first = [], 0
    for last in range(1, len(lengths) + 1):
        members = lengths[first : last + 1]
        if last == len(lengths) or len(members) * max(members) > SLACK * sum(members):
            groups.append(_group(bounds[first : last + 1], device))
            first = last
    return tuple(groups)


def _group(bounds: tuple[int, ...], device: torch.device) -> _Group:
    """These documents, each padded to the longest."""
    begins = torch.tensor(bounds[:-1], device=device)[:, None]
    sizes = torch.tensor(bounds, device=device).diff()[:, None]
    length = int(sizes.max())
    if (sizes == length).all():
        return _Group(bounds[0], bounds[-1], length)
    position = torch.arange(length, device=device)
    index = begins + torch.minimum(position, sizes - 1)  # padding repeats the last token
    real = (position < sizes).flatten()
    places = [places.nonzero().flatten() for places in (real, ~real)]
    return _Group(bounds[0], bounds[-1], length, index.flatten(), *places)


def _blocks(length: int, window: int, causal: bool) -> Iterator[tuple[slice, slice]]:
    """Blocks of queries, and the keys that some query of the block sees.

    Up to twice `BLOCK` a causal document is halved, which spares a quarter of its products.
    """
    block = min(BLOCK, max(SMALLEST_BLOCK, -(-length // 2))) if causal else BLOCK
    for start in range(0, length, block):
        first = max(0, start - window + 1) if window else 0
        stop = min(start + block, length)
        yield slice(start, stop), slice(first, stop if causal else length)


def _flat(x: Tensor) -> Tensor:
    """(g, K, R, t, D) -> (g K, R t, D)."""
    return x.flatten(2, 3).flatten(0, 1)


def _softmax(queries: Tensor, keys: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention probabilities, (g K, R b, n): of queries (g K, R b, D) for keys (g K, n, D)."""
    return torch.baddbmm(mask, queries, keys.mT, alpha=scale).softmax(dim=-1)


@lru_cache(maxsize=32)
def _causal_mask(
    start: int,
    stop: int,
    first: int,
    last: int,
    window: int,
    sharing: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """(R b, n), to be added to scores: what the queries start to stop see of keys first to last."""
    i = torch.arange(start, stop, device=device)[:, None]
    j = torch.arange(first, last, device=device)
    hidden = (j > i) | (j <= i - window) if window else j > i
    hidden = hidden.repeat(sharing, 1)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
