"""Prompts and answers as token ids."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import NamedTuple, Self

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from lib.errors import ModelError
from lib.model.tokens import TextEncoder, text_encoder
from lib.prompt.answers import SEPARATOR

log = logging.getLogger(__name__)

MARK = "\x00document\x00"  # stands for the document while the template is cut to pieces
ANSWER = "\x00answer\x00"  # and for an example's answer
INSTRUCTION = "\x00instruction\x00"  # and for an instruction that spells a token of structure
NEUTRAL = ("N/A", "[MASK]", "")  # documents that say nothing (arXiv 2102.09690, section 5)
Example = tuple[str, Sequence[str]]  # a document and the texts of its labels
QUESTION = "\n\nAnswer Yes or No. Does this label apply: {label}?"  # ends where labels differ
YES, NO = "Yes", "No"
TODAY = datetime(2024, 7, 26)  # what a chat template is told; Llama 3.1's default
PLAIN_TEMPLATE = "{instruction}\n\nText: {document}\n\nAnswer:"


class Frame(NamedTuple):
    """The texts around two documents and their answers, the first of which is an example's."""

    start: str  # ahead of the first document
    example: str  # between it and its answer
    turn: str  # from the end of that answer to the next document
    suffix: str  # between the last document and its answer
    end: str  # behind the last answer


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt as token ids: `prefix_ids` + the document, truncated + `suffix_ids`.

    The parts are tokenized apart, so the loss mask follows from lengths and truncation can only
    ever touch a document. In documents, labels and the instruction, text that looks like a special
    token is text.

    An answer stands where the chat template writes one in its history, behind a header or a closed,
    empty thought. Some templates open a thought or a channel of thinking where an answer is to be
    generated: labels would be trained and scored inside it.

    Attributes
    ----------
    suffix
        Text of `suffix_ids`.
    lead
        A space between suffix and answer, which is tokenized with the answer.
    example_ids
        What stands between an example's document and its answer; like `suffix_ids`, unless the
        template writes earlier turns differently.
    turn_ids
        What stands between an example's answer and the next document, the end of the turn included.
    end_id
        What ends an answer: what the chat template writes there, or the tokenizer's end token.
    chat
        Whether the prompt is the tokenizer's own chat template.
    """

    tokenizer: PreTrainedTokenizerBase
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    suffix: str
    lead: str
    example_ids: tuple[int, ...]
    turn_ids: tuple[int, ...]
    end_id: int
    max_length: int
    chat: bool

    @classmethod
    def build(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        instruction: str,
        labels: Sequence[str] = (),
        multi_label: bool = False,
        none: str = "",
        max_length: int,
        plain: bool = False,
    ) -> Self:
        """Template for a tokenizer: its own chat template if it has one, a plain one otherwise.

        A chat template that writes the date (Llama 3.2, SmolLM3) writes `TODAY` whatever the day,
        so that runs repeat.

        Parameters
        ----------
        instruction
            What the model is asked to do, ahead of the document.
        labels
            Label texts to list after the instruction; none where they are left out.
        multi_label
            Whether the list is one to choose several from.
        none
            The answer where no label applies, if that happens.
        max_length
            Most tokens of the document; template, label list and answer come on top.
        plain
            Use the plain template whatever the tokenizer has.

        Raises
        ------
        ModelError
            The chat template has no place for a document and its answer, or nothing ends an answer.
        """
        if labels:
            several = f"one or several of these, with {SEPARATOR!r} between them"
            choice = several if multi_label else "one of"
            instruction = f"{instruction} Answer with {choice}: {', '.join(labels)}."
        if none:
            instruction += f" If none applies, answer with {none!r}."
        encode = text_encoder(tokenizer)
        spelled = set(_ids(tokenizer, instruction)) & encode.structure - {tokenizer.unk_token_id}
        shown = INSTRUCTION if spelled else instruction
        chat = bool(tokenizer.chat_template) and not plain
        frame = _chat_frame(tokenizer, shown) if chat else _plain_frame(shown)
        end_id = _end_id(tokenizer, encode, (frame.end, frame.turn) if chat else ())
        lead = " " if frame.suffix.endswith(" ") else ""
        suffix, example = (text.removesuffix(lead) for text in (frame.suffix, frame.example))
        start, *quoted = _ahead_of_text(tokenizer, frame.start).split(INSTRUCTION)
        prefix_ids = _ids(tokenizer, start)
        for text in quoted:
            prefix_ids += encode([instruction])[0] + _ids_behind(tokenizer, text)
        if not chat and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
            prefix_ids = [tokenizer.bos_token_id, *prefix_ids]  # a chat template writes its own
        turn_ids = _ids_behind(tokenizer, _ahead_of_text(tokenizer, frame.turn))
        return cls(
            tokenizer=tokenizer,
            prefix_ids=tuple(prefix_ids),
            suffix_ids=tuple(_ids_behind(tokenizer, suffix)),
            suffix=suffix,
            lead=lead,
            example_ids=tuple(_ids_behind(tokenizer, example)),
            turn_ids=tuple(turn_ids if chat else [end_id, *turn_ids]),
            end_id=end_id,
            max_length=max_length,
            chat=chat,
        )

    def render(self, document: str, examples: Sequence[Example] = ()) -> list[int]:
        """Prompt ids of one document, behind examples of other documents and their answers."""
        ids = list(self.prefix_ids)
        for text, labels in examples:
            ids += [*self._document_ids(text), *self.example_ids, *self.answer_ids(*labels)[:-1]]
            ids += self.turn_ids
        return [*ids, *self._document_ids(document), *self.suffix_ids]

    def _document_ids(self, document: str) -> list[int]:
        return self._encode([document], max_length=self.max_length)[0]

    def render_with_answer(self, document: str, *labels: str) -> tuple[list[int], int]:
        """Ids of prompt + answer + end token, and how many of them, at the end, are supervised."""
        answer_ids = self.answer_ids(*labels)
        return self.render(document) + answer_ids, len(answer_ids)

    def ask(self, prompt: Sequence[int], label: str) -> list[int]:
        """A rendered prompt that also asks, behind its document, whether a label applies."""
        document = list(prompt[: len(prompt) - len(self.suffix_ids)])
        return document + self.question_ids(label)

    def question_ids(self, label: str) -> list[int]:
        """Ids from the end of a document to where Yes or No is answered about a label."""
        self.piece_ids(label, first=True)  # refuses one that tokenizes to nothing
        return [*self._text_behind("a", QUESTION.format(label=label)), *self.suffix_ids]

    def answer_ids(self, *labels: str) -> list[int]:
        """Ids of a whole answer with its end token, so that lengths do not decide between labels.

        A set's labels and the ";" between them are tokenized apart, so that each label has the same
        tokens in every set.

        Raises
        ------
        ValueError
            A label tokenizes to nothing.
        """
        ids = self.piece_ids(labels[0], first=True)
        for label in labels[1:]:
            ids += self.separator_ids + self.piece_ids(label, first=False)
        return [*ids, self.end_id]

    def piece_ids(self, label: str, *, first: bool) -> list[int]:
        """Ids of one label of an answer, at its start or behind a separator."""
        if not label.strip() or not self._encode([label])[0]:
            raise ValueError(f"label {label!r} tokenizes to nothing, so it cannot be an answer")
        if not first:
            return self._text_behind(SEPARATOR, f" {label}")
        start, ids = self._suffix_alone, _ids(self.tokenizer, self.suffix + self.lead + label)
        behind = ids[len(start) :]
        if behind and ids[: len(start)] == start and self._encode.structure.isdisjoint(behind):
            return behind
        return self._text_behind(SEPARATOR, f" {label}") if self.lead else self._encode([label])[0]

    @property
    def separator_ids(self) -> list[int]:
        """Ids of what stands between two labels."""
        return self._text_behind("a", SEPARATOR)

    @cached_property
    def _encode(self) -> TextEncoder:
        return text_encoder(self.tokenizer)

    @cached_property
    def _suffix_alone(self) -> list[int]:
        return _ids(self.tokenizer, self.suffix)

    def _text_behind(self, before: str, text: str) -> list[int]:
        """Ids of a text as it continues another, to which some tokenizers add no space."""
        return _continued(lambda part: self._encode([part])[0], before, text)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text of a template, in which special tokens are read."""
    options = {"add_special_tokens": False, "split_special_tokens": False, "verbose": False}
    return list(tokenizer(text, **options).input_ids)


def _ids_behind(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text of a template behind a document, an answer or an instruction."""
    return _continued(lambda part: _ids(tokenizer, part), "a", text)


def _continued(encode: Callable[[str], list[int]], before: str, text: str) -> list[int]:
    """Ids of a text behind another one; of it alone where the two melt together."""
    start, ids = encode(before), encode(before + text)
    return ids[len(start) :] if ids[: len(start)] == start else encode(text)


def _ahead_of_text(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Text of a template ahead of a document, without the space that the tokenizer adds to that."""
    adds_space = _ids(tokenizer, "a") == _continued(lambda x: _ids(tokenizer, x), "b", " a")
    return text.removesuffix(" ") if adds_space else text


def _end_id(tokenizer: PreTrainedTokenizerBase, encode: TextEncoder, behind: Sequence[str]) -> int:
    """The token of structure that the texts behind an answer begin with, or the end token."""
    tokens = {tokenizer.convert_ids_to_tokens(i): i for i in encode.structure}
    tokens = {token: i for token, i in tokens.items() if i != tokenizer.bos_token_id}
    for text in behind:
        if begins := [token for token in tokens if text.lstrip().startswith(token)]:
            return tokens[max(begins, key=len)]  # such as Gemma's <end_of_turn>
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{tokenizer.name_or_path}: the tokenizer has no eos_token, so that nothing ends an "
            "answer; name one in its tokenizer_config.json"
        )
    return tokenizer.eos_token_id


def _plain_frame(instruction: str) -> Frame:
    start, between = PLAIN_TEMPLATE.format(instruction=instruction, document=MARK).split(MARK)
    return Frame(start, f"{between} ", "\n\nText: ", f"{between} ", "")


def _chat_frame(tokenizer: PreTrainedTokenizerBase, instruction: str) -> Frame:
    """Text of the chat template around two documents and their answers.

    Tried in turn: contents as strings and as lists of parts; the instruction as a message of the
    system and in the first turn; a history that ends with an answer, as in training, and one that
    does not.

    Raises
    ------
    ModelError
        The template takes none of these, or drops some of them.
    """
    name, reason = tokenizer.name_or_path, "the tokenizer's chat template drops the user's message"
    for content in (str, lambda text: [{"type": "text", "text": text}]):
        user = {"role": "user", "content": content(MARK)}
        answer = {"role": "assistant", "content": content(ANSWER)}
        system = {"role": "system", "content": content(instruction)}
        merged = {"role": "user", "content": content(f"{instruction}\n\n{MARK}")}
        for first in ([system, user], [merged]):  # some refuse a system message or move it away
            for last in ([answer], []):
                history = [*first, answer, user, *last]
                try:
                    text = _render_chat(tokenizer, history)
                except Exception as error:  # a template is code, and may raise anything
                    if content is str:
                        reason = f"its chat template fails: {' '.join(str(error).split())}"
                    continue
                expected = [MARK, ANSWER, MARK, ANSWER][: len(history) - len(first) + 1]
                parts = re.split(f"{MARK}|{ANSWER}", text)
                found = re.findall(f"{MARK}|{ANSWER}", text) == expected
                if found and instruction.strip() in parts[0]:
                    frame = Frame(*parts) if last else Frame(*parts[:3], parts[1], "")
                    _report_generation(tokenizer, history[: len(first) + 2], frame)
                    return frame
    raise ModelError(f'{name}: {reason}; set template: "plain"')


def _render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], *, generation: bool = False
) -> str:
    template = tokenizer.get_chat_template()
    _compile_jinja_template(template).globals["strftime_now"] = TODAY.strftime
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=generation, enable_thinking=False
    )


def _report_generation(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], frame: Frame
) -> None:
    """Log where the template would have the model generate, if it writes no answer there."""
    try:
        opened = _render_chat(tokenizer, messages, generation=True).split(MARK)[-1]
    except Exception:  # it is not used
        return
    if opened != frame.suffix:
        log.info(
            "%s: answers stand behind %r, as in the chat template's history; to generate, the "
            "template writes %r", tokenizer.name_or_path, frame.suffix, opened,
        )  # fmt: skip
