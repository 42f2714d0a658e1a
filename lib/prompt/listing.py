"""What a prompt lists: labels, what they mean, and whether there is room for them."""

import logging

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lib.config.arms import InstructionParams
from lib.data.labels import LabelSpace
from lib.model.tokens import context_limit
from lib.prompt.template import PromptTemplate

SPARE = 8  # tokens of a free answer beside its labels

logger = logging.getLogger(__name__)


def build_template(
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    label_space: LabelSpace,
    params: InstructionParams,
) -> tuple[PromptTemplate, LabelSpace]:
    """The prompt of a run, and the labels with the texts that the prompt calls them by.

    Where the labels are to be listed but the list leaves no room in the model's context for
    documents of `max_length` tokens, examples included, it is left out, which is logged.
    """
    prompt_labels = label_space.verbalized(params.verbalizer)
    options = {
        "instruction": params.instruction,
        "multi_label": params.multi_label,
        "none": prompt_labels.none,
        "max_length": params.max_length,
        "plain": params.template == "plain",
    }
    if params.labels_in_prompt:
        listed = label_list(prompt_labels, label_space)
        template = PromptTemplate.build(tokenizer, labels=listed, **options)
        answer = max(len(template.answer_ids(text)) for text in prompt_labels.texts) + SPARE
        frame = len(template.prefix_ids) + len(template.suffix_ids)
        needed = frame + (params.num_examples + 1) * (params.max_length + answer)
        limit = context_limit(config)
        if limit is None or needed <= limit:
            return template, prompt_labels
        logger.warning(
            f"the {len(prompt_labels):,} labels are left out of the prompt: with their list of "
            f"{len(template.prefix_ids):,} tokens it takes {needed:,} of a context of {limit:,}"
        )
    return PromptTemplate.build(tokenizer, **options), prompt_labels


def label_list(prompt_labels: LabelSpace, label_space: LabelSpace) -> list[str]:
    """Label texts for a prompt; a code is followed by its meaning in brackets: "A (farming)"."""
    return [
        text if meaning == text else f"{text} ({meaning})"
        for text, meaning in zip(prompt_labels.texts, label_space.texts, strict=True)
    ]
