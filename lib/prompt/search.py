"""The best label by search over the label trie, where scoring every label would cost more.

The pool of a prompt has beginnings of answers and whole answers, with their log-probabilities. A
"." is the end token.

```
one round behind one prompt     pool        choose     compute      expand the pool
                                ga    -0.2  ga         ga's state   gas.   -0.3  the answer
                                gr    -0.7  gr, near   gr's state   grain  -1.9
                                card. -4.0  (stays)                 card.  -4.0
```
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from lib.model.batches import micro_batches
from lib.model.parts import pretrained
from lib.model.probes import SCORE_TOLERANCE, UNABLE, in_float32, made_up_tokens, probes_of
from lib.prompt.branches import Answer, Branches, Recomputed
from lib.prompt.label_scores import Reader, next_log_probs, reads_trees, score_labels, shared_prefix
from lib.prompt.label_trie import LabelTrie, Step

# Per round, best-first search extends the most probable beginning, and others that it may need
# later: those at most `MAX_NATS_BEHIND` less probable (0.7 nats: half as probable), up to
# `MAX_EXTENDED` in all. Both are our choices (tests/benchmarks/NOTES.md).
MAX_EXTENDED, MAX_NATS_BEHIND = 8, 0.7


@torch.inference_mode()
@torch.compiler.set_stance("force_eager")
def search_labels(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    greedy: bool,
    token_budget: int,
    compute_dtype: torch.dtype,
) -> np.ndarray:
    """Log-probabilities, (N, C) float32, of the labels that a search finishes; -inf elsewhere.

    A prompt is computed once. Each round then computes the tokens that the search needs, up to
    where labels part next, each behind its own ancestors (tree attention, as in `score_labels`). If
    the model cannot read trees, each round computes the prompt and the answer so far anew. Prompts
    and answers are those of `score_labels`.

    Parameters
    ----------
    greedy
        True: the most probable token is taken wherever labels part. False: best-first search
        (uniform-cost search). Probabilities only fall along a path, so that the first whole label
        at the head of the pool is the most probable of all: the argmax of `score_labels`.
    token_budget
        Tokens that a batch of prompts holds, those of answers included. It is a guide: a best-first
        search that often goes back to less probable beginnings holds more.

    Raises
    ------
    InputError
        Two answers have the same tokens.
    """
    model = pretrained(model).eval()
    trie = LabelTrie.build(answers)
    scores = np.full((len(prompts), len(answers)), -np.inf, dtype=np.float32)
    if not prompts:
        return scores
    trees = reads_trees(model, prompts, trie)
    trees = trees and probes_of(model).ask("branches", lambda: _branches_exactly(model))
    reader = Reader(model, token_budget, compute_dtype)
    prefix, rests = shared_prefix(reader, prompts) if trees else (None, prompts)
    # A prompt takes about one column of the cache per extended beginning and round.
    added = (1 if greedy else MAX_EXTENDED) * max(trie.depths)
    for batch in micro_batches([added + len(rest) for rest in rests], token_budget):
        of_batch = [list(rests[i]) for i in batch]
        if trees:
            branches = Branches(reader, of_batch, trie, prefix)
        else:
            branches = Recomputed(reader, of_batch, trie)
        for i, finished in zip(batch, _search(branches, trie, greedy), strict=True):
            for answer in finished:
                scores[i, answer.label] = answer.score
    return scores


@torch.no_grad()
@torch.compiler.set_stance("force_eager")
def _branches_exactly(model: PreTrainedModel) -> bool:
    """True if a search in the model's cache ends with the scores that whole labels have."""
    shared, *ends, first, second = made_up_tokens(model, 9, 2, 5, 3, 3)
    prompts, answers = [shared + end for end in ends], [first, second]
    with in_float32(model) as exact:
        reader = Reader(model, 128, torch.float32 if exact else model.dtype)
        whole = score_labels(prompts=prompts, answers=answers, **reader._asdict())
        try:
            prefix, rests = shared_prefix(reader, prompts)
            trie = LabelTrie.build(answers)
            found = _search(Branches(reader, rests, trie, prefix), trie, greedy=False)
        except UNABLE:
            return False
    off = [
        abs(answer.score - scores[answer.label])
        for finished, scores in zip(found, whole, strict=True)
        for answer in finished
    ]
    return bool(max(off) <= SCORE_TOLERANCE[exact])


@dataclass
class _Search:
    """The search behind one prompt."""

    pool: list[Answer]  # answers that may still win, the most probable first
    computed: list[Answer]  # beginnings computed in the last round; the root before the first one

    def expand(
        self,
        log_probs: Iterator[list[float]],
        steps: list[list[Step]],
        chains: list[list[int]],
        num_kept: int | None,
    ) -> None:
        """Put the answers that extend computed beginnings into the pool, and keep its best.

        `log_probs` has the next tokens' of each node of their chains; `num_kept` None keeps all.
        """
        for answer in self.computed:
            *inside, last = chains[answer.node]
            # Tokens within the chain have no alternative; those behind it lead to new answers.
            score = answer.score + sum(next(log_probs)[0] for _ in inside)
            self.pool += [
                replace(answer, score=score + log_prob, node=step.node, label=step.label)
                for log_prob, step in zip(next(log_probs), steps[last], strict=True)
            ]
        self.pool = sorted(self.pool, key=lambda answer: -answer.score)[:num_kept]

    def choose(self, *, greedy: bool) -> list[Answer]:
        """The beginnings to compute next, taken out of the pool."""
        front = self.pool[: 1 if greedy else MAX_EXTENDED]
        if not greedy:  # a beginning behind a whole label in the pool cannot win against it
            near = [x for x in front if x.score >= front[0].score - MAX_NATS_BEHIND]
            front = list(takewhile(lambda answer: answer.label < 0, near))
        self.pool = self.pool[len(front) :]
        return front


def _search(branches: Branches | Recomputed, trie: LabelTrie, greedy: bool) -> list[list[Answer]]:
    """Whole labels in the final pool of each of B prompts, the most probable first."""
    steps, chains = trie.steps(), trie.chains()
    next_tokens = [  # of each node of the chain: one token within it, all alternatives behind it
        [*([trie.tokens[node]] for node in nodes[1:]), [step.token for step in steps[nodes[-1]]]]
        for nodes in chains
    ]
    searches = [_Search([], [Answer(0.0, 0, -1, ())]) for _ in branches.rests]
    active, states = searches, branches.start()
    while True:
        # Expand: score what may follow the beginnings that were computed.
        computed = [answer for search in active for answer in search.computed]
        tokens = [some for answer in computed for some in next_tokens[answer.node]]
        of_nodes = iter(next_log_probs(branches.reader, states, tokens))
        for search in active:
            search.expand(of_nodes, steps, chains, 1 if greedy else None)
        # A whole label at the head of the pool ends a search.
        rows = [row for row, search in enumerate(active) if search.pool[0].label < 0]
        if not rows:
            return [[x for x in search.pool if x.label >= 0] for search in searches]
        branches.keep(rows)
        active = [active[row] for row in rows]
        # Choose what to compute next, and compute it for all prompts at once.
        chosen = [search.choose(greedy=greedy) for search in active]
        extended, states = branches.grow(chosen, chains)
        for search, answers in zip(active, extended, strict=True):
            search.computed = answers
