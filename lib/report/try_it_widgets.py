"""Controls of 07_try_it: a text to answer, and errors to read and relabel.

A page without a kernel, such as an executed notebook, shows one line in their place.
"""

import math
from collections.abc import Callable
from html import escape
from itertools import chain
from typing import Any

import ipywidgets as widgets

from lib.errors import InputError
from lib.report.corrections import write_correction
from lib.report.try_it import TryIt
from lib.report.wording import printable

FALLBACK = (
    "<p><em>Controls are here while a kernel runs: open this notebook with make lab.</em></p>"
)
TEXT = '<div class="tex2jax_ignore mathjax_ignore" style="white-space: pre-wrap; max-width: 60em">'


class Controls(widgets.VBox):
    """A column of widgets with a line of HTML for pages that cannot show them."""

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        return super()._repr_mimebundle_(**options) | {"text/html": FALLBACK}


def ask(trial: TryIt, text: str) -> Controls:
    """A field with a `text` that all arms answer and explain, at the press of a button."""
    field = widgets.Textarea(text, layout={"width": "60em", "height": "8em"})
    button = widgets.Button(description="answer", tooltip="answer and explain")
    message, shown = widgets.HTML(), widgets.HTML()

    def answer(_: Any) -> None:
        shown.value = ""
        message.value = "…"
        shown.value = trial.show_answers(field.value).to_html() + trial.figure(field.value)
        message.value = ""

    button.on_click(_in_one_line(answer, message))
    return Controls([field, widgets.HBox([button, message]), shown])


def review(trial: TryIt) -> Controls:
    """Errors by approach, label and least score, one by one, with a field for a better label.

    A saved label is added to `TryIt.corrections_file`.
    """
    # Controls
    space = trial.label_space.names
    arm = widgets.Dropdown(options=list(trial.runs.index), description="approach")
    names = sorted(set(chain.from_iterable(trial.documents["labels"])))
    options = [("(all)", ""), *((printable(name), name) for name in names)]
    label = widgets.Dropdown(options=options, description="label")
    least = widgets.FloatText(0.0, description="score from", step=0.05)
    number = widgets.BoundedIntText(1, min=1, max=1, description="error")
    found, shown, message = widgets.Label(), widgets.HTML(), widgets.HTML()
    better = widgets.Combobox(options=list(space), description="label is", ensure_option=False)
    is_new = widgets.Checkbox(description="a new label", indent=False)
    replace = widgets.Checkbox(description="replace an earlier correction", indent=False)
    button = widgets.Button(description="save", tooltip="add to corrections.csv")
    rows: list[int] = []

    def turn(_: Any = None) -> None:
        scores = trial.errors_of(arm.value)[f"{arm.value} score"]
        least.value = math.floor(100 * min(scores, default=0)) / 100
        choose()

    def choose(_: Any = None) -> None:
        rows[:] = trial.errors_of(arm.value, label=label.value, least=least.value).index
        found.value = f"of {len(rows):,}"
        number.max, number.value = max(len(rows), 1), 1
        show()

    def show(_: Any = None) -> None:
        message.value = better.value = ""
        shown.value = error_html(trial, rows[number.value - 1]) if rows else "no such error"

    def save(_: Any) -> None:
        if not rows:
            raise InputError("no error is shown")
        document = trial.documents[rows[number.value - 1]]
        delimiter = trial.params.label_delimiter or ";"
        given = better.value.split(delimiter) if trial.multi_label else [better.value]
        saved = write_correction(
            trial.corrections_file,
            document=document["id"],
            text=document["text"],
            old=document["labels"],
            new=[name.strip() for name in given if name.strip()],
            known=space,
            delimiter=delimiter,
            allow_new=is_new.value,
            replace=replace.value,
            may_be_empty=trial.label_space.may_be_empty,
        )
        message.value = f"{len(saved):,} in {escape(str(trial.corrections_file))}"

    # Controls react, and the first error is shown
    for widget, react in ((arm, turn), (label, choose), (least, choose), (number, show)):
        widget.observe(react, "value")
    button.on_click(_in_one_line(save, message))
    turn()
    above = map(widgets.HBox, ([arm, label, least], [number, found]))
    below = widgets.HBox([better, is_new, replace, button])
    return Controls([*above, shown, below, message])


def error_html(trial: TryIt, row: int) -> str:
    """A test document as HTML, escaped: its id, its labels, each arm's answer, its text.

    `row` is a place in `trial.documents`, of a document in `trial.errors`.
    """
    document, answered = trial.documents[row], trial.errors.loc[row]
    lines = [f"<b>{escape(answered['id'])}</b> · labelled {escape(answered['true'])}"]
    lines += [
        f"{escape(arm)}: {escape(answered[arm])} ({answered[f'{arm} score']:.3f})"
        for arm in trial.runs.index
    ]
    return f"{'<br>'.join(lines)}{TEXT}{escape(printable(document['text']))}</div>"


def _in_one_line(react: Callable[[Any], None], message: widgets.HTML) -> Callable[[Any], None]:
    """The reaction, with its `InputError` shown as a line in `message`."""

    def safe(event: Any) -> None:
        try:
            react(event)
        except InputError as error:
            message.value = escape(str(error))

    return safe
