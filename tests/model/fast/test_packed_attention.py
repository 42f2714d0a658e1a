"""Packed attention against plain attention of each document, values and gradients."""

import pytest
import torch

from lib.model.fast import packed_attention as packed
from lib.model.fast.packed_attention import packed_attention


def naive(q, k, v, lengths, scale, window, causal):
    """Softmax attention of each document by itself, with an explicit mask."""
    outputs, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        start += length
        repeats = q.shape[1] // k.shape[1]
        qs, ks, vs = q[part], *(x[part].repeat_interleave(repeats, dim=1) for x in (k, v))
        scores = torch.einsum("ihd,jhd->hij", qs, ks) * scale
        i, j = torch.arange(length)[:, None], torch.arange(length)
        hidden = (j > i) | (j <= i - window) if window else j > i
        hidden &= torch.tensor(causal)
        probs = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        outputs.append(torch.einsum("hij,jhd->ihd", probs, vs))
    return torch.cat(outputs)


@pytest.mark.parametrize(("window", "causal"), [(0, True), (1, True), (4, True), (0, False)])
@pytest.mark.parametrize("lengths", [[6, 6, 6], [3, 17, 18, 20, 40], [1, 1, 9], [50]])
def test_values_and_gradients_are_those_of_plain_attention(monkeypatch, lengths, window, causal):
    monkeypatch.setattr(packed, "BLOCK", 8)  # several blocks a document, halves of short ones
    monkeypatch.setattr(packed, "SMALLEST_BLOCK", 3)
    torch.manual_seed(0)
    q, k, v = (torch.randn(sum(lengths), h, 4, dtype=torch.double) for h in (6, 2, 2))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    ours = packed_attention(*inputs, offsets, 0.3, window, causal)
    plain = naive(*inputs, lengths, 0.3, window, causal)
    torch.testing.assert_close(ours, plain)
    grad = torch.randn_like(ours)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(plain, inputs, grad)
    )


def test_the_operator_keeps_the_rules_of_torch():
    q, k, v = (torch.randn(7, h, 4, requires_grad=True) for h in (4, 2, 2))
    offsets = torch.tensor([0, 3, 7], dtype=torch.int32)
    torch.library.opcheck(packed_attention, (q, k, v, offsets, 0.5, 0, True))
