"""A trained prompt as a causal language model, with the prompt and the answers in `labels.json`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from lib.config.arms import InstructionParams
from lib.data.labels import LabelSpace
from lib.model.parts import pretrained
from lib.model.tokens import text_encoder
from lib.prompt.decode import stop_ids
from lib.prompt.frame import writes_date
from lib.prompt.inputs import longest_answer
from lib.prompt.label_scores import score_labels
from lib.prompt.template import NO, YES, PromptTemplate, build_template
from lib.runs.models import require_same_reading, save_tokenizer

NUM_PROMPTS, NUM_ANSWERS = 3, 8  # of which every pair is compared (our choice)

LOAD = """\
```python
import json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
asked = json.load(open("{folder}/labels.json"))

def prompt_ids(text):
    as_text = {"add_special_tokens": False, "split_special_tokens": True}
    cut = {"truncation": True, "max_length": asked["max_length"]}
    ids = tokenizer(text, **as_text, **cut).input_ids
    return asked["prefix_ids"] + ids + asked["suffix_ids"]

def likelihoods(prompt, answers):
    with torch.no_grad():
        logits = [model(torch.tensor([prompt + ids])).logits[0] for ids in answers]
    parts = [row.float().log_softmax(-1)[len(prompt) - 1 : -1] for row in logits]
    return torch.stack([part[range(len(ids)), ids].sum() for part, ids in zip(parts, answers)])

{answer}
```

`prompt` in `labels.json` is the prompt as text; `messages` are a chat from which the chat template
writes it, or null. vLLM and llama.cpp take the folder too: see docs/serving.md of the project."""

ASK = """\
answers = list(asked["answer_ids"].values())
scores = likelihoods(prompt_ids("a text"), answers)
"""
ADJUST = {
    "score_length": "scores /= torch.tensor([len(ids) for ids in answers])\n",
    "score_prior": """\
neutral = torch.stack([likelihoods(prompt_ids(t), answers) for t in ("N/A", "[MASK]", "")])
scores -= neutral.log_softmax(1).logsumexp(0)
""",
}
PROBS = "probs = scores.softmax(-1)  # probabilities that add up to 1, in the order of the labels"
QUESTIONS = """\
prompt = prompt_ids("a text")[: -len(asked["suffix_ids"])]  # each question brings its own
words = [asked["yes_ids"], asked["no_ids"]]
pairs = [likelihoods(prompt + ids, words) for ids in asked["question_ids"].values()]
probs = [pair.softmax(-1)[0].item() for pair in pairs]  # probabilities, one per label"""
SETS = """\
prompt = prompt_ids("a text")
ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=100)[0].tolist()
ends = ids[-1] in model.generation_config.eos_token_id  # its text is no part of the answer
names = tokenizer.decode(ids[len(prompt) : -1 if ends else None], skip_special_tokens=True)
names = names.split("; ")
# The texts of labels; the run itself chose them by another decoding, `decoding` in labels.json."""


def export_prompt(
    path: Path,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    label_space: LabelSpace,
    params: InstructionParams,
    *,
    texts: Sequence[str],
    dtype: torch.dtype,
) -> tuple[str, dict[str, Any], np.ndarray, np.ndarray]:
    """Write the model of a prompt into the folder `path`, its adapters merged.

    Returns Markdown on how it is loaded, the entries of `labels.json` on the prompt, and two arrays
    of log-probabilities, (prompts, answers), of some answers behind some of the texts' prompts: by
    the model that was written, and by the run's.

    Raises `InputError` if the tokenizer that was written reads texts otherwise than the run's.
    """
    template, labels = build_template(tokenizer, model.config, label_space, params)
    template = template.within(model.config, longest_answer(template, labels, params))
    asked = _describe(template, labels, params, sample=texts[0])
    # Log-probabilities of some answers by the run's model, before its adapters are merged.
    prompts = [template.prompt_ids(text) for text in texts[-NUM_PROMPTS:]]
    questions = "question_ids" in asked
    answers = list(asked["question_ids" if questions else "answer_ids"].values())[:NUM_ANSWERS]
    if questions:
        prompts = [prompt[: len(prompt) - len(template.suffix_ids)] for prompt in prompts]
        answers = [[*ids, *asked[word]] for ids in answers for word in ("yes_ids", "no_ids")]
    expected = score_labels(
        model, prompts, answers, token_budget=params.token_budget, compute_dtype=dtype
    )
    # The model, written and read again.
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    model = pretrained(model)
    model.generation_config.eos_token_id = stop_ids(model, template)  # free answers end alike
    model.save_pretrained(path)
    save_tokenizer(tokenizer, path)
    written = AutoTokenizer.from_pretrained(path)
    plain = {"add_special_tokens": False, "split_special_tokens": True}  # as the card reads
    require_same_reading(
        lambda some: written(some, **plain).input_ids, text_encoder(tokenizer), tokenizer, texts
    )
    one = ASK + ADJUST.get(params.decoding, "") + PROBS
    usage = LOAD.replace(
        "{answer}", QUESTIONS if questions else SETS if params.multi_label else one
    )
    return usage, asked, _likelihoods(path, prompts, answers), expected


def _describe(
    template: PromptTemplate, labels: LabelSpace, params: InstructionParams, *, sample: str
) -> dict[str, Any]:
    """The entries of `labels.json` on the prompt and its answers."""
    tokenizer = template.tokenizer
    before, after = (
        tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        for ids in (template.prefix_ids, template.suffix_ids)
    )
    asked = {
        "answers": dict(zip(labels.names, labels.texts, strict=True)),
        "decoding": params.decoding,
        "max_length": template.max_length,
        "instruction": template.instruction,
        "prompt": before + "{text}" + after,
        "messages": _messages(template, sample),
        "prefix_ids": template.prefix_ids,
        "suffix_ids": template.suffix_ids,
        "end_id": template.end_id,
    }
    if params.decoding == "yes_no":
        questions = [template.question_ids(text) for text in labels.texts]
        words = {f"{w.lower()}_ids": template.label_ids(w, first=True) for w in (YES, NO)}
        return asked | {"question_ids": dict(zip(labels.names, questions, strict=True))} | words
    answers = [template.answer_ids(text) for text in labels.texts]
    asked["answer_ids"] = dict(zip(labels.names, answers, strict=True))
    if params.multi_label:
        asked["separator_ids"] = template.separator_ids
    if labels.none:
        asked["none_ids"] = template.answer_ids(labels.none)
    return asked


def _messages(template: PromptTemplate, sample: str) -> list[dict[str, str]] | None:
    """Messages with "{text}" from which the chat template makes the very prompt, or None.

    A template that writes the date has none, since it makes another prompt on another day.
    """
    ask, text = template.instruction, "{text}"
    forms = (
        [{"role": "system", "content": ask}, {"role": "user", "content": text}],
        [{"role": "user", "content": f"{ask}\n\n{text}"}],
    )
    for form in forms if template.chat else ():
        chat = [m | {"content": m["content"].replace(text, sample)} for m in form]
        try:
            ids = template.tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, enable_thinking=False, return_dict=False
            )
        except Exception:  # a template is code, and may raise anything
            ids = []
        if list(ids) == template.prompt_ids(sample) and not writes_date(template.tokenizer, chat):
            return form
    return None


def _likelihoods(
    path: Path, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> np.ndarray:
    """(N, C) log-probabilities of answers behind prompts by the model of a folder."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    found = np.empty((len(prompts), len(answers)))
    with torch.no_grad():
        for row, prompt in enumerate(prompts):
            for column, answer in enumerate(answers):
                logits = model(torch.tensor([[*prompt, *answer]])).logits[0, -len(answer) - 1 : -1]
                log_probs = logits.float().log_softmax(-1)
                found[row, column] = log_probs[range(len(answer)), list(answer)].sum()
    return found
