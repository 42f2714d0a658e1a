"""Prompts and answers as token ids, and free answers back as labels."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import joblib
from jinja2 import TemplateError
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lib.labels import LabelSpace
from lib.params import ROOT, ParamsError
from lib.reading import DataError
from lib.results import code_fingerprint

MARK = "\x00document\x00"  # stands for the document while the template is cut in two
ANSWER = "\x00answer\x00"  # and for an example's answer
SEPARATOR = ";"  # between the labels of an answer
NEUTRAL = ("N/A", "[MASK]", "")  # documents that say nothing (arXiv 2102.09690, section 5)
CHUNK = 1000  # texts tokenized at once: the tokenizer keeps much more of each than its ids
Example = tuple[str, Sequence[str]]  # a document and the texts of its labels
QUESTION = "\n\nAnswer Yes or No. Does this label apply: {label}?"  # ends where labels differ
YES, NO = "Yes", "No"
# Models whose position numbers begin behind that of the padding token.
COUNTS_FROM_PADDING = ("camembert", "ibert", "roberta", "xlm-roberta", "xlm-roberta-xl", "xmod")
DATE = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")  # how a chat template asks for it
TODAY = datetime(2024, 7, 26)  # what it is told; Llama 3.1's default
PLAIN_TEMPLATE = "{instruction}\n\nText: {document}\n\nAnswer:"


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt as token ids: `prefix_ids` + the document, truncated + `suffix_ids`.

    The parts are tokenized apart, so the loss mask follows from lengths and truncation can only
    ever touch a document. In the document, text that looks like a special token is text.

    Attributes
    ----------
    end_id
        What ends an answer: what the chat template writes there, or the tokenizer's end token.
    turn_ids
        What stands between the end of an example's answer and the next document.
    chat
        Whether the prompt is the tokenizer's own chat template.
    """

    tokenizer: PreTrainedTokenizerBase
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
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
        """
        chat = bool(tokenizer.chat_template) and not plain
        if labels:
            several = f"one or several of these, with {SEPARATOR!r} between them"
            choice = several if multi_label else "one of"
            instruction = f"{instruction} Answer with {choice}: {', '.join(labels)}."
        if none:
            instruction += f" If none applies, answer with {none!r}."
        if chat:
            example = [{"role": "user", "content": MARK}, {"role": "assistant", "content": ANSWER}]
            system = [{"role": "system", "content": instruction}, *example, example[0]]
            merged = [{"role": "user", "content": f"{instruction}\n\n{MARK}"}, *system[2:]]
            options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
            options["chat_template"] = DATE.sub(
                lambda call: repr(TODAY.strftime(call[2])), tokenizer.get_chat_template()
            )
            try:
                text = tokenizer.apply_chat_template(system, **options)
            except TemplateError:  # some templates refuse a system message
                text = ""
            if instruction.strip() not in text.split(MARK)[0]:  # others move it to the last turn
                text = tokenizer.apply_chat_template(merged, **options)
        else:
            text = PLAIN_TEMPLATE.format(instruction=instruction, document=MARK)
            text += f" {ANSWER}\n\nText: {MARK}\n\nAnswer:"
        parts = re.split(f"{MARK}|{ANSWER}", text)
        if len(parts) != 4:
            raise ValueError("the tokenizer's chat template drops the user's message")
        prefix, _, turn, suffix = parts  # a template may write the last turn differently
        prefix_ids, turn_ids, suffix_ids = (
            tuple(tokenizer(part, add_special_tokens=False).input_ids)
            for part in (prefix, turn, suffix)
        )
        if not chat and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
            prefix_ids = (tokenizer.bos_token_id, *prefix_ids)  # a chat template writes its own
        end_id = tokenizer.eos_token_id
        if chat and turn_ids[:1] and turn_ids[0] in tokenizer.added_tokens_decoder:
            end_id, *turn_ids = turn_ids  # such as Gemma's <end_of_turn>
        return cls(tokenizer, prefix_ids, suffix_ids, tuple(turn_ids), end_id, max_length, chat)

    def render(self, document: str, examples: Sequence[Example] = ()) -> list[int]:
        """Prompt ids of one document, behind examples of other documents and their answers."""
        ids = list(self.prefix_ids)
        for text, labels in examples:
            ids += [*self._document_ids(text), *self.suffix_ids, *self.answer_ids(*labels)]
            ids += self.turn_ids
        return [*ids, *self._document_ids(document), *self.suffix_ids]

    def _document_ids(self, document: str) -> list[int]:
        options = {"max_length": self.max_length, "add_special_tokens": False}
        return encode_documents(self.tokenizer, [document], **options)[0]

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
        return [*self._ids_behind("a", QUESTION.format(label=label)), *self.suffix_ids]

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
        first = first and self.chat
        ids = self._ids(label) if first else self._ids_behind(SEPARATOR, f" {label}")
        if not label.strip() or not self._ids(label):
            raise ValueError(f"label {label!r} tokenizes to nothing, so it cannot be an answer")
        return ids

    @property
    def separator_ids(self) -> list[int]:
        """Ids of what stands between two labels."""
        return self._ids_behind("a", SEPARATOR)

    def _ids(self, text: str) -> list[int]:
        options = {"add_special_tokens": False, "split_special_tokens": True}
        return self.tokenizer(text, **options).input_ids

    def _ids_behind(self, before: str, text: str) -> list[int]:
        """Ids of a text as it continues another, to which some tokenizers add no space."""
        start = self._ids(before)
        ids = self._ids(before + text)
        return ids[len(start) :] if ids[: len(start)] == start else self._ids(text)


def require_context(config: PretrainedConfig, prompt_length: int, answer_length: int) -> None:
    """Raise `ParamsError` where a model's context is too short for a prompt and its answer.

    A sliding window is a limit as well: scoring lets every token of an answer see the whole prompt.
    """
    limit = context_limit(config)
    if limit is not None and prompt_length + answer_length > limit:
        raise ParamsError(
            f"max_length: prompts of up to {prompt_length:,} tokens and answers of "
            f"{answer_length} do not fit the model's context of {limit:,}; lower max_length or "
            "num_examples, or leave the labels out of the prompt (labels_in_prompt)"
        )


def require_positions(config: PretrainedConfig, documents: Iterable[Sequence[int]]) -> None:
    """Raise `ParamsError` where a document, its frame included, has more tokens than positions."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and config.model_type in COUNTS_FROM_PADDING:
        limit -= config.pad_token_id + 1
    longest = max(map(len, documents), default=0)
    if limit is not None and longest > limit:
        raise ParamsError(
            f"max_length: the longest document has {longest:,} tokens, those of its frame "
            f"included, and the model {limit:,} positions; lower max_length by {longest - limit}"
        )


def context_limit(config: PretrainedConfig) -> int | None:
    """Tokens of a prompt and its answer that a model takes; None where its config does not say."""
    text = config.get_text_config()
    limits = [getattr(text, name, None) for name in ("max_position_embeddings", "sliding_window")]
    return min(filter(None, limits), default=None)


def encode_documents(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    add_special_tokens: bool,
) -> list[list[int]]:
    """At most `max_length` ids of each text; none of them is a special token read out of the text.

    With `add_special_tokens` the model's own frame (such as [CLS] and [SEP]) comes on top.
    """
    frame = tokenizer.num_special_tokens_to_add() if add_special_tokens else 0
    options = {"add_special_tokens": add_special_tokens, "split_special_tokens": True}
    options |= {"truncation": True, "max_length": max_length + frame}
    ids: list[list[int]] = []
    for start in range(0, len(texts), CHUNK):
        ids += tokenizer(list(texts[start : start + CHUNK]), **options).input_ids
    return ids


def encode_cached(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any
) -> list[list[int]]:
    """`encode_documents`, kept in `runs/cache` under a hash of tokenizer, texts and code."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    for setting in ("truncation", "padding"):  # left over from the tokenizer's last call
        rules.pop(setting)
    content = joblib.hash((json.dumps(rules), list(texts), code_fingerprint("prompts")))
    return _encode_cached(content, tokenizer=tokenizer, texts=texts, **options)


@joblib.Memory(ROOT / "runs" / "cache", verbose=0).cache(ignore=["tokenizer", "texts"])
def _encode_cached(
    content: str, *, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any
) -> list[list[int]]:
    return encode_documents(tokenizer, texts, **options)


def order_labels(
    labels: Sequence[str], label_space: LabelSpace, counts: Mapping[str, int] | None = None
) -> list[str]:
    """The answer for a label set: its texts in label order, or the most frequent label first.

    One order for every document, because a model cannot learn an order that means nothing
    (arXiv 2505.17510 trains on it too).

    Parameters
    ----------
    counts
        How many documents have each label; labels of equally many stay in label order.

    Raises
    ------
    DataError
        There are several labels and some text holds ";", so that answers could not be read back.
    """
    columns = label_space.indices([labels])[0]
    if counts is not None:
        columns.sort(key=lambda c: -counts.get(label_space.names[c], 0))
    texts = [label_space.texts[c] for c in columns]
    if not texts and label_space.none:
        return [label_space.none]
    unclear = [text for text in label_space.texts if SEPARATOR in text] if len(texts) > 1 else []
    if unclear:
        raise DataError(f"label {unclear[0]!r} holds {SEPARATOR!r}, which stands between labels")
    return texts


def parse_labels(text: str, label_space: LabelSpace, *, multi_label: bool = False) -> list[str]:
    """The label that a free answer names, as a list of one; empty if it names none or several.

    The whole answer is compared first, without case, outer punctuation and spaces; then labels are
    looked for as whole words in it, hyphens counting as letters. Nothing is ever guessed: an answer
    outside the set is an error of the model and is counted as one.

    With `multi_label`, each part of the answer between ";" is read so, and may name several; parts
    that name none are passed over. The list is in label order; where label sets may be empty, it is
    empty if the answer is the word for that, `[""]` if it names none.
    """
    by_text = {_normalised(t): n for t, n in zip(label_space.texts, label_space.names, strict=True)}
    # Longest first, so that "gas" is not found inside "natural gas". A label of one letter is read
    # only as a whole answer: "a" is a word of any sentence.
    longer = [text for text in by_text if len(text) > 1]
    alternatives = "|".join(map(re.escape, sorted(longer, key=len, reverse=True))) or r"(?!)"
    found = set()
    for part in text.split(SEPARATOR) if multi_label else [text]:
        answer = _normalised(part)
        if exact := by_text.get(answer.strip(" .,:;!?\"'`*")):
            found.add(exact)
        else:
            words = re.findall(rf"(?<![\w-])(?:{alternatives})(?![\w-])", answer)
            found |= {by_text[word] for word in words}
    if not multi_label and len(found) > 1:
        return []
    if not found and label_space.none:
        return [""] * (_normalised(text).strip(" .,:;!?\"'`*") != _normalised(label_space.none))
    return [name for name in label_space.names if name in found]


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())
