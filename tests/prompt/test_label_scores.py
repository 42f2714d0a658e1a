from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from transformers import LlamaConfig, LlamaForCausalLM

from lib.config.choices import AVERAGED, DECODINGS, SET_DECODINGS
from lib.data.labels import LabelSpace
from lib.model.load import load_backbone
from lib.model.windows import split_windows
from lib.prompt.decode import DECODERS, SET_DECODERS, decode_labels
from lib.prompt.label_scores import score_labels
from lib.prompt.label_sets import score_label_sets, score_questions
from lib.prompt.label_trie import LabelTrie
from lib.prompt.search import search_labels
from lib.prompt.template import NEUTRAL, PromptTemplate
from lib.training.finetune import answer_log_probs, answer_loss
from lib.training.trainer import MicroBatchCollator

# Shared first tokens, a label that begins another one, one-token and long labels.
NAMES = ("card_arrival", "card", "card_linking", "earn", "nat-gas", "gas", "strategic-metal")
TEXTS = ["Cocoa rose.", "Gas prices fell again in the east of the country, traders said.", "x"]


@pytest.fixture(scope="module")
def model(cut_model):
    return load_backbone(cut_model(8), head="lm", dtype="float32")


@pytest.fixture
def small_model(make_backbone):
    return make_backbone("lm", dtype="float32")


@pytest.fixture(scope="module")
def tiny_model(tokenizer):
    """Random, and surer of what follows than small weights would make it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=len(tokenizer), initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


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
def test_scores_equal_exhaustive_scoring_of_whole_labels(model, template, token_budget):
    """In fp32, sums of up to seven log-probabilities agree to 1e-3."""
    prompts = [template.prompt_ids(text) for text in TEXTS]
    answers = [template.answer_ids(name) for name in NAMES]
    options = {"token_budget": token_budget, "compute_dtype": torch.float32}
    scores = score_labels(model, prompts, answers, **options)
    np.testing.assert_allclose(scores, exhaustive(model, prompts, answers), atol=1e-3)


def test_no_prompts_have_no_scores(small_model):
    options = {"token_budget": 9, "compute_dtype": torch.float32}
    assert score_labels(small_model, [], [[1], [2, 3]], **options).shape == (0, 2)
    assert search_labels(small_model, [], [[1], [2, 3]], greedy=False, **options).shape == (0, 2)


def test_bf16_scores_do_not_depend_on_the_batch_beyond_their_precision(make_backbone, template):
    """Within 1 % of scores of 80 nats and more, with equal predictions."""
    small = make_backbone("lm", layers=8, dtype="bfloat16")
    prompts = [template.prompt_ids(text) for text in TEXTS]
    answers = [template.answer_ids(name) for name in NAMES]
    together, alone = (
        score_labels(small, prompts, answers, token_budget=b, compute_dtype=torch.bfloat16)
        for b in (10_000, 1)
    )
    np.testing.assert_allclose(together, alone, rtol=0.01)
    assert (together.argmax(1) == alone.argmax(1)).all()


def test_training_and_scoring_see_the_same_likelihood(model, template):
    ids, num = template.with_answer(TEXTS[0], NAMES[0])
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
    """Logits of all positions over the vocabulary would take most of the memory."""
    small = make_backbone("lm")
    rows = []
    small.lm_head.register_forward_hook(lambda m, inputs, _: rows.append(inputs[0].shape))
    ids, num = template.with_answer(TEXTS[1], NAMES[0])
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


@pytest.mark.parametrize("token_budget", [1, 500])
@pytest.mark.parametrize("greedy", [True, False])
def test_search_finds_what_scoring_every_label_finds(model, template, token_budget, greedy):
    """Best-first search is exact; any label found has its own score."""
    prompts = [template.prompt_ids(text) for text in TEXTS]
    answers = [template.answer_ids(name) for name in NAMES]
    options = {"token_budget": token_budget, "compute_dtype": torch.float32}
    found = search_labels(model, prompts, answers, greedy=greedy, **options)
    scores = score_labels(model, prompts, answers, **options)
    finished = np.isfinite(found)
    assert finished.any(axis=1).all()
    np.testing.assert_allclose(found[finished], scores[finished], atol=1e-3)
    if not greedy:
        assert (found.argmax(axis=1) == scores.argmax(axis=1)).all()


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.lists(st.sampled_from([260, 281, 339, 1000]), min_size=1, max_size=3).map(tuple),
        min_size=1,
        max_size=8,
        unique=True,
    )
)
def test_any_label_set_is_scored_and_searched_exactly(small_model, labels):
    """Labels that share prefixes, are prefixes of others, or have one token."""
    answers = [[*label, 2] for label in labels]
    prompts = [[1, 400, 401, 402], [1, 400, 9, 8, 7, 6]]
    options = {"token_budget": 100, "compute_dtype": torch.float32}
    scores = score_labels(small_model, prompts, answers, **options)
    np.testing.assert_allclose(scores, exhaustive(small_model, prompts, answers), atol=1e-3)
    found = search_labels(small_model, prompts, answers, greedy=False, **options)
    best = scores.argmax(axis=1)
    np.testing.assert_allclose(found.max(axis=1), scores.max(axis=1), atol=1e-3)
    assert np.isfinite(found[np.arange(2), best]).all()


def test_greedy_follows_the_most_probable_allowed_token(model, template):
    answers = [template.answer_ids(name) for name in NAMES]
    prompt = template.prompt_ids(TEXTS[1])
    answer: list[int] = []
    while answer not in answers:
        allowed = sorted({a[len(answer)] for a in answers if a[: len(answer)] == answer})
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, -1]
        answer.append(allowed[logits[allowed].argmax()])
    options = {"token_budget": 500, "compute_dtype": torch.float32}
    found = search_labels(model, [prompt], answers, greedy=True, **options)
    assert np.isfinite(found[0]).nonzero()[0].tolist() == [answers.index(answer)]


SETS = ("corn", "gas", "grain", "natural gas")


def test_label_sets_are_answered_label_by_label(small_model, template):
    """Scores are those of whole texts; no label comes twice, and there is always one."""
    prompts = [template.prompt_ids(text) for text in TEXTS]
    options = {"token_budget": 500, "compute_dtype": torch.float32}
    sets, scores = score_label_sets(small_model, template, prompts, SETS, **options)
    assert sets.any(axis=1).all()
    assert ((scores > 0) & (scores < 1)).all()
    for prompt, chosen, row in zip(prompts, sets, scores, strict=True):
        answered, seen = list(prompt), np.zeros(len(SETS), dtype=bool)
        expected = np.zeros(len(SETS))
        for step in range(len(SETS)):
            pieces = [template.label_ids(name, first=step == 0) for name in SETS]
            endings = [[2], template.separator_ids]
            ends, goes = (
                exhaustive(small_model, [answered], [p + ending for p in pieces])[0]
                for ending in endings
            )
            probabilities = np.where(seen, 0, np.exp(ends) + np.exp(goes))
            expected = np.maximum(expected, probabilities)
            best = probabilities.argmax()
            seen[best] = True
            answered += pieces[best] + template.separator_ids
            if goes[best] <= ends[best]:
                break
        assert (chosen == seen).all()
        np.testing.assert_allclose(row, expected, rtol=2e-3)


@pytest.mark.parametrize("token_budget", [1, 90, 2000])
def test_questions_about_labels_are_answered_as_in_plain_passes(tiny_model, template, token_budget):
    """However many labels share a pass, each is asked about as if it were the only one."""
    prompts = [template.prompt_ids(text) for text in TEXTS]
    options = {"token_budget": token_budget, "compute_dtype": torch.float32}
    scores = score_questions(tiny_model, template, prompts, NAMES, **options)
    yes, no = (template.label_ids(word, first=True)[0] for word in ("Yes", "No"))
    for i, prompt in enumerate(prompts):
        for j, name in enumerate(NAMES):
            ids = template.with_question(prompt, name)
            with torch.inference_mode():
                logits = tiny_model(input_ids=torch.tensor([ids])).logits[0, -1]
            expected = logits[[yes, no]].softmax(-1)[0].item()
            assert scores[i, j] == pytest.approx(expected, abs=1e-4)


def test_what_is_given_of_an_answer_is_not_scored(tiny_model, template):
    prompts = [template.prompt_ids(text) for text in TEXTS]
    answers = [template.answer_ids(name) for name in NAMES]
    options = {"token_budget": 500, "compute_dtype": torch.float32}
    given = [len(answer) - 1 for answer in answers]
    scores = score_labels(tiny_model, prompts, answers, given=given, **options)
    for j, answer in enumerate(answers):
        read = [[*prompt, *answer[:-1]] for prompt in prompts]
        expected = [exhaustive(tiny_model, [ids], [answer[-1:]])[0, 0] for ids in read]
        np.testing.assert_allclose(scores[:, j], expected, atol=1e-3)


@pytest.mark.parametrize("search", [False, True])
def test_what_prompts_share_is_computed_once(make_backbone, search):
    small = make_backbone("lm", dtype="float32")
    embed, seen = small.model.embed_tokens, []
    embed.register_forward_hook(lambda m, inputs, _: seen.append(inputs[0].shape))
    shared, answers = list(range(100, 150)), [[8, 9, 2], [8, 2]]
    prompts = [[*shared, 5], [*shared, 6, 7]]
    options = {"token_budget": 50, "compute_dtype": torch.float32}
    if search:
        search_labels(small, prompts, answers, greedy=True, **options)
    else:
        score_labels(small, prompts, answers, **options)
    assert seen[0] == (1, 50)
    assert all(length <= 4 for _, length in seen[1:])  # a rest of two tokens, two nodes


def decode(model, template, space, strategy, **options):
    return decode_labels(
        model,
        template=template,
        prompts=[template.prompt_ids(text) for text in TEXTS],
        label_space=space,
        strategy=strategy,
        max_new_tokens=12,
        token_budget=500,
        compute_dtype=torch.float32,
        **options,
    )


def test_every_decoding_of_the_parameters_has_a_decoder():
    assert set(DECODERS) == set(DECODINGS)
    assert set(SET_DECODERS) == set(SET_DECODINGS)


@pytest.mark.parametrize("strategy", DECODINGS)
def test_free_answers_outside_the_set_predict_nothing_forced_ones_cannot_be(
    model, template, strategy
):
    """Counted as errors, not replaced and not dropped."""
    space = LabelSpace(("qqq", "zzz"))
    preds, scores = decode(model, template, space, strategy)
    assert scores.shape == (3, 2)
    if strategy == "generate":
        assert preds == [[], [], []]
        assert not scores.values.any()
    else:
        assert all(len(labels) == 1 for labels in preds)
        assert (scores.best() == [space.names.index(x[0]) for x in preds]).all()


def test_likelihoods_are_corrected_for_length_and_for_what_is_always_likely(model, template):
    space = LabelSpace(NAMES)
    texts = [template.answer_ids(name) for name in NAMES]
    options = {"token_budget": 500, "compute_dtype": torch.float32}
    raw = score_labels(model, [template.prompt_ids(text) for text in TEXTS], texts, **options)
    _, scores = decode(model, template, space, "score")
    np.testing.assert_allclose(scores, softmax(raw, axis=1), rtol=1e-3)
    _, scores = decode(model, template, space, "score_length")
    np.testing.assert_allclose(scores, softmax(raw / [len(t) for t in texts], axis=1), rtol=1e-3)
    neutral = score_labels(model, [template.prompt_ids(x) for x in NEUTRAL], texts, **options)
    _, scores = decode(model, template, space, "score_prior")
    expected = softmax(raw, axis=1) / softmax(neutral, axis=1).mean(axis=0)
    np.testing.assert_allclose(scores, expected / expected.sum(1, keepdims=True), rtol=2e-3)


def windowed(template, windows):
    return replace(template, max_length=4, windows=windows)


def test_a_long_document_has_a_prompt_per_window(template):
    asked = windowed(template, 2).prompt_ids(TEXTS[1])
    whole = template.prompt_ids(TEXTS[1])
    start, end = len(template.prefix_ids), len(template.suffix_ids)
    document = whole[start : len(whole) - end]
    assert [ids[start:-end] for ids in split_windows(asked)] == [document[:4], document[4:8]]
    assert windowed(template, 2).prompt_ids("x") == template.prompt_ids("x")
    ids, num = windowed(template, 2).with_answer(TEXTS[1], "gas")
    answer = template.answer_ids("gas")
    assert num == len(answer)
    assert split_windows(ids) == [[*prompt, *answer] for prompt in split_windows(asked)]
    question = windowed(template, 2).with_question(asked, "gas")
    assert split_windows(question) == [
        template.with_question(prompt, "gas") for prompt in split_windows(asked)
    ]


@pytest.mark.parametrize("strategy", AVERAGED)
def test_scores_of_a_documents_windows_are_averaged(tiny_model, template, strategy):
    sets, space = strategy in SET_DECODINGS and strategy != "score", LabelSpace(SETS)
    options = {"token_budget": 500, "compute_dtype": torch.float32}
    prompts = [windowed(template, 3).prompt_ids(text) for text in TEXTS]
    rows = [split_windows(prompt) for prompt in prompts]
    assert sorted(map(len, rows)) == [1, 2, 3]
    answers = [template.answer_ids(name) for name in SETS]
    for multi_label in (True, False) if strategy == "score" else (sets,):
        preds, scores = decode_labels(
            tiny_model, template=template, prompts=prompts, label_space=space, strategy=strategy,
            multi_label=multi_label, max_new_tokens=9, **options,
        )  # fmt: skip
        means = []
        for windows in rows:
            if multi_label and strategy == "score":
                found = score_label_sets(tiny_model, template, windows, SETS, **options)[1]
            elif multi_label:
                found = score_questions(tiny_model, template, windows, SETS, **options)
            else:
                found = score_labels(tiny_model, windows, answers, **options)
            means.append(found.mean(axis=0))
        expected = np.array(means)
        if not multi_label:
            if strategy == "score_length":
                expected = expected / [len(ids) for ids in answers]
            if strategy == "score_prior":
                neutral = [template.prompt_ids(text) for text in NEUTRAL]
                prior = softmax(score_labels(tiny_model, neutral, answers, **options), axis=1)
                expected = expected - np.log(prior.mean(axis=0))
            expected = softmax(expected, axis=1)
            assert preds == [[SETS[i]] for i in expected.argmax(axis=1)]
        np.testing.assert_allclose(scores.values, expected, rtol=2e-3, atol=1e-5)


def test_answers_without_scores_have_no_average(tiny_model, template):
    prompts = [windowed(template, 3).prompt_ids(text) for text in TEXTS]
    with pytest.raises(ValueError, match="'search' gives no scores to average over windows"):
        decode_labels(
            tiny_model, template=template, prompts=prompts, label_space=LabelSpace(SETS),
            strategy="search", max_new_tokens=9, token_budget=500, compute_dtype=torch.float32,
        )  # fmt: skip


def test_each_document_weighs_alike_in_the_loss_however_many_windows_it_has(tiny_model, template):
    def loss(*documents):
        examples = [{"id": "", "input_ids": ids, "target": num} for ids, num in documents]
        (batch,) = MicroBatchCollator(999, 2, packed=False)(examples)["micro_batches"]
        with torch.inference_mode():
            return answer_loss(tiny_model, batch, torch.float32).item()

    ids, num = windowed(template, 3).with_answer(TEXTS[1], NAMES[0])
    short = template.with_answer(TEXTS[0], NAMES[6])
    apart = [loss((window, num)) for window in split_windows(ids)]
    assert len(apart) == 3
    assert loss((ids, num)) == pytest.approx(np.mean(apart), rel=1e-4)
    assert loss((ids, num), short) == pytest.approx(np.mean(apart) + loss(short), rel=1e-4)


@pytest.mark.parametrize("strategy", SET_DECODINGS)
def test_label_sets_have_their_own_ladder(model, template, strategy):
    preds, scores = decode(model, template, LabelSpace(SETS), strategy, multi_label=True)
    assert len(preds) == 3
    assert scores.shape == (3, 4)
    assert all(len(set(labels)) == len(labels) for labels in preds)


@pytest.mark.parametrize(("strategy", "multi_label"), [("best", False), ("search", True)])
def test_strategies_that_do_not_apply_are_errors(model, template, strategy, multi_label):
    kind = "label sets" if multi_label else "single labels"
    with pytest.raises(ValueError, match=f"'{strategy}' does not answer with {kind}"):
        decode(model, template, LabelSpace(("a",)), strategy, multi_label=multi_label)


def test_an_empty_set_is_answered_where_its_word_is_likelier_than_any_label(small_model, template):
    options = {"token_budget": 512, "compute_dtype": torch.float32}
    prompts = [template.prompt_ids(text) for text in ("grain is up", "oil", "")]
    plain, scores = score_label_sets(small_model, template, prompts, SETS, **options)
    assert plain.any(axis=1).all()
    ends = [template.answer_ids(text) for text in ("none", *SETS)]
    found = score_labels(small_model, prompts, ends, **options)
    sets, with_none = score_label_sets(small_model, template, prompts, SETS, none="none", **options)
    likelier = found[:, 0] > np.log(np.maximum(scores.max(axis=1), 1e-30))
    assert not sets[likelier].any()
    assert (sets[~likelier] == plain[~likelier]).all()
    assert with_none.shape == scores.shape


def test_the_answer_of_a_search_has_the_highest_score_however_unlikely_it_is(monkeypatch):
    """Labels of very many tokens have likelihoods that float32 rounds to 0."""
    scores = np.array([[-np.inf, -110.0, -120.0], [-1.0, -2.0, -np.inf]], dtype=np.float32)
    monkeypatch.setattr("lib.prompt.decode.search_labels", lambda *_, **__: scores)
    space = LabelSpace(("a", "b", "c"))
    request = SimpleNamespace(model=None, prompts=[], answers=[], options={}, label_space=space)
    names, found = DECODERS["search"](request)
    assert names == [["b"], ["a"]]
    assert found.best().tolist() == [1, 0]
