"""Texts around a document and its answer, cut out of a tokenizer's chat template."""

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count, product
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from lib.errors import ModelError

log = logging.getLogger(__name__)

DOCUMENT = "\x00document\x00"  # marks the document while the template is cut to pieces
ANSWER = "\x00answer\x00"  # and an example's answer
MAX_STEPS = 1_000_000  # of one rendering; the longest templates take some thousands (our choice)
TODAY = datetime(2024, 7, 26)  # date of every chat template; Llama 3.1's default
PLAIN_TEMPLATE = "{instruction}\n\nText: {document}\n\nAnswer:"


class Frame(NamedTuple):
    """The texts around two documents and their answers, the first of which is an example's.

    ```
    start <example's document> example <its answer> turn <document> suffix <answer> end
    ```
    """

    start: str
    example: str
    turn: str  # from the end of the example's answer to the next document
    suffix: str
    end: str


def plain_frame(instruction: str) -> Frame:
    """Frame of `PLAIN_TEMPLATE`, for tokenizers without a chat template."""
    text = PLAIN_TEMPLATE.format(instruction=instruction, document=DOCUMENT)
    start, between = text.split(DOCUMENT)
    return Frame(start, f"{between} ", "\n\nText: ", f"{between} ", "")


def chat_frame(tokenizer: PreTrainedTokenizerBase, instruction: str) -> Frame:
    """Frame of the tokenizer's own chat template.

    A conversation of marked documents and answers is rendered and cut at the marks:

    ```
    <|user|>Topic? DOCUMENT<|end|><|assistant|>ANSWER<|end|><|user|>DOCUMENT ...
    start = "<|user|>Topic? ", example = "<|end|><|assistant|>", turn = "<|end|><|user|>", ...
    ```

    Templates differ in what they accept. All combinations are tried in turn: contents as strings or
    as lists of parts; the instruction as a system message or in the first turn; a history that ends
    with an answer or one that does not.

    Raises
    ------
    ModelError
        The template accepts no combination, drops a part of each, or takes too long.
    """
    name, reason = tokenizer.name_or_path, "the tokenizer's chat template drops the user's message"
    for content in (str, lambda text: [{"type": "text", "text": text}]):
        user = {"role": "user", "content": content(DOCUMENT)}
        answer = {"role": "assistant", "content": content(ANSWER)}
        system = {"role": "system", "content": content(instruction)}
        merged = {"role": "user", "content": content(f"{instruction}\n\n{DOCUMENT}")}
        # Some templates refuse a system message, or do not write it ahead of the document.
        for first, last in product(([system, user], [merged]), ([answer], [])):
            history = [*first, answer, user, *last]
            try:
                text = _render_chat(tokenizer, history)
            except ModelError:
                raise
            except Exception as error:  # a template is code, and may raise anything
                if content is str:
                    reason = f"its chat template fails: {' '.join(str(error).split())}"
                continue
            parts = re.split(f"({DOCUMENT}|{ANSWER})", text)
            texts, marks = parts[::2], parts[1::2]
            expected = [DOCUMENT, ANSWER, DOCUMENT, ANSWER][: 3 + len(last)]
            if marks == expected and instruction.strip() in texts[0]:
                frame = Frame(*texts) if last else Frame(*texts[:3], texts[1], "")
                _report_generation(tokenizer, history[: len(first) + 2], frame)
                return frame
    raise ModelError(f'{name}: {reason}; set template: "plain"')


def writes_date(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> bool:
    """True if the chat template puts the date into a prompt.

    Here it is always `TODAY`; software that serves the model elsewhere writes the day's own.
    """
    # `TODAY` comes last, since a compiled template keeps the date that it was last given.
    days = (TODAY.replace(year=TODAY.year - 1, month=1, day=2), TODAY)
    prompts = [_render_chat(tokenizer, messages, generation=True, today=day) for day in days]
    return prompts[0] != prompts[1]


def _render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    *,
    generation: bool = False,
    today: datetime = TODAY,
) -> str:
    """A conversation as the chat template writes it on a day; `ModelError` if it takes too long."""
    template = tokenizer.get_chat_template()
    _compile_jinja_template(template).globals["strftime_now"] = today.strftime
    with _at_most(MAX_STEPS, f"{tokenizer.name_or_path}: its chat template goes on and on"):
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation, enable_thinking=False
        )


@contextlib.contextmanager
def _at_most(steps: int, message: str) -> Iterator[None]:
    """Raise `ModelError` if a block takes more steps than this: calls and lines of Python."""
    before, taken = sys.gettrace(), count()

    def trace(*_: Any) -> Callable:
        if next(taken) > steps:
            raise ModelError(f'{message} (over {steps:,} steps); set template: "plain"')
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _report_generation(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], frame: Frame
) -> None:
    """Log what the template writes ahead of a generated answer, if not what `frame` has there."""
    try:
        opened = _render_chat(tokenizer, messages, generation=True).split(DOCUMENT)[-1]
    except Exception:  # it is not used
        return
    if opened != frame.suffix:
        log.info(
            "%s: answers follow %r, as in the chat template's history; to generate, the template "
            "writes %r", tokenizer.name_or_path, frame.suffix, opened,
        )  # fmt: skip
