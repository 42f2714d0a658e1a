"""Documents per second of our training step against the usual recipe, interleaved in one run.

    python tests/benchmarks/training_step.py

Usual recipe: `AutoModelForSequenceClassification`, NF4, peft's LoRA on all linear layers, random
batches padded to the longest, the attention and precision that transformers chooses by itself.
Ours: what `notebooks/03_finetune_embedding` does. Same documents, batches, rank and labels; forward
and backward without the optimizer, which is the same for both.
"""

import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from lib.data import LabelSpace, load_splits
from lib.device import start_run
from lib.loader import add_lora, load_backbone, load_tokenizer, resolve_model
from lib.params import ROOT, load_params
from lib.pooling import EmbeddingModel, pad
from lib.prompts import encode_documents
from lib.training import MicroBatchCollator

REPEATS, BATCHES = 5, 6


def usual_recipe(params, num_labels):
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        resolve_model(params.model_id),
        num_labels=num_labels,
        quantization_config=quantization,
        dtype=torch.bfloat16,
    )
    config = LoraConfig(
        r=params.lora_r, lora_alpha=params.lora_alpha, target_modules="all-linear",
        task_type="SEQ_CLS",
    )  # fmt: skip
    model = get_peft_model(model, config).train()

    def step(examples):
        input_ids, mask = pad([e["input_ids"] for e in examples], 2)
        targets = torch.tensor([e["target"] for e in examples])
        model(input_ids=input_ids, attention_mask=mask, labels=targets).loss.backward()
        model.zero_grad()

    return step


def our_step(params, num_labels):
    backbone = load_backbone(params.model_id, max_length=params.max_length)
    model = EmbeddingModel(
        backbone, num_labels=num_labels, mode=params.pooling, compute_dtype=torch.bfloat16
    )
    model = add_lora(model, r=params.lora_r, alpha=params.lora_alpha).train()
    collate = MicroBatchCollator(params.token_budget, 2)

    def step(examples):
        for batch in collate(examples)["micro_batches"]:
            logits = model(batch["input_ids"], batch["attention_mask"])
            loss = torch.nn.functional.cross_entropy(logits, batch["targets"], reduction="sum")
            (loss / len(examples)).backward()
        model.zero_grad()

    return step


def main():
    folder = ROOT / "params" / "quick"
    params = load_params(folder / "common.yaml", folder / "embedding.yaml")
    start_run(seed=0, num_threads=params.threads)
    splits = load_splits(
        params.dataset, text_columns=params.text_columns, label_column=params.label_column,
        num_train=params.num_train, num_validation=params.num_validation,
    )  # fmt: skip
    label_space = LabelSpace.from_splits(splits)
    texts = splits["train"].shuffle(seed=0)["text"][: BATCHES * params.batch_size]
    tokenizer = load_tokenizer(params.model_id)
    documents = encode_documents(
        tokenizer, texts, max_length=params.max_length, add_special_tokens=True
    )
    examples = [{"id": str(i), "input_ids": d, "target": i % 2} for i, d in enumerate(documents)]
    batches = [
        examples[i : i + params.batch_size] for i in range(0, len(examples), params.batch_size)
    ]
    steps = {
        "usual": usual_recipe(params, len(label_space)),
        "ours": our_step(params, len(label_space)),
    }
    seconds = {name: [] for name in steps}
    for repeat in range(REPEATS + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            for batch in batches:
                step(batch)
            if repeat:  # the first is warm-up
                seconds[name].append(time.perf_counter() - start)
    speeds = {name: len(examples) / statistics.median(s) for name, s in seconds.items()}
    for name, speed in speeds.items():
        print(f"{name}: {speed:.1f} documents/s (median of {REPEATS})")
    print(f"ours / usual: {speeds['ours'] / speeds['usual']:.2f}")


if __name__ == "__main__":
    main()
