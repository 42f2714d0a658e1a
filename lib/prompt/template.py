"""Prompts and answers as token ids."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lib.config.arms import InstructionParams
from lib.data.labels import LabelSpace
from lib.errors import InputError, ModelError
from lib.model.tokens import TextEncoder, context_limit, text_encoder
from lib.model.windows import map_windows
from lib.prompt.answers import SEPARATOR
from lib.prompt.frame import chat_frame, plain_frame

logger = logging.getLogger(__name__)

INSTRUCTION = "\x00instruction\x00"  # marks an instruction that spells a token of structure
NEUTRAL = ("N/A", "[MASK]", "")  # documents without content (arXiv 2102.09690, section 5)
# The label comes last, so that the questions about all labels share their beginning.
QUESTION = "\n\nAnswer Yes or No. Does this label apply: {label}?"
YES, NO = "Yes", "No"
EXTRA_ANSWER_TOKENS = 8  # most tokens of a free answer beside its labels; our choice
Example = tuple[str, Sequence[str]]  # a document and the texts of its labels


def build_template(
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    label_space: LabelSpace,
    params: InstructionParams,
) -> tuple["PromptTemplate", LabelSpace]:
    """The prompt of a run, and the labels with their texts in prompts and answers.

    The list of labels is left out, with a warning, if it leaves no room in the model's context for
    a document and examples of `max_length` tokens each, with one label per answer. Answers with
    several labels may need more: `lib.prompt.inputs.require_room` refuses a run that has no room.

    Raises
    ------
    ModelError
        See `PromptTemplate.build`.
    """
    prompt_labels = label_space.verbalized(params.verbalizer)
    options = {
        "instruction": params.instruction,
        "multi_label": params.multi_label,
        "none": prompt_labels.none,
        "max_length": params.max_length,
        "windows": params.windows,
        "plain": params.template == "plain",
    }
    if params.labels_in_prompt:
        listed = label_list(prompt_labels, label_space)
        template = PromptTemplate.build(tokenizer, labels=listed, **options)
        # Tokens of the longest prompt with its answers, against the model's context.
        answer = max(len(template.answer_ids(text)) for text in prompt_labels.texts)
        turn = params.max_length + answer + EXTRA_ANSWER_TOKENS
        frame = len(template.prefix_ids) + len(template.suffix_ids)
        needed = frame + (params.num_examples + 1) * turn
        limit = context_limit(config)
        if limit is None or needed <= limit:
            return template, prompt_labels
        logger.warning(
            f"the {len(prompt_labels):,} labels are left out of the prompt: with their list of "
            f"{len(template.prefix_ids):,} tokens it takes {needed:,} of a context of {limit:,}"
        )
    return PromptTemplate.build(tokenizer, **options), prompt_labels


def label_list(prompt_labels: LabelSpace, label_space: LabelSpace) -> list[str]:
    """Label texts for a prompt; a code is followed by its meaning in brackets: "A (farming)".

    The texts of `prompt_labels` may be codes; those of `label_space` are the meanings.
    """
    return [
        text if meaning == text else f"{text} ({meaning})"
        for text, meaning in zip(prompt_labels.texts, label_space.texts, strict=True)
    ]


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt as token ids: `prefix_ids` + the document, truncated + `suffix_ids`.

    A document of several windows has a prompt per window (`lib.model.windows`).

    The parts are tokenized apart, so that the loss mask follows from lengths, and only documents
    are truncated. In documents, labels and the instruction, text that looks like a special token is
    text.

    An answer follows what the chat template writes ahead of an earlier answer in a conversation.
    Where an answer is to be generated, some templates open a thought instead; labels would then be
    trained and scored inside that thought.
    """

    tokenizer: PreTrainedTokenizerBase
    instruction: str  # with the labels that it lists
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    suffix: str  # the text of `suffix_ids`
    lead: str  # a space between suffix and answer, which is tokenized with the answer
    example_ids: tuple[int, ...]  # between an example's document and its answer
    turn_ids: tuple[int, ...]  # from the end of an example's answer to the next document
    end_id: int  # ends an answer: the chat template's token, or the tokenizer's
    max_length: int  # tokens of a window of the document
    chat: bool  # true if the prompt is the tokenizer's own chat template
    windows: int = 1  # most windows of a document

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
        windows: int = 1,
        plain: bool = False,
    ) -> Self:
        """Template for a tokenizer: its own chat template if it has one, a plain one otherwise.

        A chat template that writes the date (Llama 3.2, SmolLM3) writes `lib.prompt.frame.TODAY`,
        so that runs repeat.

        Parameters
        ----------
        instruction, labels
            The task, ahead of the document, and the label texts to list behind the task.
        multi_label
            True if several of the listed labels may be chosen.
        none
            The answer where no label applies; "" if every document has a label.
        max_length, windows
            Most tokens of a window of the document, and most windows of it.
        plain
            True for the plain template even if the tokenizer has one of its own.

        Raises
        ------
        ModelError
            The chat template has no place for a document and its answer, or nothing ends an answer.
        """
        # The instruction, with the labels to choose from.
        if labels:
            several = f"one or several of these, with {SEPARATOR!r} between them"
            choice = several if multi_label else "one of"
            instruction = f"{instruction} Answer with {choice}: {', '.join(labels)}."
        if none:
            instruction += f" If none applies, answer with {none!r}."

        # Texts around document and answer. An instruction that spells a token of structure, such
        # as </s>, is replaced by a mark, so that it can be tokenized as plain text.
        encode = text_encoder(tokenizer)
        spelled = set(_ids(tokenizer, instruction)) & encode.structure - {tokenizer.unk_token_id}
        shown = INSTRUCTION if spelled else instruction
        chat = bool(tokenizer.chat_template) and not plain
        frame = chat_frame(tokenizer, shown) if chat else plain_frame(shown)
        end_id = _end_id(tokenizer, encode, (frame.end, frame.turn) if chat else ())
        lead = " " if frame.suffix.endswith(" ") else ""
        suffix, example = (text.removesuffix(lead) for text in (frame.suffix, frame.example))

        # Token ids of each part. A chat template writes its own begin token.
        start, *quoted = _ahead_of_text(tokenizer, frame.start).split(INSTRUCTION)
        prefix_ids = _ids(tokenizer, start)
        for text in quoted:
            prefix_ids += encode([instruction])[0] + _ids_behind(tokenizer, text)
        if not chat and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
            prefix_ids = [tokenizer.bos_token_id, *prefix_ids]
        turn_ids = _ids_behind(tokenizer, _ahead_of_text(tokenizer, frame.turn))
        return cls(
            tokenizer=tokenizer,
            instruction=instruction,
            prefix_ids=tuple(prefix_ids),
            suffix_ids=tuple(_ids_behind(tokenizer, suffix)),
            suffix=suffix,
            lead=lead,
            example_ids=tuple(_ids_behind(tokenizer, example)),
            turn_ids=tuple(turn_ids if chat else [end_id, *turn_ids]),
            end_id=end_id,
            max_length=max_length,
            chat=chat,
            windows=windows,
        )

    def prompt_ids(self, document: str, examples: Sequence[Example] = ()) -> list[int]:
        """Token ids of one document's prompt, with examples and their answers ahead of it.

        A document of several windows has a prompt per window, as `Windows`. Of an example, up to
        `max_length` tokens are read.
        """
        ids = list(self.prefix_ids)
        for text, labels in examples:
            ids += self._encode([text], max_length=self.max_length)[0]
            ids += [*self.example_ids, *self.answer_ids(*labels)[:-1], *self.turn_ids]
        read = self._encode([document], max_length=self.max_length, windows=self.windows)[0]
        return map_windows(lambda window: [*ids, *window, *self.suffix_ids], read)

    def with_answer(self, document: str, *labels: str) -> tuple[list[int], int]:
        """Ids of prompt + answer + end token, and the number of tokens behind the prompt."""
        answer_ids = self.answer_ids(*labels)
        prompt = self.prompt_ids(document)
        return map_windows(lambda ids: [*ids, *answer_ids], prompt), len(answer_ids)

    def with_question(self, prompt: Sequence[int], label: str) -> list[int]:
        """Ids of a prompt with a question behind its document: if this label applies, Yes or No."""
        question, end = self.question_ids(label), len(self.suffix_ids)
        return map_windows(lambda window: [*window[: len(window) - end], *question], prompt)

    def within(self, config: PretrainedConfig, answer: int, *, num_examples: int = 0) -> Self:
        """The template that reads of a new document what fits into a model's context.

        `answer` is the number of tokens that an answer takes. With examples, whose lengths differ,
        the template is returned as it is.
        """
        limit = context_limit(config)
        if limit is None or num_examples:
            return self
        room = limit - len(self.prefix_ids) - len(self.suffix_ids) - answer
        return replace(self, max_length=max(1, min(self.max_length, room)))

    def question_ids(self, label: str) -> list[int]:
        """Ids between the end of a document and the answer, Yes or No, about a label."""
        self.label_ids(label, first=True)  # refuses one that tokenizes to nothing
        return [*self._text_behind("a", QUESTION.format(label=label)), *self.suffix_ids]

    def answer_ids(self, *labels: str) -> list[int]:
        """Ids of a whole answer with its end token.

        Labels and separators are tokenized apart, so that a label has the same ids wherever it
        follows a separator.

        Raises
        ------
        InputError
            A label tokenizes to nothing.
        """
        ids = self.label_ids(labels[0], first=True)
        for label in labels[1:]:
            ids += self.separator_ids + self.label_ids(label, first=False)
        return [*ids, self.end_id]

    def label_ids(self, label: str, *, first: bool) -> list[int]:
        """Ids of one label of an answer, at its start or behind a separator."""
        if not label.strip() or not self._encode([label])[0]:
            raise InputError(f"label {label!r} tokenizes to nothing, so it cannot be an answer")
        if not first:
            return self._text_behind(SEPARATOR, f" {label}")
        start, ids = self._suffix_alone, _ids(self.tokenizer, self.suffix + self.lead + label)
        behind = ids[len(start) :]
        if behind and ids[: len(start)] == start and self._encode.structure.isdisjoint(behind):
            return behind
        return self._text_behind(SEPARATOR, f" {label}") if self.lead else self._encode([label])[0]

    @property
    def separator_ids(self) -> list[int]:
        """Ids of the separator between two labels."""
        return self._text_behind("a", SEPARATOR)

    @cached_property
    def _encode(self) -> TextEncoder:
        return text_encoder(self.tokenizer)

    @cached_property
    def _suffix_alone(self) -> list[int]:
        return _ids(self.tokenizer, self.suffix)

    def _text_behind(self, before: str, text: str) -> list[int]:
        """Ids of a text that continues another one: some tokenizers add a space at a beginning."""
        return _continued(lambda part: self._encode([part])[0], before, text)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text of a template, in which special tokens are read as such."""
    options = {"add_special_tokens": False, "split_special_tokens": False, "verbose": False}
    return list(tokenizer(text, **options).input_ids)


def _ids_behind(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text of a template behind a document, an answer or an instruction."""
    return _continued(lambda part: _ids(tokenizer, part), "a", text)


def _continued(encode: Callable[[str], list[int]], before: str, text: str) -> list[int]:
    """Ids of a text behind another one; those of the text alone if a token would span both."""
    start, ids = encode(before), encode(before + text)
    return ids[len(start) :] if ids[: len(start)] == start else encode(text)


def _ahead_of_text(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Text of a template ahead of a document, without a last space if the tokenizer adds one.

    The document is tokenized by itself, with a space in front; there would be two.
    """
    adds_space = _ids(tokenizer, "a") == _continued(lambda x: _ids(tokenizer, x), "b", " a")
    return text.removesuffix(" ") if adds_space else text


def _end_id(tokenizer: PreTrainedTokenizerBase, encode: TextEncoder, behind: Sequence[str]) -> int:
    """The token of structure that a text behind an answer begins with, or the end token."""
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
