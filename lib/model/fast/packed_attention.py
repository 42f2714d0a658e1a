"""Attention within each of many packed documents, and its gradient, as an operator of torch.

Micro-batches have their documents sorted by length, so that neighbours are about as long. A group
is a padded mini-batch of neighbours. Within a group, scores are computed for a block of queries at
a time, and only for the keys that some query of the block sees:

```
packed (S,)     aaa bbb cccc ddddddd eeeeeeee        one document (T, T), causal, in blocks
groups          [a b c, T = 4] [d e, T = 8]             keys
                                                        x x
aaa-  each (g, K, R, T, D): g documents,       queries  x x         a block of queries
bbb-  K key heads, R query heads per                    x x x x     and the keys up to
cccc  key head, T tokens of D numbers                   x x x x     its last query
```
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

BLOCK, SMALLEST_BLOCK = 128, 64  # queries computed at once (our choice)
MAX_KEPT = 2048  # keys of a block up to which its mask is kept for other layers (our choice)
MAX_PADDING_RATIO = 1.25  # tokens of a padded group per real token, at most (our choice)


@torch.library.custom_op("head_or_prompt::packed_attention", mutates_args=())
def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, scale: float, window: int, causal: bool
) -> Tensor:
    """Attention within each document, softmax(scale q k^T) v, (S, heads, D).

    It is the tiling of FlashAttention (arXiv 2205.14135), by matrix products of torch. Query heads
    that share a key head are rows of one product. The backward pass computes probabilities again,
    so that no (T, T) matrix is kept.

    Parameters
    ----------
    q, k, v
        (S, heads, D), (S, key heads, D) and (S, key heads, D), one dtype.
    offsets
        (B + 1,) int32: document b holds the tokens offsets[b] to offsets[b + 1].
    window
        Number of keys that a query sees, its own included; 0 for all up to its own.
    causal
        True if a query sees no key after it. Otherwise it sees the whole document, and `window`
        is 0.
    """
    out = _unfilled(q)
    for group in _groups(tuple(offsets.tolist()), offsets.device):
        qg, kg, vg = (group.gather(x, k.shape[1]) for x in (q, k, v))
        kf, vf = _flat(kg), _flat(vg)  # (g K, T, D)
        og = group.place(out, k.shape[1])
        for rows, keys in _blocks(group.length, window, causal):
            mask = group.mask(qg, rows, keys, window, causal)
            probs = _softmax(_flat(qg[:, :, :, rows]), kf[:, keys], mask, scale)  # (g K, R b, n)
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
    """dL/dq, dL/dk and dL/dv (arXiv 2205.14135, appendix B.2), group by group, block by block."""
    dq, dk, dv = _unfilled(q), _unfilled(k), _unfilled(v)
    for group in _groups(tuple(offsets.tolist()), offsets.device):
        qg, kg, vg = (group.gather(x, k.shape[1]) for x in (q, k, v))
        dog = group.gather(grad, k.shape[1], zero_padding=True)
        kf, vf = _flat(kg), _flat(vg)  # (g K, T, D)
        dkf, dvf = torch.zeros_like(kf), torch.zeros_like(vf)
        dqg = group.place(dq, k.shape[1])
        for rows, keys in _blocks(group.length, window, causal):
            queries, do = _flat(qg[:, :, :, rows]), _flat(dog[:, :, :, rows])  # (g K, R b, D)
            # The probabilities of the forward pass, computed again.
            mask = group.mask(qg, rows, keys, window, causal)
            probs = _softmax(queries, kf[:, keys], mask, scale)
            # Through the product with values, then through the softmax.
            dvf[:, keys].baddbmm_(probs.mT, do)
            dprobs = do @ vf[:, keys].mT
            dscores = torch._softmax_backward_data(dprobs, probs, -1, probs.dtype)
            # Through the product of queries and keys.
            products = (dscores @ kf[:, keys]).mul_(scale)
            dqg[:, :, :, rows] = products.view(*qg.shape[:3], -1, q.shape[-1])
            dkf[:, keys].baddbmm_(dscores.mT, queries, alpha=scale)
        # Back into the order of packed tokens.
        group.scatter(dq, dqg)
        group.scatter(dk, dkf.view(kg.shape))
        group.scatter(dv, dvf.view(vg.shape))
    return dq, dk, dv


@packed_attention.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return _unfilled(q)


@_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _unfilled(q), _unfilled(k), _unfilled(v)


def _unfilled(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.scale, ctx.window, ctx.causal = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple:
    grads = _backward(grad, *ctx.saved_tensors, ctx.scale, ctx.window, ctx.causal)
    return *grads, None, None, None, None


packed_attention.register_autograd(_differentiate, setup_context=_save)


@dataclass(frozen=True)
class _Group:
    """g neighbouring documents of about one length, padded to the longest of them.

    If no document is padded, the last three are None, and `gather` and `place` give views of the
    packed rows.
    """

    start: int  # first packed row
    stop: int  # behind the last one
    length: int  # T
    index: Tensor | None = None  # (g T,): the packed row at each place of the padded group
    real: Tensor | None = None  # (stop - start,): the places of real tokens
    padding: Tensor | None = None  # the other places

    def gather(self, x: Tensor, key_heads: int, *, zero_padding: bool = False) -> Tensor:
        """(S, heads, D) -> (g, K, R, T, D): R query heads share each of K key heads."""
        if self.index is None:
            return self.place(x, key_heads)
        rows = x.index_select(0, self.index)
        if zero_padding:
            rows.index_fill_(0, self.padding, 0.0)
        return self._by_head(rows, key_heads)

    def place(self, out: Tensor, key_heads: int) -> Tensor:
        """The array for (g, K, R, T, D) results: a view of `out`, or a new one if padded."""
        if self.index is None:
            return self._by_head(out[self.start : self.stop], key_heads)
        return self._by_head(out.new_empty(len(self.index), *out.shape[1:]), key_heads)

    def scatter(self, out: Tensor, x: Tensor) -> None:
        """The reverse of `gather`, into (S, heads, D), without padding."""
        rows = x.permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)  # (g T, heads, D)
        part = out[self.start : self.stop]
        if self.index is not None:
            torch.index_select(rows, 0, self.real, out=part)
        elif rows.data_ptr() != part.data_ptr():  # else it is a view of `out`
            part.copy_(rows)

    def mask(self, q: Tensor, rows: slice, keys: slice, window: int, causal: bool) -> Tensor:
        """Mask to add to the scores of a block of (g, K, R, T, D) queries: -inf at hidden keys.

        (R b, n) for b causal queries and n keys, else (g K, 1, T).
        """
        if causal:  # padding comes after all that is real, so it is hidden as well
            block = (rows.start, rows.stop, keys.start, keys.stop)
            few = keys.stop - keys.start <= MAX_KEPT
            mask = _causal_mask if few else _causal_mask.__wrapped__
            return mask(*block, window, q.shape[2], q.dtype, q.device)
        mask = q.new_zeros(q.shape[0] * self.length)
        if self.padding is not None:
            mask.index_fill_(0, self.padding, -torch.inf)
        return mask.view(-1, 1, self.length).repeat_interleave(q.shape[1], 0)  # (g K, 1, T)

    def _by_head(self, rows: Tensor, key_heads: int) -> Tensor:
        split = rows.unflatten(1, (key_heads, -1)).unflatten(0, (-1, self.length))
        return split.permute(0, 2, 3, 1, 4)


@lru_cache(maxsize=16)  # all layers, in both passes, ask for the same
def _groups(bounds: tuple[int, ...], device: torch.device) -> tuple[_Group, ...]:
    """Groups of neighbours: a group grows while padding to its longest document adds little."""
    lengths = [stop - start for start, stop in pairwise(bounds)]
    groups, first = [], 0
    for last in range(1, len(lengths) + 1):
        members = lengths[first : last + 1]
        if last == len(lengths) or len(members) * max(members) > MAX_PADDING_RATIO * sum(members):
            groups.append(_group(bounds[first : last + 1], device))
            first = last
    return tuple(groups)


def _group(bounds: tuple[int, ...], device: torch.device) -> _Group:
    """The group of these documents, each padded to the longest."""
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

    Halving a causal document of up to twice `BLOCK` tokens saves a quarter of its products.
    """
    halved = max(SMALLEST_BLOCK, math.ceil(length / 2))
    block = min(BLOCK, halved) if causal else BLOCK
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
    """Mask (R b, n) to add to scores of queries start to stop and keys first to last."""
    i = torch.arange(start, stop, device=device)[:, None]
    j = torch.arange(first, last, device=device)
    hidden = (j > i) | (j <= i - window) if window else j > i
    hidden = hidden.repeat(sharing, 1)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
