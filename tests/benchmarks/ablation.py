"""What each optimisation of the training step is worth, one taken back at a time.

    python tests/benchmarks/ablation.py [--repeats 5]

Variants take turns on one micro-batch of 16 news texts of mixed length (at most 512 tokens) and on
one of 8 documents of 128 tokens; tests/benchmarks/NOTES.md has the results and what they decided.
"""

import argparse
import statistics
import time

import pandas as pd
import torch
from bench import make_case
from contenders import DEVICE, DTYPE, MODEL_ID
from peft.tuners import lora
from torch import nn

from lib.config.arms import StudyParams
from lib.config.groups import HeadParams, LoraParams
from lib.head.model import EmbeddingModel
from lib.machine import configure_process
from lib.model.adapters import add_lora
from lib.model.batches import pad
from lib.model.fast import blocks as layers
from lib.model.fast import lora_linear as fused
from lib.model.fast.blocks import wrap_for_compiling
from lib.model.load import load_backbone
from lib.model.memory import fit_into_memory
from lib.model.weights import load_tokenizer


class Variant:
    """A model of its own that differs from the full step in what its name says."""

    def __init__(self, name: str) -> None:
        self.compiled = name != "without compiling"
        backbone = load_backbone(
            MODEL_ID, dtype=DTYPE, memory_gib=0.1 if name == "4-bit weights kept" else 0.0
        )
        model = EmbeddingModel(
            backbone, HeadParams(pooling="mean"), num_labels=8, compute_dtype=DTYPE
        )
        self.model = add_lora(model, LoraParams(lora_r=8, lora_alpha=16)).train()
        if name in ("padding, transformers' eager", "padding, transformers' sdpa"):
            backbone.set_attn_implementation(name.split()[-1])
            self.compiled = False  # it is for packed models
        else:
            wrap_for_compiling(backbone, num_tokens=10**9)
        if name == "peft's LoRA layers":
            for module in self.model.modules():
                if isinstance(module, fused._FusedForward):
                    module.__class__ = lora.Linear
        if name == "gradient checkpointing":
            fit_into_memory(self.model, num_tokens=2048, longest=512, memory_gib=1e-3)

    def step(self, input_ids, mask) -> float:
        stance = "default" if self.compiled else "force_eager"
        with torch.compiler.set_stance(stance):
            start = time.perf_counter()
            logits = self.model(input_ids, mask)
            targets = torch.zeros(len(input_ids), dtype=torch.long, device=DEVICE)
            nn.functional.cross_entropy(logits, targets).backward()
            self.model.zero_grad()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - start


NAMES = [
    "the full step",
    "without compiling",
    "peft's LoRA layers",
    "padding, transformers' eager",
    "padding, transformers' sdpa",
    "4-bit weights kept",
    "gradient checkpointing",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    configure_process(seed=0, num_threads=StudyParams().threads)
    torch._dynamo.config.recompile_limit = 64  # variants share the code of a block
    layers.COMPILE_FROM = dict.fromkeys(layers.COMPILE_FROM, 0)
    news = make_case("news", load_tokenizer(MODEL_ID), 16)["ids"]
    generator = torch.Generator().manual_seed(0)
    short = torch.randint(10, 40_000, (8, 128), generator=generator).tolist()
    batches = {
        "16 news texts": [x.to(DEVICE) for x in pad(news, 2)],
        "8 x 128 tokens": [x.to(DEVICE) for x in pad(short, 2)],
    }
    variants = {name: Variant(name) for name in NAMES}
    seconds: dict = {(name, batch): [] for name in NAMES for batch in batches}
    for repeat in range(repeats + 1):
        for name, variant in variants.items():
            for batch, tensors in batches.items():
                taken = variant.step(*tensors)
                if repeat:  # the first compiles and warms up
                    seconds[name, batch].append(taken)
    medians = pd.Series({key: statistics.median(values) for key, values in seconds.items()})
    table = medians.unstack().loc[NAMES, list(batches)]
    for batch in batches:
        table[f"{batch}: share"] = table[batch] / table.loc["the full step", batch]
    print(table.to_markdown(floatfmt=".2f"))


if __name__ == "__main__":
    main()
