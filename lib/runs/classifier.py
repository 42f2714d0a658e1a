"""A finished run as a classifier for new texts, whichever approach trained it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from numbers import Integral
from pathlib import Path
from threading import Lock

import numpy as np
from sklearn.utils.metaestimators import available_if

from lib.config.arms import NOTEBOOK_PARAMS, StudyParams
from lib.config.strict_yaml import parse_params
from lib.data.labels import LabelSpace
from lib.errors import InputError, ModelError
from lib.evaluation.scores import Labels, Scores
from lib.model.weights import load_config, model_fingerprint
from lib.runs.finished import read_label_space, read_params, read_threshold, require_whole
from lib.runs.record import INPUTS
from lib.runs.scoring import load_scorer, measure_of

FIRST_CHUNK = 32  # texts (our choice)


def _gives_probabilities(classifier: "Classifier") -> bool:
    if classifier.measure == "probability" and classifier.ranks:
        return True
    kind = "decision values" if classifier.ranks else "answers"
    raise AttributeError(f"this run gives {kind}, and no probability of each label")


@dataclass(frozen=True)
class Classifier:
    """Labels for texts; made by `load_classifier`. Several threads may share it: they take turns.

    Methods and `classes_` are named as scikit-learn names them; answers are lists. `measure` and
    `ranks` are those of `lib.runs.scoring.Measure`.
    """

    label_space: LabelSpace
    score_texts: Callable[[Sequence[str]], Scores]  # of texts without spaces around them
    multi_label: bool
    threshold: float | None  # least score of a label in a set; None: one label, or generated sets
    measure: str = "probability"
    ranks: bool = True
    _turn: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def classes_(self) -> np.ndarray:
        """Names of the C labels, in the order of the columns of `predict_proba`."""
        return np.array(self.label_space.names)

    def predict_scores(self, texts: Sequence[str]) -> Scores:
        """Scores of N texts; `values` is (N, C) float, in label order, unless C is large.

        They are probabilities that add up to 1 if a text has one label, a probability for each
        label if it may have several, 1 or 0 if answers are generated, and decision values of the
        support vector machine for TF-IDF. Spaces around a text are no part of it.

        Raises `InputError` for texts that are not `readable`, and `ModelError` if a score is NaN.
        """
        texts = readable(texts)
        if not texts:
            return Scores(np.zeros((0, len(self.label_space)), dtype=np.float32))
        with self._turn:
            scores = self.score_texts(texts)
        if np.isnan(scores.values).any():
            raise ModelError("the model's scores are no numbers: its weights are damaged")
        return scores

    @available_if(_gives_probabilities)
    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities of the labels, (N, C), in the order of `classes_`.

        As in scikit-learn, a classifier without probabilities (TF-IDF; a prompt that is answered
        freely or by a search) has no such method: `AttributeError`.
        """
        return np.asarray(self.predict_scores(texts))

    def predict(self, texts: Sequence[str]) -> list[str] | list[list[str]]:
        """The best label of each text, or its list of labels; "" if a free answer is no label."""
        return self.labels_of(self.predict_scores(texts))

    def predict_top_k(self, texts: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
        """The k best labels of each text with their scores, the best first; see `require_ranks`."""
        self.require_ranks(k)
        return self.best_of(self.predict_scores(texts), k)

    def require_ranks(self, k: int) -> None:
        """Raise `InputError` unless the run ranks labels, and has k of them."""
        if not self.ranks:
            raise InputError("top k: this run answers without a score of each label; leave it out")
        if not (isinstance(k, Integral) and 1 <= k <= len(self.label_space)):
            raise InputError(
                f"top k: {k!r}; write a whole number from 1 to {len(self.label_space):,}"
            )

    def labels_of(self, scores: Scores) -> list[str] | list[list[str]]:
        """The answers that `predict` gives for `predict_scores`."""
        if self.multi_label:
            return self.label_space.to_names(self.sets_of(scores))
        names = [self.label_space.names[column] for column in scores.best()]
        if self.measure:
            return names
        answered = scores.values.max(axis=1) > 0
        return [name if found else "" for name, found in zip(names, answered, strict=True)]

    def sets_of(self, scores: Scores) -> Labels:
        """Label sets, (N, C) bool, for `predict_scores`."""
        if self.threshold is None:  # generated sets: 1 at their labels, all 0 if none was named
            return scores.labels_above(1.0, may_be_empty=True)
        return scores.labels_above(self.threshold, may_be_empty=self.label_space.may_be_empty)

    def best_of(self, scores: Scores, k: int) -> list[list[tuple[str, float]]]:
        """The answers that `predict_top_k` gives for `predict_scores`."""
        order = np.argsort(-scores.values, axis=1, kind="stable")[:, :k]
        columns = np.take_along_axis(scores.columns, order, axis=1)
        values = np.take_along_axis(scores.values, order, axis=1)
        names = self.label_space.names
        return [
            [(names[c], float(v)) for c, v in zip(*row, strict=True)]
            for row in zip(columns, values, strict=True)
        ]

    def predict_stream(
        self, texts: Iterable[str], *, chunk_size: int = 4096
    ) -> Iterator[str | list[str]]:
        """As `predict`, one answer after the other, for more texts than memory holds.

        Texts are read and answered in chunks that grow from `FIRST_CHUNK` to `chunk_size`: the
        first answers come soon. Small chunks may be computed without the compiler
        (`lib.model.forward.maybe_compiled`), so that their scores are rounded otherwise.

        Raises `InputError` as `predict` does; its message counts texts within their chunk.
        """
        if chunk_size < 1:
            raise InputError(f"chunk_size: {chunk_size}; write 1 or more")
        remaining, size = iter(texts), min(FIRST_CHUNK, chunk_size)
        while chunk := list(islice(remaining, size)):
            yield from self.predict(chunk)
            size = min(2 * size, chunk_size)


def readable(texts: Iterable[str]) -> list[str]:
    """The texts without spaces around them.

    Raises `InputError` for one text instead of several, a table or texts without an order, and for
    an item that is no `str`, is empty or is no valid Unicode.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise InputError(f"texts: {type(texts).__name__}, not a list of texts; write [text]")
    if isinstance(texts, Mapping | Set) or getattr(texts, "ndim", 1) != 1:  # such as a DataFrame
        raise InputError(f"texts: {type(texts).__name__}, not a list of texts; name one column")
    texts = list(texts)
    for number, text in enumerate(texts, 1):
        place = f"text {number} of {len(texts)}"
        if not isinstance(text, str):
            raise InputError(f"{place} is {type(text).__name__}, not a text (str)")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place}: character {error.start + 1} is half of a surrogate pair, no text"
            ) from None
        if not text.strip():
            raise InputError(f"{place} is empty; leave it out")
    return [text.strip() for text in texts]


def load_classifier(
    run_dir: str | Path, *, every_label: bool = False, int8: bool = False
) -> Classifier:
    """The classifier that a finished run of notebook 02, 03 or 04 has saved, which answers alike.

    Parameters
    ----------
    every_label
        Where a prompt for one label is answered freely or by a search, score every label instead
        (`decoding: "score"`), so that each has a probability; slower.
    int8
        Compute with int8 weights, which gives nearly the same answers: see `load_scorer`.

    Raises
    ------
    InputError
        The folder holds no finished run, or one that was changed since; see also `load_scorer`.
    """
    folder = Path(run_dir)
    params, label_space = read_run(folder)
    if every_label and not (params.multi_label or measure_of(params).ranks):
        params = params.model_copy(update={"decoding": "score"})
    threshold = read_threshold(folder)
    score = load_scorer(params, label_space, folder / "model", int8=int8)
    return Classifier(label_space, score, params.multi_label, threshold, *measure_of(params))


def read_run(folder: Path) -> tuple[StudyParams, LabelSpace]:
    """The parameters and the labels of a finished run.

    Raises `InputError` if the run is not whole (`require_whole`), was written by a notebook that
    this version does not have, or has a base model that has changed since.
    """
    require_whole(folder)
    given, file = read_params(folder), folder / "params.yaml"
    values = {k: v for k, v in given.items() if k not in INPUTS and not k.startswith("search")}
    if str(values.get("notebook")) not in NOTEBOOK_PARAMS:
        raise InputError(f"{file}: names no notebook of this version; run the arm again")
    params = parse_params(NOTEBOOK_PARAMS[values["notebook"]], values, source=str(file))
    recorded = str(given.get("model_fingerprint", "none"))
    name, _, commit = recorded.rpartition("@")
    if name == params.model_id and not params.model_revision:  # a hub's branch moves on
        params = params.model_copy(update={"model_revision": commit})
    _require_same_base(folder, params, recorded)
    return params, read_label_space(folder)


def _require_same_base(folder: Path, params: StudyParams, recorded: str) -> None:
    """Raise `ModelError` if a run's model is not the one that was recorded when it was trained."""
    if recorded == "none":
        return
    load_config(params.model_id, params.model_revision)  # a hub's commit is known once it is here
    found = model_fingerprint(params.model_id, params.model_revision)
    if params.model_id not in (recorded, found) and found != recorded:
        raise ModelError(
            f"{params.model_id}: the base model has changed since the run in {folder}: its "
            f"fingerprint is {found}, not {recorded}; bring that model back or run the arm again"
        )
