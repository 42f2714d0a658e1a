"""Texts as token ids, and the lengths that a model takes.

Tokens of structure are those that mark parts of an input, such as [SEP] or <|im_end|>. A document
may spell one, but never gets its id.
"""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PretrainedConfig, PreTrainedTokenizer, PreTrainedTokenizerBase

from lib.errors import ModelError, ParamsError
from lib.fingerprints import computing_fingerprint
from lib.model.windows import Documents, as_document, longest_window, window_lengths
from lib.storage import cached, content_hash

TEXTS_AT_ONCE = 1000  # the tokenizer keeps much more of each text than its ids (our choice)
UNREADABLE = "\x00token {}\x00"  # name of a token that no text spells
# Models that number positions from the padding token's id on, and so have fewer of them for tokens.
COUNTS_FROM_PADDING = (
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke",
    "markuplm", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip


def structure_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of tokens that a chat template, the model's frame ([CLS], [SEP]) or padding writes.

    No text is tokenized into them. They are the special tokens and other added ones (`<think>`).
    Added tokens that are not marked as special and have no punctuation are text: runs of spaces
    (GPT-NeoX, Gemma) and words of a field.
    """
    added = tokenizer.added_tokens_decoder
    words = {i for i, token in added.items() if not token.special and _is_word(token.content)}
    return frozenset((added.keys() - words) | set(tokenizer.all_special_ids))


def _is_word(content: str) -> bool:
    """True for letters, marks, digits and spaces alone ("▁" is SentencePiece's space)."""
    characters = content.replace("▁", " ")
    return not any(unicodedata.category(c)[0] in "PS" or c == "\x00" for c in characters)


class TextEncoder:
    """A tokenizer that reads every text as plain text.

    A text that spells a token of structure ("</s>", "<think>") is tokenized like any other text,
    also if it does so only after normalization ("＜/s＞"). All other texts have the tokenizer's own
    ids. Saved settings for padding and truncation have no effect.

    Raises
    ------
    ModelError
        The tokenizer is of a class whose texts cannot be kept apart from structure.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.structure = structure_ids(tokenizer)
        if tokenizer.is_fast:
            rules = _rules(tokenizer)
            self.rules_hash = content_hash([json.dumps(rules)])
            self.backend = _text_backend(rules, self.structure)
        elif not isinstance(tokenizer, PreTrainedTokenizer):
            raise ModelError(
                f"{tokenizer.name_or_path}: tokenizers of class {type(tokenizer).__name__} are not "
                "supported; save it as tokenizer.json"
            )

    def __call__(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        frame: bool = False,
        windows: int = 1,
    ) -> list[list[int]]:
        """Up to `max_length` ids of each text, with the model's frame ([CLS], [SEP]) if `frame`.

        The frame comes on top of `max_length`. Up to `windows` windows of `max_length` ids follow
        each other in a text, each with its own frame (`lib.model.windows`). A longer text is cut at
        its end, or at its beginning if the tokenizer's `truncation_side` is "left".
        """
        if not self.tokenizer.is_fast:
            return [self._slow_ids(text, max_length, frame, windows) for text in texts]
        backend, side = self.backend, self.tokenizer.truncation_side
        if frame:  # settings of the tokenizer, such as add_bos_token, may have changed meanwhile
            backend.post_processor = self.tokenizer.backend_tokenizer.post_processor
        if max_length is None:
            backend.no_truncation()
        else:
            room = max_length + (backend.num_special_tokens_to_add(False) if frame else 0)
            backend.enable_truncation(room, direction=side)
        documents = []
        for chunk in _chunks(texts):
            for encoding in backend.encode_batch_fast(chunk, add_special_tokens=frame):
                # Parts that were cut off, the one next to the kept part first.
                cut_off = encoding.overflowing[: windows - 1] if windows > 1 else []
                parts = [part.ids for part in (encoding, *cut_off)]
                documents.append(as_document(parts[::-1] if side == "left" else parts))
        return documents

    def _slow_ids(self, text: str, max_length: int | None, frame: bool, windows: int) -> list[int]:
        """Ids by a tokenizer in Python; a token of structure is spelled by its characters."""
        spelled: list[str] = []
        for token in self._slow_tokens(text):
            letters = chain.from_iterable(map(self._slow_tokens, token))
            spelled += [token] if self._is_text(token) else filter(self._is_text, letters)
        ids = self.tokenizer.convert_tokens_to_ids(spelled)
        size = max_length or max(len(ids), 1)
        left = self.tokenizer.truncation_side == "left"
        # Windows are cut from the side of the text that is kept.
        starts = range(0, max(len(ids), 1), size)[:windows]
        parts = [ids[i : i + size] for i in starts]
        if left:
            parts = [ids[max(len(ids) - i - size, 0) : len(ids) - i] for i in reversed(starts)]
        if frame:
            parts = [self.tokenizer.build_inputs_with_special_tokens(part) for part in parts]
        return as_document(parts)

    def _slow_tokens(self, text: str) -> list[str]:
        return self.tokenizer.tokenize(text, split_special_tokens=True)

    def _is_text(self, token: str) -> bool:
        index = self.tokenizer.convert_tokens_to_ids(token)
        return index == self.tokenizer.unk_token_id or index not in self.structure


def _rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The rules of a fast tokenizer, without its saved truncation and padding."""
    try:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # rules written in Python: the backend raises bare Exceptions
        raise ModelError(
            f"{tokenizer.name_or_path}: its tokenizer has no form as JSON ({error}); use another"
        ) from None
    return rules | {"truncation": None, "padding": None}


def _text_backend(rules: dict[str, Any], structure: frozenset[int]) -> Tokenizer:
    """A fast tokenizer with these rules and ids, in which no text spells a token of structure."""
    # Structure gets names that no text spells: as added tokens, in the vocabulary, in merges.
    names = {index: UNREADABLE.format(index) for index in structure}
    for token in rules["added_tokens"]:
        if token["id"] in names:  # not normalized, which could make it a name that texts spell
            token |= {"content": names[token["id"]], "normalized": False}
    model = rules["model"]
    if isinstance(model["vocab"], list):  # Unigram: pairs of piece and score
        for index in structure & set(range(len(model["vocab"]))):
            model["vocab"][index][0] = names[index]
        return Tokenizer.from_str(json.dumps(rules))
    renamed = {piece: names[i] for piece, i in model["vocab"].items() if i in structure}
    model["vocab"] = {renamed.get(piece, piece): i for piece, i in model["vocab"].items()}
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    if renamed and model.get("merges"):
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            merge
            for merge in model["merges"]
            for left, right in [merge.split(" ") if isinstance(merge, str) else merge]
            if renamed.keys().isdisjoint((left, right, left + right.removeprefix(prefix)))
        ]
    return Tokenizer.from_str(json.dumps(rules))


def text_encoder(tokenizer: PreTrainedTokenizerBase) -> TextEncoder:
    """The tokenizer's encoder of texts, built again only if tokens were added meanwhile."""
    return _text_encoder(tokenizer, len(tokenizer), structure_ids(tokenizer))


@lru_cache(maxsize=4)
def _text_encoder(tokenizer: PreTrainedTokenizerBase, *state: Any) -> TextEncoder:
    return TextEncoder(tokenizer)


def encode_documents(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    add_special_tokens: bool,
    windows: int = 1,
) -> list[list[int]]:
    """Up to `max_length` ids of each text, or of each of its `windows`, by its `TextEncoder`.

    With `add_special_tokens`, the model's frame ([CLS], [SEP]) is added to them. Documents of
    several windows are `lib.model.windows.Windows`.
    """
    encode = text_encoder(tokenizer)
    return encode(texts, max_length=max_length, frame=add_special_tokens, windows=windows)


def shorten_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int
) -> list[str]:
    """The part of each text that `encode_documents` reads in one window.

    That is its first `max_length` tokens, or its last ones if the tokenizer truncates on the left.

    Raises
    ------
    ModelError
        The tokenizer is one in Python, which does not know the places of its tokens in a text.
    """
    encoder = text_encoder(tokenizer)
    if not tokenizer.is_fast:
        raise ModelError(
            f"{tokenizer.name_or_path}: a tokenizer in Python does not say where its tokens are in "
            'a text; write read: "all", or name another model_id'
        )
    left, read = tokenizer.truncation_side == "left", []
    encoder.backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
    for chunk in _chunks(texts):
        encodings = encoder.backend.encode_batch(chunk, add_special_tokens=False)
        for text, found in zip(chunk, encodings, strict=True):
            start = found.offsets[0][0] if left and found.overflowing else 0
            end = found.offsets[-1][1] if not left and found.overflowing else len(text)
            read.append(text[start:end])
    return read


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield list(texts[start : start + TEXTS_AT_ONCE])


def are_cut(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int
) -> np.ndarray:
    """(N,) bool, true for texts of more than `max_length` tokens, those of a frame not counted."""
    ids = encode_documents(tokenizer, texts, max_length=max_length + 1, add_special_tokens=False)
    return np.array([len(row) > max_length for row in ids], dtype=bool)


def encode_cached(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any
) -> list[list[int]]:
    """`encode_documents`, cached by tokenizer, texts and code (`lib.storage.cached`).

    The ids of a tokenizer in Python are not cached: its rules cannot be hashed.
    """
    if not tokenizer.is_fast:
        return encode_documents(tokenizer, texts, **options)
    state = (sorted(structure_ids(tokenizer)), tokenizer.truncation_side)

    def write(folder: Path) -> None:
        ids = encode_documents(tokenizer, texts, **options)
        np.save(folder / "ids.npy", np.fromiter(chain.from_iterable(ids), dtype=np.int32))
        lengths = [window_lengths(row) for row in ids]
        np.save(folder / "lengths.npy", np.array([*chain.from_iterable(lengths)], dtype=np.int64))
        np.save(folder / "windows.npy", np.array([*map(len, lengths)], dtype=np.int64))

    key = [text_encoder(tokenizer).rules_hash, state, content_hash(texts), options]
    folder = cached("tokens", key, write, code=computing_fingerprint("model.tokens"))
    ends = np.cumsum(np.load(folder / "lengths.npy"))
    rows = iter([row.tolist() for row in np.split(np.load(folder / "ids.npy"), ends)[:-1]])
    counts = np.load(folder / "windows.npy").tolist()
    return [as_document([next(rows) for _ in range(count)]) for count in counts]


def require_rows(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Raise `ModelError` if a token that a run uses has none of the `rows` of the embedding.

    Used are the ordinary vocabulary, padding, the unknown token, the frame of a document, and what
    the chat template writes. No input contains other added tokens.
    """
    structure = structure_ids(tokenizer)
    written = str(tokenizer.chat_template or "")
    used = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    used |= set(tokenizer("").input_ids) - {None}
    for token, index in tokenizer.get_vocab().items():
        if index >= rows and (index in used or index not in structure or token in written):
            raise ModelError(
                f"{tokenizer.name_or_path}: token {token!r} has id {index:,}, but the model's "
                f"embedding has {rows:,} rows; resize the embedding to {len(tokenizer):,} rows "
                "(model.resize_token_embeddings) and save it, or remove the token"
            )


def require_context(config: PretrainedConfig, prompt_length: int, answer_length: int) -> None:
    """Raise `ParamsError` if a model's context is too short for a prompt and its answer."""
    limit = context_limit(config)
    if limit is not None and prompt_length + answer_length > limit:
        raise ParamsError(
            f"max_length: prompts of up to {prompt_length:,} tokens and answers of "
            f"{answer_length} do not fit the model's context of {limit:,}; lower max_length or "
            "num_examples, or leave the labels out of the prompt (labels_in_prompt)"
        )


def require_positions(config: PretrainedConfig, documents: Documents) -> None:
    """Raise `ParamsError` if a document, its frame included, has more tokens than positions.

    Of a document of several windows, the longest window counts.
    """
    limit = position_limit(config)
    longest = longest_window(documents)
    if limit is not None and longest > limit:
        raise ParamsError(
            f"max_length: the longest document has {longest:,} tokens, those of its frame "
            f"included, and the model {limit:,} positions; lower max_length by {longest - limit}"
        )


def position_limit(config: PretrainedConfig) -> int | None:
    """Most tokens of a sequence, by the model's positions; None if its config does not say."""
    limit = context_limit(config)
    counts = limit is not None and config.model_type in COUNTS_FROM_PADDING
    return limit - config.pad_token_id - 1 if counts else limit


def context_limit(config: PretrainedConfig) -> int | None:
    """Positions of a model: tokens of a prompt and its answer; None if its config does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
