import numpy as np
import pytest
import torch
from torch.nn import functional

from lib.config.choices import HEADS, LOSSES, SET_LOSSES
from lib.config.groups import HeadParams
from lib.head import chunked
from lib.head.chunked import chunked_loss, chunked_top
from lib.head.classifiers import KINDS
from lib.head.losses import LOSS_FUNCTIONS, HeadLoss

COUNTS = np.array([40, 8, 2, 1, 9])
SETS = torch.tensor([[0, 3, -1], [4, -1, -1], [1, 2, 4]])
MULTI_HOT = torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 1, 1, 0, 1]])


def build(kind="cross_entropy", *, multi_label=True, **options):
    params = HeadParams(loss=kind, **options)
    return HeadLoss.build(params, COUNTS, 60, multi_label=multi_label)


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 6), (5, 6), (5,))
    return [torch.randn(s, generator=generator, requires_grad=True) for s in shapes]


def test_cross_entropy_is_pytorchs_own():
    logits, labels = torch.randn(4, 5), torch.tensor([0, 4, 2, 2])
    balanced = torch.tensor(60 / (5 * COUNTS)).float()
    for options, expected in (
        ({}, {}),
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.1}),
        ({"class_weights": "balanced"}, {"weight": balanced}),
    ):
        ours = build(multi_label=False, **options).of_labels(logits, labels)
        theirs = functional.cross_entropy(logits, labels, reduction="sum", **expected)
        torch.testing.assert_close(ours, theirs)
    everything, logits = slice(0, 5), torch.randn(3, 5)
    positives = torch.tensor((60 - COUNTS) / COUNTS).float()
    for options, expected in (({}, {}), ({"class_weights": "balanced"}, {"pos_weight": positives})):
        ours = build(**options).of_sets(logits, MULTI_HOT, everything)
        theirs = functional.binary_cross_entropy_with_logits(
            logits, MULTI_HOT, reduction="sum", **expected
        )
        torch.testing.assert_close(ours, theirs)


def test_every_loss_of_the_parameters_has_its_functions():
    assert set(LOSS_FUNCTIONS) == set(LOSSES)
    assert {k for k, f in LOSS_FUNCTIONS.items() if f.of_labels is None} == set(SET_LOSSES)


@pytest.mark.parametrize(("kind", "multi_label"), [("focla", True), ("asymmetric", False)])
def test_a_loss_that_cannot_be_computed_is_refused(kind, multi_label):
    with pytest.raises(ValueError, match=f"loss: '{kind}' is none of cross_entropy, focal"):
        HeadLoss(kind, 5, multi_label=multi_label)


def test_focal_loss_by_hand():
    """p = 0.8 for the right answer: 0.2^2 times -log 0.8, with two classes and with one label."""
    logit = np.log(0.8 / 0.2)
    expected = 0.2**2 * -np.log(0.8)
    ours = build("focal", multi_label=False).of_labels(
        torch.tensor([[0.0, logit, -99, -99, -99]]), torch.tensor([1])
    )
    assert float(ours) == pytest.approx(expected, rel=1e-5)
    one = build("focal").of_sets(torch.tensor([[logit]]), torch.ones(1, 1), slice(0, 1))
    none = build("focal").of_sets(torch.tensor([[-logit]]), torch.zeros(1, 1), slice(0, 1))
    assert float(one) == pytest.approx(expected)
    assert float(none) == pytest.approx(expected)


def test_asymmetric_loss_by_hand():
    """Negatives: p less 0.05, at least 0, then p^4 times -log(1 - p). Positives: -log p."""
    p = np.array([0.8, 0.03])
    logits = torch.tensor(np.log(p / (1 - p)))[None]
    negatives = build("asymmetric").of_sets(logits, torch.zeros(1, 2).double(), slice(0, 2))
    assert float(negatives) == pytest.approx(0.75**4 * -np.log(0.25))
    positives = build("asymmetric").of_sets(logits, torch.ones(1, 2).double(), slice(0, 2))
    assert float(positives) == pytest.approx(-np.log(0.8) - np.log(0.03))


def test_logit_adjustment_asks_more_of_rare_labels_and_only_in_training():
    loss, logits = build("logit_adjusted", multi_label=False), torch.zeros(1, 5)
    frequent, rare = (float(loss.of_labels(logits, torch.tensor([c]))) for c in (0, 3))
    shares = (COUNTS + 1) / 62
    assert frequent == pytest.approx(-np.log(shares[0] / shares.sum()), rel=1e-5)
    assert rare == pytest.approx(-np.log(shares[3] / shares.sum()), rel=1e-5)
    prior = build("logit_adjusted").prior.sigmoid()
    torch.testing.assert_close(prior, torch.tensor(shares).float())


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_loss_in_chunks_is_the_whole_loss_with_its_gradients(monkeypatch, kind, bias):
    loss = build(kind, class_weights="balanced", label_smoothing=0.1)
    results = []
    for chunk in (100, 2):
        monkeypatch.setattr(chunked, "LABELS_AT_ONCE", chunk)
        tensors = inputs()[: 3 if bias else 2]
        value = chunked_loss(*tensors, *([] if bias else [None]), SETS, loss) / 7
        results.append((value, *torch.autograd.grad(value, tensors)))
    torch.testing.assert_close(results[0], results[1])
    logits = functional.linear(*inputs()[: 3 if bias else 2])
    whole = loss.of_sets(logits, MULTI_HOT, slice(0, 5)) / 7
    torch.testing.assert_close(results[0][0], whole)


def test_the_best_labels_of_chunks_are_the_best_of_all(monkeypatch):
    monkeypatch.setattr(chunked, "LABELS_AT_ONCE", 2)
    features, rows, bias = (x.detach() for x in inputs(1))
    scores, labels, total = chunked_top(features, rows, bias, 3)
    logits = functional.linear(features, rows, bias)
    torch.testing.assert_close(total, logits.logsumexp(dim=1))
    expected = logits.topk(3)
    torch.testing.assert_close(scores, expected.values)
    assert torch.equal(labels, expected.indices)


@pytest.mark.parametrize("kind", HEADS)
def test_heads_give_a_logit_a_label_in_fp32_and_train_all_they_have(kind):
    head, pooled = KINDS[kind](6, 5, True), torch.randn(3, 6)
    logits = functional.linear(head.features(pooled), head.weight, head.bias)
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    assert all(p.dtype == torch.float32 and p.grad.abs().sum() > 0 for p in head.parameters())
    assert KINDS[kind](6, 5, False).bias is None


def test_more_labels_than_one_softmax_takes_are_an_error():
    with pytest.raises(ValueError, match="one softmax over 100,001 labels"):
        HeadLoss.build(HeadParams(), np.ones(100_001), 60, multi_label=False)


def test_absent_classes_have_no_weight():
    balanced = HeadParams(loss="focal", class_weights="balanced")
    with pytest.raises(ValueError, match=r"no weight for labels \[1\], which no training document"):
        HeadLoss.build(balanced, [3, 0, 1], 4, multi_label=True)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_label_that_every_document_has_keeps_a_weight(multi_label):
    params, counts = HeadParams(class_weights="balanced"), [4, 3, 2]
    weights = HeadLoss.build(params, counts, 4, multi_label=multi_label).weights
    expected = [1 / 4, 1 / 3, 2 / 2] if multi_label else [4 / (3 * n) for n in counts]
    torch.testing.assert_close(weights, torch.tensor(expected))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixture_is_the_mixture_of_both_losses(multi_label, smoothing):
    """Half the labels, half a teacher's probabilities (arXiv 1503.02531, section 2)."""
    loss = build(multi_label=multi_label, label_smoothing=smoothing)
    hard = SETS if multi_label else torch.tensor([0, 4, 2])
    labels = MULTI_HOT if multi_label else functional.one_hot(hard, 5).float()
    probs = torch.randn(3, 5).sigmoid() if multi_label else torch.randn(3, 5).softmax(dim=1)
    of_labels, of_probs, of_both = (
        chunked_loss(*inputs(), targets, loss) for targets in (labels, probs, (labels + probs) / 2)
    )
    torch.testing.assert_close(of_both, (of_labels + of_probs) / 2)
    torch.testing.assert_close(of_labels, chunked_loss(*inputs(), hard, loss))


def test_cross_entropy_with_a_teacher_is_least_where_the_student_agrees():
    loss, probs = build(multi_label=False), torch.randn(3, 5).softmax(dim=1)
    logits = probs.log().requires_grad_()
    (gradient,) = torch.autograd.grad(loss.of_labels(logits, probs), logits)
    torch.testing.assert_close(gradient, torch.zeros(3, 5))
    expected = -(probs * probs.log()).sum()  # its entropy
    torch.testing.assert_close(loss.of_labels(logits, probs), expected)


def test_probabilities_of_sets_in_chunks_give_the_whole_loss_with_its_gradients(monkeypatch):
    results = []
    for chunk in (100, 2):
        monkeypatch.setattr(chunked, "LABELS_AT_ONCE", chunk)
        tensors = inputs()
        value = chunked_loss(*tensors, (MULTI_HOT + 0.3) / 2, build())
        results.append((value, *torch.autograd.grad(value, tensors)))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(
    "loss",
    [build("focal"), build("asymmetric"), build("logit_adjusted"), build(class_weights="balanced")],
)
def test_losses_made_for_labels_take_no_probabilities(loss):
    with pytest.raises(ValueError, match=rf"loss: '{loss.kind}' .* takes labels alone; learn"):
        chunked_loss(*inputs(), MULTI_HOT, loss)
