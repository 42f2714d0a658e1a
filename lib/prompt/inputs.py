"""Prompts with answers to train on, and the room that answers need in a model's context."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import PretrainedConfig

from lib.config.arms import InstructionParams
from lib.data.labels import LabelSpace
from lib.model.tokens import require_context
from lib.model.windows import longest_window, map_windows, window_lengths
from lib.prompt.answers import answer_texts
from lib.prompt.examples import choose_questions
from lib.prompt.label_sets import MAX_LABELS
from lib.prompt.template import EXTRA_ANSWER_TOKENS, NO, YES, PromptTemplate


def training_examples(
    template: PromptTemplate,
    prompt_labels: LabelSpace,
    documents: Dataset,
    params: InstructionParams,
) -> list[dict[str, Any]]:
    """Prompts followed by their answers, one per training document, or one per question.

    With `decoding: "yes_no"`, a model that trains learns from the questions of `choose_questions`.
    `documents` have `id` str, `text` str and `labels` list[str].

    Returns
    -------
    list of dict
        `id` str; `input_ids` list[int], prompt + answer; `target` int, the number of tokens of the
        answer. The ids of a document of several windows are `Windows`, prompt + answer for each.

    Raises
    ------
    DataError
        Labels of a set cannot be told apart in an answer (`answer_texts`).
    """
    texts, labels, ids = documents["text"], documents["labels"], documents["id"]
    if params.decoding == "yes_no" and params.num_epochs:
        columns = prompt_labels.indices(labels)
        asked = choose_questions(columns, num_labels=len(prompt_labels), seed=params.seed)
        prompts = {i: template.prompt_ids(texts[i]) for i, *_ in asked}
        pairs = []
        for i, c, applies in asked:
            question = template.with_question(prompts[i], prompt_labels.texts[c])
            answer = template.answer_ids(YES if applies else NO)
            tokens = map_windows(lambda window, answer=answer: [*window, *answer], question)
            pairs.append((tokens, len(answer)))
        ids = [f"{ids[i]}/{prompt_labels.names[c]}" for i, c, _ in asked]
    else:
        answers = [answer_texts(row, prompt_labels) for row in labels]
        pairs = [
            template.with_answer(text, *answer) for text, answer in zip(texts, answers, strict=True)
        ]
    return [
        {"id": name, "input_ids": tokens, "target": num_answer}
        for name, (tokens, num_answer) in zip(ids, pairs, strict=True)
    ]


def require_room(
    template: PromptTemplate,
    prompt_labels: LabelSpace,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    examples: Sequence[Mapping[str, Any]],
    config: PretrainedConfig,
    params: InstructionParams,
) -> int:
    """Most tokens of a free answer; `ParamsError` if prompts and answers do not fit the model.

    `prompts` has those of each split, `examples` those of `training_examples`.
    """
    answers = [len(template.answer_ids(text)) for text in prompt_labels.texts]
    max_new_tokens = max(answers + [example["target"] for example in examples])
    max_new_tokens += EXTRA_ANSWER_TOKENS
    behind = max(max_new_tokens, longest_answer(template, prompt_labels, params))
    lengths = [longest_window(split) for split in prompts.values()]
    lengths += [max(window_lengths(e["input_ids"])) - e["target"] for e in examples]
    require_context(config, max(lengths), behind)
    return max_new_tokens


def longest_answer(
    template: PromptTemplate, prompt_labels: LabelSpace, params: InstructionParams
) -> int:
    """Most tokens behind a prompt while labels are scored: of a label, a set, or a question."""
    answers = sorted(len(template.answer_ids(text)) for text in prompt_labels.texts)
    if params.decoding == "yes_no":
        questions = max(len(template.question_ids(text)) for text in prompt_labels.texts)
        return questions + max(len(template.answer_ids(word)) for word in (YES, NO))
    if params.multi_label:  # label by label, on some rung of the ladder
        largest = answers[-MAX_LABELS:]
        return sum(largest) + (len(largest) - 1) * len(template.separator_ids)
    return answers[-1]
