"""What a prompt lists: labels, what they mean, and whether there is room for them."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lib.data.labels import LabelSpace, read_label_names
from lib.errors import DataError
from lib.model.tokens import context_limit
from lib.prompt.template import PromptTemplate
from lib.storage import ROOT

SPARE = 8  # tokens of a free answer beside its labels

logger = logging.getLogger(__name__)


def build_template(
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    label_space: LabelSpace,
    *,
    verbalizer: str = "text",
    labels_in_prompt: bool = False,
    label_descriptions: str = "",
    num_examples: int = 0,
    max_length: int,
    **options: Any,
) -> tuple[PromptTemplate, LabelSpace]:
    """The prompt of a run, and the labels with the texts that it calls them by.

    Where the labels are to be listed but the list leaves no room in the model's context for
    documents of `max_length` tokens, examples included, it is left out, which is logged.

    Parameters
    ----------
    verbalizer
        See `LabelSpace.verbalized`.
    labels_in_prompt
        List all labels behind the instruction.
    label_descriptions
        A YAML (or JSON) file of `label: description` lines, listed with the labels.
    num_examples
        Answered documents in each prompt.
    options
        Others of `PromptTemplate.build`.
    """
    called = label_space.verbalized(verbalizer)
    options |= {"max_length": max_length, "none": called.none}
    if labels_in_prompt:
        file = label_descriptions
        descriptions = read_descriptions(ROOT / file, label_space) if file else {}
        listed = label_list(called, label_space, descriptions)
        template = PromptTemplate.build(tokenizer, labels=listed, **options)
        answer = max(len(template.answer_ids(text)) for text in called.texts) + SPARE
        frame = len(template.prefix_ids) + len(template.suffix_ids)
        needed = frame + (num_examples + 1) * (max_length + answer)
        limit = context_limit(config)
        if limit is None or needed <= limit:
            return template, called
        logger.warning(
            f"the {len(called):,} labels are left out of the prompt: with their list of "
            f"{len(template.prefix_ids):,} tokens it takes {needed:,} of a context of {limit:,}"
        )
    return PromptTemplate.build(tokenizer, **options), called


def read_descriptions(path: Path, label_space: LabelSpace) -> dict[str, str]:
    """Descriptions of labels from a YAML or JSON file of `label: description` lines.

    Raises
    ------
    DataError
        The file cannot be read, or names something that is no label.
    """
    descriptions = read_label_names(path)
    if unknown := [name for name in descriptions if name not in label_space.names]:
        raise DataError(
            f"{path}: {unknown[0]!r} is no label of the data "
            f"({', '.join(label_space.names[:3])} ...)"
        )
    return descriptions


def label_list(
    called: LabelSpace, label_space: LabelSpace, descriptions: Mapping[str, str]
) -> list[str]:
    """What a prompt lists: the texts of `called` and, in brackets, what they mean.

    That is the text of `label_space` where they are codes, and the description of a label that has
    one: "A (farming: growing plants)".
    """
    listed = []
    for name, text, meaning in zip(called.names, called.texts, label_space.texts, strict=True):
        notes = [meaning] * (meaning != text) + [descriptions.get(name, "")]
        note = ": ".join(filter(None, notes))
        listed.append(f"{text} ({note})" if note else text)
    return listed
