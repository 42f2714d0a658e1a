import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.data import LabelSpace
from lib.decoding import LabelTrie, decode_labels, score_labels
from lib.prompts import PromptTemplate
from lib.training import answer_log_probs

# Shared first tokens, a label that begins another one, one-token and long labels.
NAMES = ("card_arrival", "card", "card_linking", "earn", "nat-gas", "gas", "strategic-metal")
TEXTS = ["Cocoa rose.", "Gas prices fell again in the east of the country, traders said.", "x"]


@pytest.fixture(scope="module")
def model():
    from conftest import SMOLLM2

    from lib.loader import load_backbone

    return load_backbone(SMOLLM2, head="lm", dtype="float32")


@pytest.fixture(scope="module")
def template(tokenizer):
    return PromptTemplate.build(tokenizer, instruction="Topic?", max_length=20)


def exhaustive(model, prompts, answers):
    """One full forward pass for each pair, no cache, no trie."""
    scores = np.zeros((len(prompts), len(answers)))
    for i, prompt in enumerate(prompts):
        for j, answer in enumerate(answers):
            ids = torch.tensor([[*prompt, *answer]])
            with torch.inference_mode():
                log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
            at = range(len(prompt) - 1, ids.shape[1] - 1)
            scores[i, j] = sum(log_probs[t, ids[0, t + 1]].item() for t in at)
    return scores


@pytest.mark.parametrize("token_budget", [1, 500])
def test_scores_equal_exhaustive_scoring_of_whole_labels(model, template, tokenizer, token_budget):
    """TRAPS 14. In fp32, sums of up to seven log-probabilities agree to 1e-3."""
    prompts = [template.render(text) for text in TEXTS]
    answers = [template.answer_ids(name) for name in NAMES]
    options = {"token_budget": token_budget, "compute_dtype": torch.float32}
    scores = score_labels(model, tokenizer, prompts, answers, **options)
    np.testing.assert_allclose(scores, exhaustive(model, prompts, answers), atol=1e-3)


def test_bf16_scores_do_not_depend_on_the_batch_beyond_their_precision(
    make_backbone, template, tokenizer
):
    """TRAPS 4: within 1 % of scores of 80 nats and more, with equal predictions."""
    small = make_backbone("lm", layers=8, dtype="bfloat16")
    prompts = [template.render(text) for text in TEXTS]
    answers = [template.answer_ids(name) for name in NAMES]
    together, alone = (
        score_labels(
            small, tokenizer, prompts, answers, token_budget=b, compute_dtype=torch.bfloat16
        )
        for b in (10_000, 1)
    )
    np.testing.assert_allclose(together, alone, rtol=0.01)
    assert (together.argmax(1) == alone.argmax(1)).all()


def test_training_and_scoring_see_the_same_likelihood(model, template, tokenizer):
    ids, num = template.render_with_answer(TEXTS[0], NAMES[0])
    batch = {
        "input_ids": torch.tensor([[*ids, 2, 2]]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0, 0]]),
        "targets": torch.tensor([num]),
    }
    with torch.inference_mode():
        trained = answer_log_probs(model, batch, torch.float32).sum().item()
    scored = exhaustive(model, [ids[:-num]], [ids[-num:]])
    assert trained == pytest.approx(scored[0, 0], abs=1e-3)


def test_logits_are_computed_at_answer_positions_only(make_backbone, template, monkeypatch):
    """TRAPS 3, on the instruction route."""
    small = make_backbone("lm")
    rows = []
    small.lm_head.register_forward_hook(lambda m, inputs, _: rows.append(inputs[0].shape))
    ids, num = template.render_with_answer(TEXTS[1], NAMES[0])
    mask = torch.ones(1, len(ids), dtype=torch.long)
    batch = {
        "input_ids": torch.tensor([ids]),
        "attention_mask": mask,
        "targets": torch.tensor([num]),
    }
    answer_log_probs(small, batch, torch.float32)
    assert rows == [(num, 576)]


@given(
    st.lists(
        st.lists(st.integers(1, 4), max_size=4).map(tuple), min_size=1, max_size=12, unique=True
    )
)
def test_trie_paths_spell_the_labels_and_nodes_see_their_ancestors(labels):
    answers = [[*label, 0] for label in labels]  # 0 ends a label
    trie = LabelTrie.build(answers)
    for answer, path in zip(answers, trie.label_edges, strict=True):
        assert [trie.edges[e][1] for e in path] == answer
    prefixes = {tuple(a[:k]) for a in answers for k in range(len(a))}
    assert len(trie.tokens) == len(prefixes)
    assert (trie.visibility().sum(1) == torch.tensor(trie.depths) + 1).all()


def test_labels_with_the_same_tokens_are_refused():
    with pytest.raises(ValueError, match="two labels have the same tokens"):
        LabelTrie.build([[1, 2], [1, 2]])


def test_free_answers_outside_the_set_predict_nothing(model, template, tokenizer):
    """TRAPS 13: counted as errors, not replaced and not dropped."""
    space = LabelSpace(("qqq", "zzz"))
    preds, scores = decode_labels(
        model,
        tokenizer=tokenizer,
        prompts=[template.render(text) for text in TEXTS],
        label_texts=[template.answer_ids(name) for name in space.names],
        max_new_tokens=12,
        label_space=space,
        strategy="generate",
        token_budget=500,
        compute_dtype=torch.float32,
    )
    assert preds == [[], [], []]
    assert scores.shape == (3, 2)
    assert not scores.any()


@pytest.mark.parametrize(
    ("strategy", "multi_label", "message"),
    [("beam", False, "'beam' is not known"), ("score", True, '"score" ranks single labels')],
)
def test_strategies_that_do_not_apply_are_errors(model, tokenizer, strategy, multi_label, message):
    with pytest.raises(ValueError, match=message):
        decode_labels(
            model,
            tokenizer=tokenizer,
            prompts=[[1]],
            label_texts=[[1]],
            max_new_tokens=1,
            label_space=LabelSpace(("a",)),
            strategy=strategy,
            multi_label=multi_label,
            token_budget=1,
            compute_dtype=torch.float32,
        )
