"""Ours and what one would copy instead, each in a process of its own that `bench.py` drives.

    python tests/benchmarks/contenders.py <contender> <cases.json>

reads a command a line and answers each with a line of JSON. Processes that wait cost nothing, and
one's memory is nobody else's. All train SmolLM2-135M in NF4 with LoRA r = 8 on all projections, on
the same token ids in optimizer steps of the same size.
"""

import json
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

from lib.config.arms import EmbeddingParams, InstructionParams, StudyParams
from lib.config.groups import HeadParams, LoraParams
from lib.head.losses import HeadLoss
from lib.head.model import EmbeddingModel, predict_logits
from lib.machine import (
    choose_device,
    choose_dtype,
    configure_process,
    memory_of,
    mixed_precision,
    peak_memory_gib,
    reset_peak_memory,
)
from lib.model.adapters import add_lora
from lib.model.fast import blocks as layers
from lib.model.load import load_backbone
from lib.model.tokens import encode_documents
from lib.model.weights import load_tokenizer, resolve_model
from lib.prompt.label_scores import score_labels
from lib.training.finetune import finetune_embedding, finetune_instruction

MODEL_ID = StudyParams().model_id
DEVICE = choose_device()
DTYPE = choose_dtype(DEVICE)
BATCH, TOKEN_BUDGET, LEARNING_RATE, RANK, ALPHA = 16, 2048, 1.0e-3, 8, 16
NEW_TOKENS = 8  # of a generated answer


def same_start(model: torch.nn.Module) -> None:
    """Give adapters and head weights that depend on their layer alone, not on who made them."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = name.split("layers.")[-1] if "lora_" in name else f"head {parameter.ndim}"
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            values = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.data.copy_(values * (parameter.ndim > 1 and "lora_B" not in name))


class Ours:
    """What 03_finetune_embedding does."""

    def __init__(self, cases: dict) -> None:
        self.cases = cases
        self.model_id = cases.get("model_id", MODEL_ID)
        self.memory_gib = cases.get("memory_gib", 0.0)
        self.tokenizer = load_tokenizer(self.model_id)
        self.backbone = self.load()
        self.model = self.adapt()
        same_start(self.model)
        layers.COMPILE_FROM = dict.fromkeys(layers.COMPILE_FROM, 0)  # as for more documents

    def load(self):
        return load_backbone(self.model_id, dtype=DTYPE, max_length=512, memory_gib=self.memory_gib)

    def cap(self, gib: float) -> None:
        """From now on the allocator of the GPU is given no more."""
        torch.cuda.set_per_process_memory_fraction(gib / memory_of(DEVICE))
        self.memory_gib = gib

    def adapt(self):
        model = EmbeddingModel(
            self.backbone,
            HeadParams(pooling="last"),
            num_labels=self.cases["num_labels"],
            compute_dtype=DTYPE,
        )
        return add_lora(model, LoraParams(lora_r=RANK, lora_alpha=ALPHA))

    def train(self, case: str, count: int, batch_size: int) -> dict:
        examples = [
            {"id": str(i), "input_ids": ids, "target": target}
            for i, (ids, target) in enumerate(self.rows(case)[:count])
        ]
        with tempfile.TemporaryDirectory() as folder:
            history, cost = self.finetune(
                examples, output_dir=folder, max_length=1,
                token_budget=self.cases.get("token_budget", TOKEN_BUDGET), num_epochs=1,
                batch_size=batch_size, learning_rate=LEARNING_RATE, memory_gib=self.memory_gib,
                warmup_share=0.0, seed=0,
            )  # fmt: skip
        losses = history["loss"].dropna().tolist()
        return {"seconds": cost["train_seconds"], "losses": losses}

    def rows(self, case: str) -> list:
        return list(zip(self.cases[case]["ids"], self.cases[case]["targets"], strict=True))

    def finetune(self, examples, output_dir, **options):
        loss = HeadLoss("cross_entropy", self.cases["num_labels"])
        return finetune_embedding(
            self.model, examples, lambda _: {"micro_f1": 0.0}, EmbeddingParams(**options),
            head_loss=loss, output_dir=output_dir,
        )  # fmt: skip

    def infer(self, case: str, count: int) -> dict:
        texts = self.cases[case]["texts"][:count]
        start = time.perf_counter()
        tokens = encode_documents(
            self.tokenizer, texts, max_length=self.cases[case]["max_length"],
            add_special_tokens=True,
        )  # fmt: skip
        predict_logits(self.model, tokens, token_budget=TOKEN_BUDGET)
        return {"seconds": time.perf_counter() - start}


class OursPrompt(Ours):
    """What 04_finetune_instruction does: loss on the answer alone, then labels by likelihood."""

    def load(self):
        return load_backbone(self.model_id, dtype=DTYPE, head="lm", max_length=512)

    def adapt(self):
        return add_lora(self.backbone, LoraParams(lora_r=RANK, lora_alpha=ALPHA))

    def rows(self, case: str) -> list:
        prompts, answers = self.cases[case]["prompts"], self.cases[case]["answers"]
        return [(p + a, len(a)) for p, a in zip(prompts, answers, strict=True)]

    def finetune(self, examples, output_dir, **options):
        return finetune_instruction(
            self.model, examples, lambda _: {"micro_f1": 0.0}, InstructionParams(**options),
            compute_dtype=DTYPE, output_dir=output_dir,
        )  # fmt: skip

    def infer(self, case: str, count: int) -> dict:
        prompts = self.cases[case]["prompts"][:count]
        start = time.perf_counter()
        score_labels(
            self.model, prompts, self.cases[case]["label_answers"],
            token_budget=TOKEN_BUDGET, compute_dtype=DTYPE,
        )  # fmt: skip
        return {"seconds": time.perf_counter() - start}


class UsualRecipe:
    """(a) `AutoModelForSequenceClassification` + peft + `Trainer`, padded to the longest."""

    auto_class, task = AutoModelForSequenceClassification, "SEQ_CLS"
    strategy = "random"

    def __init__(self, cases: dict) -> None:
        self.cases = cases
        self.model_id = cases.get("model_id", MODEL_ID)
        self.tokenizer = load_tokenizer(self.model_id)
        self.batch = BATCH
        self.model = self.load()
        same_start(self.model)

    def load(self):
        model = self.auto_class.from_pretrained(
            resolve_model(self.model_id),
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=DTYPE,
            ),
            dtype=DTYPE,
            device_map={"": DEVICE},
            **({"num_labels": self.cases["num_labels"]} if self.task == "SEQ_CLS" else {}),
        )
        model.config.pad_token_id = self.tokenizer.pad_token_id
        config = LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type=self.task
        )
        return get_peft_model(model, config)

    def choose_attention(self, case: str) -> dict:
        """Its own best setting: the faster of transformers' two attentions on these documents."""
        seconds = {}
        for attention in ("warm-up", "sdpa", "eager"):
            self.attend("sdpa" if attention == "warm-up" else attention)
            seconds[attention] = self.train(case, BATCH // 2, BATCH // 2)["seconds"]
        del seconds["warm-up"]
        self.attend(min(seconds, key=seconds.get))
        return seconds

    def choose_batch(self, case: str) -> dict:
        """Its own best setting for inference: documents one by one, or in padded batches."""
        self.model.get_base_model().set_attn_implementation("sdpa")
        seconds = {}
        for self.batch in (1, 1, 4, BATCH):  # the first is warm-up and measured again
            seconds[self.batch] = self.infer(case, BATCH // 2)["seconds"]
        self.batch = min(seconds, key=seconds.get)
        return seconds

    def attend(self, attention: str) -> None:
        self.model.get_base_model().set_attn_implementation(attention)

    def train(self, case: str, count: int, batch_size: int) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.trainer(case, slice(count), folder, batch_size)
            trainer.train()
        history = trainer.state.log_history
        return {
            "seconds": next(row["train_runtime"] for row in history if "train_runtime" in row),
            "losses": [row["loss"] for row in history if "loss" in row],
        }

    def options(self, folder: str, batch_size: int, max_length: int) -> dict:
        # 16 x 512 tokens in fp32 took more than 24 GiB, and pad more than 4 x 512 do.
        small = DEVICE.type == "cpu" and max_length > 256
        micro_batch = min(batch_size, 4 if small else BATCH)
        return {
            "output_dir": folder,
            "num_train_epochs": 1,
            "per_device_train_batch_size": micro_batch,
            "gradient_accumulation_steps": batch_size // micro_batch,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "linear",
            "bf16": torch.bfloat16 == DTYPE,
            # All that it can do about memory.
            "gradient_checkpointing": self.cases.get("memory_gib", 0.0) > 0,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            "max_grad_norm": 1.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": DEVICE.type == "cpu",
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
            "seed": 0,
            "data_seed": 0,
        }

    def trainer(self, case: str, part: slice, folder: str, batch_size: int) -> Trainer:
        rows = self.cases[case]
        return Trainer(
            model=self.model,
            args=TrainingArguments(
                train_sampling_strategy=self.strategy,
                **self.options(folder, batch_size, rows["max_length"]),
            ),
            train_dataset=Dataset.from_dict(
                {"input_ids": rows["ids"][part], "labels": rows["targets"][part]}
            ),
            data_collator=DataCollatorWithPadding(self.tokenizer),
        )

    def infer(self, case: str, count: int) -> dict:
        """(d) `pipeline("text-classification")`, truncated and batched."""
        classify = pipeline(
            "text-classification", model=self.model.get_base_model(), tokenizer=self.tokenizer
        )
        texts = self.cases[case]["texts"][:count]
        options = {"truncation": True, "max_length": self.cases[case]["max_length"]}
        start = time.perf_counter()
        with mixed_precision(DEVICE, DTYPE):
            classify(texts, batch_size=self.batch, **options)
        return {"seconds": time.perf_counter() - start}


class GroupByLength(UsualRecipe):
    """(b) The same with batches of documents of about one length."""

    strategy = "group_by_length"


class SFT(UsualRecipe):
    """(c) TRL's `SFTTrainer`, loss on the completion alone; (d) `model.generate`."""

    auto_class, task = AutoModelForCausalLM, "CAUSAL_LM"

    def trainer(self, case: str, part: slice, folder: str, batch_size: int) -> Trainer:
        from trl import SFTConfig, SFTTrainer

        rows = self.cases[case]
        pairs = list(zip(rows["prompts"][part], rows["answers"][part], strict=True))
        return SFTTrainer(
            model=self.model,
            args=SFTConfig(
                max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
                **self.options(folder, batch_size, rows["max_length"]),
            ),
            train_dataset=Dataset.from_dict(
                {
                    "input_ids": [p + a for p, a in pairs],
                    "labels": [[-100] * len(p) + a for p, a in pairs],
                }
            ),
            processing_class=self.tokenizer,
        )  # fmt: skip

    def infer(self, case: str, count: int) -> dict:
        prompts = self.cases[case]["prompts"][:count]
        model = self.model.eval()
        start = time.perf_counter()
        for i in range(0, len(prompts), self.batch):
            batch = self.tokenizer.pad(
                {"input_ids": prompts[i : i + self.batch]}, padding_side="left", return_tensors="pt"
            ).to(DEVICE)
            with mixed_precision(DEVICE, DTYPE):
                model.generate(
                    **batch, max_new_tokens=NEW_TOKENS, do_sample=False,
                    pad_token_id=self.tokenizer.pad_token_id,
                )  # fmt: skip
        return {"seconds": time.perf_counter() - start}


CONTENDERS = {
    "ours": Ours,
    "trainer": UsualRecipe,
    "group_by_length": GroupByLength,
    "ours_prompt": OursPrompt,
    "sft": SFT,
}


def main() -> None:
    name, path = sys.argv[1:]
    torch.manual_seed(0)
    np.random.seed(0)
    configure_process(seed=0, num_threads=StudyParams().threads)
    contender = CONTENDERS[name](json.loads(Path(path).read_text()))
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    print(json.dumps({"ready": name}), file=answers, flush=True)
    for line in sys.stdin:
        command, arguments = json.loads(line)
        if command == "reset_peak":
            result = reset_peak_memory(DEVICE)
        elif command == "peak":
            result = peak_memory_gib(DEVICE)
        else:
            result = getattr(contender, command)(**arguments)
        if DEVICE.type == "cuda":  # what it does not use, others may
            torch.cuda.empty_cache()
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
