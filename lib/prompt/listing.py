"""What a prompt lists: labels, what they mean, and whether there is room for them."""

import logging
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lib.data.labels import LabelSpace
from lib.model.tokens import context_limit
from lib.prompt.template import PromptTemplate

SPARE = 8  # tokens of a free answer beside its labels

logger = logging.getLogger(__name__)


def build_template(
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    label_space: LabelSpace,
    *,
    verbalizer: str = "text",
    labels_in_prompt: bool = False,
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
    num_examples
        Answered documents in each prompt.
    options
        Others of `PromptTemplate.build`.
    """
    called = label_space.verbalized(verbalizer)
    options |= {"max_length": max_length, "none": called.none}
    if labels_in_prompt:
        listed = label_list(called, label_space)
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


def label_list(called: LabelSpace, label_space: LabelSpace) -> list[str]:
    """Label texts for a prompt; a code is followed by its meaning in brackets: "A (farming)"."""
    return [
        text if meaning == text else f"{text} ({meaning})"
        for text, meaning in zip(called.texts, label_space.texts, strict=True)
    ]
