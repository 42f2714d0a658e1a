import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path
from types import MethodType

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from conftest import MINILM
from peft import PeftModel
from torch._dynamo.utils import counters

from lib.config.arms import EmbeddingParams, InstructionParams
from lib.config.groups import HeadParams, LoraParams
from lib.data.labels import LabelSpace
from lib.errors import ModelError, NotFiniteError
from lib.evaluation.scores import Scores
from lib.head.losses import HeadLoss
from lib.head.model import EmbeddingModel, predict_logits
from lib.machine import choose_dtype
from lib.model import memory
from lib.model.adapters import add_lora
from lib.model.batches import pad
from lib.model.fast import blocks
from lib.model.fast.blocks import wrap_for_compiling
from lib.model.forward import maybe_compiled
from lib.model.load import load_backbone
from lib.model.memory import fit_into_memory
from lib.stopping import Stopped
from lib.training import trainer
from lib.training.checkpoints import last_checkpoint
from lib.training.evaluate import evaluate_embedding, evaluate_instruction
from lib.training.finetune import finetune_embedding, finetune_instruction
from lib.training.trainer import MicroBatchCollator

COMPUTE = choose_dtype(torch.device("cpu"))  # emulated bfloat16 would take minutes
OPTIONS = {
    "max_length": 24,
    "token_budget": 64,
    "num_epochs": 2,
    "batch_size": 4,
    "learning_rate": 5e-3,
    "warmup_share": 0.1,
}


@pytest.fixture
def examples():
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, 24, size=16)
    return [
        {"id": f"d{i}", "input_ids": [100 + i % 2, *generator.integers(5, 900, n)], "target": i % 2}
        for i, n in enumerate(lengths.tolist())
    ]


def finetune(
    make_backbone,
    examples,
    folder,
    mode="mean",
    dropout=0.1,
    head_loss=None,
    stop_epochs=0,
    **changes,
):
    torch.manual_seed(0)
    model = EmbeddingModel(
        make_backbone(), HeadParams(pooling=mode), num_labels=2, compute_dtype=COMPUTE
    )
    model = add_lora(model, LoraParams(lora_r=4, lora_alpha=8, lora_dropout=dropout))
    documents = [e["input_ids"] for e in examples]
    truth = np.array([e["target"] for e in examples])

    def evaluate(model):
        return {"micro_f1": float((logits(model).argmax(1) == truth).mean())}

    def logits(model):
        return predict_logits(model, documents, token_budget=200).values

    params = EmbeddingParams(**OPTIONS | changes)
    history, resources = finetune_embedding(
        model,
        examples,
        evaluate,
        params,
        head_loss=head_loss or HeadLoss("cross_entropy", 2),
        output_dir=folder,
        stop_epochs=stop_epochs,
    )
    return logits(model), history, resources


def checkpoint_all(monkeypatch):
    """Both layers, in micro-batches as large as ever."""
    monkeypatch.setattr(memory, "fit_micro_batch", lambda _, num_tokens, **more: (num_tokens, 2))


@pytest.mark.parametrize("mode", [pytest.param("mean", marks=pytest.mark.slow), "last"])
def test_checkpointed_layers_train_as_others(
    make_backbone, examples, tmp_path, caplog, monkeypatch, mode
):
    # Dropout draws as many numbers as are computed, which differ where all is computed again.
    same = {"mode": mode, "dropout": 0.1 if mode == "mean" else 0.0}
    plain, history, _ = finetune(make_backbone, examples, tmp_path / "plain", **same)
    checkpoint_all(monkeypatch)
    with caplog.at_level("INFO", "lib"):
        saved, again, _ = finetune(make_backbone, examples, tmp_path / "saved", **same)
    assert "gradient checkpointing of 2 layers" in caplog.text
    np.testing.assert_allclose(saved, plain, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(again["loss"].dropna(), history["loss"].dropna(), rtol=1e-3)


def test_the_last_call_decides_which_layers_of_an_encoder_are_checkpointed(monkeypatch):
    encoder = load_backbone(MINILM, quantization="none")
    layers = encoder.encoder.layer
    for count in (4, 2, 0, 3):
        monkeypatch.setattr(memory, "fit_micro_batch", lambda *_, n=count, **more: (64, n))
        fit_into_memory(encoder, num_tokens=64, longest=9, memory_gib=1.0)
        checkpointed = [getattr(layer.forward, "checkpointed", False) for layer in layers]
        assert checkpointed == [True] * count + [False] * (6 - count)
        assert isinstance(layers[0].forward.original, MethodType)  # installed once


@pytest.mark.slow
def test_compiled_blocks_keep_no_dequantized_weight(make_backbone, live_nf4, monkeypatch):
    """Else a compiled 8B model takes 13 GiB more: what it unpacks forward is there backward."""
    backend = "aot_eager_decomp_partition"  # what inductor keeps, without its kernels
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    backbone = make_backbone()
    model = EmbeddingModel(
        backbone, HeadParams(pooling="mean"), num_labels=2, compute_dtype=backbone.dtype
    )
    model = add_lora(model, LoraParams(lora_r=2, lora_alpha=4))
    assert wrap_for_compiling(model, num_tokens=10**9)
    torch._dynamo.reset()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        loss = model(*pad([range(10, 15)], 2)).sum()
    smallest = min(m.in_features * m.out_features for m in _linear4bit(model))
    assert not [x.shape for x in kept if x.is_floating_point() and x.numel() >= smallest]
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def _linear4bit(model):
    layers = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(layers) == 14
    return [m.base_layer if hasattr(m, "base_layer") else m for m in layers]


def test_compiled_blocks_train_and_predict_as_others(
    make_backbone, examples, tmp_path, monkeypatch
):
    changes = {"num_epochs": 1}
    plain, history, _ = finetune(make_backbone, examples, tmp_path / "plain", **changes)
    monkeypatch.setattr(blocks, "COMPILE_FROM", dict.fromkeys(blocks.COMPILE_FROM, 0))
    compiled, again, _ = finetune(make_backbone, examples, tmp_path / "compiled", **changes)
    np.testing.assert_allclose(again["loss"].dropna(), history["loss"].dropna(), rtol=0.03)
    np.testing.assert_allclose(compiled, plain, rtol=0.1, atol=0.1)
    checkpoint_all(monkeypatch)
    compiled, again, _ = finetune(make_backbone, examples, tmp_path / "both", **changes)
    np.testing.assert_allclose(again["loss"].dropna(), history["loss"].dropna(), rtol=0.03)
    np.testing.assert_allclose(compiled, plain, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("adapted", "mode", "graphs"),
    [pytest.param(3, "mean", 2, marks=pytest.mark.slow), (2, "last", 1)],
)
def test_one_compilation_serves_all_lengths_with_and_without_lower_layers(
    make_backbone, monkeypatch, adapted, mode, graphs
):
    # What is compiled counts, not how.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    backbone = make_backbone(layers=3)
    model = EmbeddingModel(
        backbone, HeadParams(pooling=mode), num_labels=2, compute_dtype=backbone.dtype
    )
    model = add_lora(model, LoraParams(lora_r=2, lora_alpha=4, lora_layers=adapted))
    assert wrap_for_compiling(model, num_tokens=10**9)
    torch._dynamo.reset()
    counters.clear()
    for lengths in ((5, 7), (6, 9, 3), (11, 4), (8, 8, 8, 8)):
        input_ids, mask = pad([range(10, 10 + n) for n in lengths], 2)
        states = torch.zeros(sum(lengths), backbone.config.hidden_size, dtype=backbone.dtype)
        model(input_ids, mask, cached_states=states if adapted < 3 else None).sum().backward()
    assert not counters["graph_break"]
    # The first block's input needs no gradient; a last one of which little is read is left out.
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
def test_the_number_of_tokens_decides_whether_a_prediction_is_compiled(make_backbone, monkeypatch):
    """Not what ran before: the same documents get the same scores, bit for bit."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(blocks, "COMPILE_FROM", dict.fromkeys(blocks.COMPILE_FROM, 30))
    backbone = make_backbone()
    model = EmbeddingModel(
        backbone, HeadParams(pooling="mean"), num_labels=2, compute_dtype=backbone.dtype
    )
    model = add_lora(model, LoraParams(lora_r=2, lora_alpha=4))
    torch._dynamo.reset()
    counters.clear()
    graphs, logits = [], []
    for count in (2, 3, 2, 5):
        logits.append(predict_logits(model, [range(10, 20)] * count, token_budget=20).values)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [0, 1, 1, 1]
    assert np.array_equal(logits[0], logits[2])
    with maybe_compiled(model, 30):
        model(*pad([range(10, 20)] * 3, 2)).sum().backward()
    assert counters["stats"]["unique_graphs"] == 3
    assert not counters["graph_break"]


def test_compiling_after_checkpointing_keeps_both(make_backbone, monkeypatch):
    model = make_backbone()
    checkpoint_all(monkeypatch)
    fit_into_memory(model, num_tokens=64, longest=9, memory_gib=1.0)
    for _ in range(2):
        assert wrap_for_compiling(model, num_tokens=10**9)
        for block in model.layers:
            assert block.forward.checkpointed
            assert block.forward.compiled
            assert isinstance(block.forward.original, MethodType)


@pytest.mark.parametrize("packed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_same_seed_same_logits_whatever_the_evaluation_interval(
    make_backbone, examples, tmp_path, request, packed
):
    """Bit for bit, with packed 4-bit weights and with dequantized ones."""
    if packed:
        request.getfixturevalue("live_nf4")
    first, history, resources = finetune(make_backbone, examples, tmp_path / "a")
    again, _, _ = finetune(make_backbone, examples, tmp_path / "b")
    often, curve, _ = finetune(make_backbone, examples, tmp_path / "c", eval_steps=1)
    assert np.array_equal(first, again)
    assert np.array_equal(first, often)
    assert history["eval_micro_f1"].notna().sum() == 2
    assert curve["eval_micro_f1"].notna().sum() > 2
    assert curve["loss"].dropna().tolist() == history["loss"].dropna().tolist()
    assert resources["train_seconds"] > 0


def test_training_learns_and_another_seed_differs(make_backbone, examples, tmp_path):
    logits, history, _ = finetune(make_backbone, examples, tmp_path / "a", num_epochs=6)
    other, _, _ = finetune(make_backbone, examples, tmp_path / "b", num_epochs=6, seed=1)
    loss = history["loss"].dropna()
    assert loss.iloc[-1] < loss.iloc[0]
    assert (logits.argmax(1) == [e["target"] for e in examples]).mean() > 0.9
    assert not np.array_equal(logits, other)


def test_an_interrupted_run_resumes_to_the_same_result(make_backbone, examples, tmp_path, caplog):
    """Killed by an error in its third epoch; then moved behind its last checkpoint, or damaged."""
    whole, _, _ = finetune(make_backbone, examples, tmp_path / "whole", num_epochs=3)

    real = trainer.MicroBatchCollator.__call__
    calls = []

    def dying(self, batch):
        calls.append(1)
        if len(calls) > 11:  # four steps an epoch: in the third
            raise KeyboardInterrupt
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.MicroBatchCollator, "__call__", dying)
        with pytest.raises(KeyboardInterrupt):
            finetune(make_backbone, examples, tmp_path / "resumed", num_epochs=3, save_steps=1)
    last = Path(last_checkpoint(tmp_path / "resumed"))
    assert last.name in ("checkpoint-9", "checkpoint-10")
    # Killed while it wrote another checkpoint, which is then of no use.
    (tmp_path / "resumed" / "checkpoint-99").mkdir()
    resumed, history, _ = finetune(make_backbone, examples, tmp_path / "resumed", num_epochs=3)
    assert np.array_equal(whole, resumed)
    assert history["eval_micro_f1"].notna().sum() == 3
    assert "checkpoint-99: checksums.json is missing; training goes on from the" in caplog.text


@pytest.fixture(scope="module")
def behind_the_last(cut_model, tmp_path_factory):
    """Logits and checkpoints of a run whose first epoch is best: `finetune`'s made-up scores."""
    folder = tmp_path_factory.mktemp("trained")
    return finetune_falling(cut_model, folder / "there"), folder / "there"


def finetune_falling(cut_model, folder):
    """Logits of the best epoch, where validation scores fall from epoch to epoch."""
    rng = np.random.default_rng(0)
    rows = [{"id": f"d{i}", "input_ids": [100 + i % 2, *rng.integers(5, 900, 6)], "target": i % 2}
            for i in range(8)]  # fmt: skip
    torch.manual_seed(0)
    model = EmbeddingModel(
        load_backbone(cut_model(2)), HeadParams(), num_labels=2, compute_dtype=COMPUTE
    )
    model = add_lora(model, LoraParams(lora_r=2, lora_alpha=4))
    scores = iter((0.9, 0.5, 0.4)) if not folder.exists() else iter((0.4, 0.3))
    finetune_embedding(
        model, rows, lambda _: {"micro_f1": next(scores)},
        EmbeddingParams(**OPTIONS | {"num_epochs": 3}),
        head_loss=HeadLoss("cross_entropy", 2), output_dir=folder,
    )  # fmt: skip
    return predict_logits(model, [row["input_ids"] for row in rows], token_budget=200).values


def test_a_run_that_is_moved_behind_its_last_checkpoint_takes_its_best_one(
    behind_the_last, cut_model, tmp_path
):
    expected, there = behind_the_last
    shutil.copytree(there, tmp_path / "moved")
    assert sorted(path.name for path in there.iterdir()) == ["checkpoint-2", "checkpoint-6"]
    for file in there.glob("checkpoint-2/adapter_model.safetensors"):  # nothing is read there
        file.rename(tmp_path / "elsewhere.safetensors")
    try:
        assert np.array_equal(finetune_falling(cut_model, tmp_path / "moved"), expected)
    finally:
        (tmp_path / "elsewhere.safetensors").rename(
            there / "checkpoint-2" / "adapter_model.safetensors"
        )


def test_checkpoints_are_read_whole_also_where_peft_leaves_tensors_out(
    behind_the_last, cut_model, tmp_path, monkeypatch
):
    expected, there = behind_the_last
    monkeypatch.setattr(PeftModel, "load_adapter", lambda *args, **options: None)
    assert np.array_equal(finetune_falling(cut_model, tmp_path / "best"), expected)
    shutil.copytree(there / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    assert np.array_equal(finetune_falling(cut_model, tmp_path / "resumed"), expected)


@pytest.mark.parametrize(
    ("name", "damage", "fault"),
    [
        ("optimizer.pt", None, "optimizer.pt is missing"),
        ("adapter_model.safetensors", 100, "adapter_model.safetensors is cut"),
        ("checksums.json", 0, "checksums.json is damaged"),
        ("trainer_state.json", 10, "trainer_state.json is cut"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    behind_the_last, cut_model, tmp_path, caplog, name, damage, fault
):
    expected, there = behind_the_last
    shutil.copytree(there, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint-6" / name
    file.unlink() if damage is None else file.write_bytes(file.read_bytes()[:damage])
    os.utime(tmp_path / "run" / "checkpoint-2")  # steps count, not times
    assert np.array_equal(finetune_falling(cut_model, tmp_path / "run"), expected)
    assert f"checkpoint-6: {fault}; training goes on from the checkpoint before" in caplog.text


def test_a_run_that_stops_between_epochs_goes_on_to_the_same_result(
    make_backbone, examples, tmp_path
):
    whole, _, _ = finetune(make_backbone, examples, tmp_path / "whole", num_epochs=3)
    epochs = []
    for stop in (1, 2, 0):
        options = {"num_epochs": 3, "stop_epochs": stop}
        paused, history, _ = finetune(make_backbone, examples, tmp_path / "paused", **options)
        epochs.append(history["eval_micro_f1"].notna().sum())
    assert epochs == [1, 2, 3]
    assert np.array_equal(whole, paused)


def test_an_epochs_end_is_evaluated_once(make_backbone, examples, tmp_path):
    """Also where `eval_steps` divides an epoch of four steps: it decides which epoch is best."""
    _, history, _ = finetune(make_backbone, examples, tmp_path, num_epochs=2, eval_steps=2)
    assert [step for step, _ in evaluations(history)] == [2, 4, 6, 8]


def evaluations(history):
    """Steps and scores of all evaluations."""
    return history.dropna(subset="eval_micro_f1")[["step", "eval_micro_f1"]].values.tolist()


def test_a_run_that_is_asked_to_stop_at_any_moment_resumes_to_the_same_result(
    make_backbone, examples, tmp_path
):
    options = {"num_epochs": 2, "eval_steps": 3, "save_steps": 3}
    whole, history, _ = finetune(make_backbone, examples, tmp_path / "whole", **options)
    calls = {}

    def asking(function, at, number):
        """The function, in whose call number `at` the signal arrives."""

        def call(*arguments, **named):
            calls[function] = calls.get(function, 0) + 1
            if calls[function] == at:
                signal.raise_signal(number)
            return function(*arguments, **named)

        return call

    steps = []
    for loss_at, evaluation_at in [(3, 0), (0, 1), (2, 0)]:
        calls.clear()
        number = signal.SIGINT if evaluation_at else signal.SIGTERM
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped) as stopped:
            patch.setattr(EmbeddingModel, "loss", asking(EmbeddingModel.loss, loss_at, number))
            patch.setitem(
                globals(), "predict_logits", asking(predict_logits, evaluation_at, number)
            )
            finetune(make_backbone, examples, tmp_path / "stopped", **options)
        message = re.fullmatch(
            "stopped at step (.) of 8; run it again to go on", str(stopped.value)
        )
        steps.append(int(message[1]))
    assert steps == sorted(steps)
    assert steps[1] == 3  # in its evaluation
    resumed, again, _ = finetune(make_backbone, examples, tmp_path / "stopped", **options)
    assert np.array_equal(whole, resumed)
    assert evaluations(again) == evaluations(history)
    assert not again["train_seconds"].dropna().diff().lt(0).any()


@pytest.mark.parametrize("soft", [False, True])
def test_micro_batches_give_the_gradient_of_the_whole_batch(make_backbone, examples, soft):
    if soft:  # what a teacher thinks of each label
        probs = np.random.default_rng(1).dirichlet((1, 1), size=16).astype(np.float32)
        examples = [e | {"target": row} for e, row in zip(examples, probs, strict=True)]
    model = EmbeddingModel(
        make_backbone(quantization="none", dtype="float32"),
        HeadParams(pooling="last"),
        num_labels=2,
        compute_dtype=torch.float32,
    )
    gradients = []
    for budget in (10_000, 40):
        model.zero_grad()
        batch = MicroBatchCollator(budget, 2, packed=True)(examples)
        for micro in batch["micro_batches"]:
            logits = model(micro["input_ids"], micro["attention_mask"])
            loss = torch.nn.functional.cross_entropy(logits, micro["targets"], reduction="sum")
            (loss / batch["num_documents"]).backward()
        gradients.append(model.head.classifier.weight.grad.clone())
    assert len(batch["micro_batches"]) > 1
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_the_head_learns_at_a_rate_of_its_own(make_backbone):
    model = EmbeddingModel(
        make_backbone(), HeadParams(pooling="mean"), num_labels=2, compute_dtype=COMPUTE
    )
    model = add_lora(model, LoraParams(lora_r=2, lora_alpha=4))
    groups = trainer.parameter_groups(
        model, learning_rate=1e-3, head_learning_rate=1e-2, weight_decay=0.1
    )
    sizes = {(g["lr"], g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in groups}
    linear = {n: p for n, p in model.named_parameters() if p.requires_grad}
    of_adapters = sum(p.numel() for n, p in linear.items() if "lora_" in n)
    assert sizes == {(1e-3, 0.1): of_adapters, (0.01, 0.1): 2 * 576, (0.01, 0.0): 2}


def test_a_loss_that_is_not_finite_stops_with_step_documents_and_rate(
    make_backbone, examples, tmp_path
):
    with pytest.raises(NotFiniteError, match=r"step \d+, documents d\d+.*learning rate"):
        finetune(make_backbone, examples, tmp_path, learning_rate=1e30)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(
    make_backbone, examples, tmp_path, monkeypatch
):
    real = EmbeddingModel.loss

    def infinite(model, *arguments):  # the slope of a root at 0, where the loss is as before
        return real(model, *arguments) + (0 * model.head.classifier.weight).sum().sqrt()

    monkeypatch.setattr(EmbeddingModel, "loss", infinite)
    with pytest.raises(NotFiniteError, match="the gradient's norm is nan at step 1, documents d"):
        finetune(make_backbone, examples, tmp_path)


@pytest.mark.parametrize("most", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_a_step_without_enough_memory_is_repeated_with_the_same_documents(
    make_backbone, examples, tmp_path, monkeypatch, most
):
    options = {"num_epochs": 1, "dropout": 0.0}
    whole, *_ = finetune(make_backbone, examples, tmp_path / "whole", **options)
    real = EmbeddingModel.loss

    def loss(model, input_ids, *arguments):
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, input_ids, *arguments)

    monkeypatch.setattr(EmbeddingModel, "loss", loss)
    if not most:
        with pytest.raises(ModelError, match=r"step 1: .* for one document"):
            finetune(make_backbone, examples, tmp_path / "halved", **options)
        return
    halved, history, _ = finetune(make_backbone, examples, tmp_path / "halved", **options)
    assert np.allclose(whole, halved, atol=1e-3 if torch.float32 == COMPUTE else 1e-2)
    assert history["token_budget"].notna().sum() >= 1


@pytest.mark.parametrize("supervised", [0, 5])
def test_rows_without_prompt_or_answer_are_refused(make_backbone, tmp_path, supervised):
    """A fully truncated answer would train on a loss of zero."""
    rows = [{"id": "d7", "input_ids": [1, 2, 3, 4, 5], "target": supervised}]
    with pytest.raises(ValueError, match=f"document d7: {supervised} of 5 tokens are supervised"):
        finetune_instruction(
            None,
            rows,
            dict,
            InstructionParams(**OPTIONS),
            compute_dtype=COMPUTE,
            output_dir=tmp_path,
        )


def test_instruction_training_lowers_the_loss_of_the_answers(make_backbone, tmp_path):
    rows = [
        {"id": f"d{i}", "input_ids": [5, 6, 100 + i % 2, 7, 200 + i % 2, 2], "target": 2}
        for i in range(16)
    ]
    model = add_lora(make_backbone("lm"), LoraParams(lora_r=4, lora_alpha=8))
    history, _ = finetune_instruction(
        model, rows, lambda _: {"micro_f1": 0.0}, InstructionParams(**OPTIONS),
        compute_dtype=COMPUTE, output_dir=tmp_path,
    )  # fmt: skip
    loss = history["loss"].dropna()
    assert loss.iloc[-1] < 0.5 * loss.iloc[0]


def test_label_sets_are_learnt_label_by_label(make_backbone, examples, tmp_path):
    """Binary cross-entropy, against PyTorch's own on the same logits."""
    truth = np.array([[i % 2, 1, 0] for i in range(len(examples))], dtype="float32")
    examples = [
        e | {"target": np.flatnonzero(row).tolist()} for e, row in zip(examples, truth, strict=True)
    ]
    torch.manual_seed(0)
    model = EmbeddingModel(
        make_backbone(), HeadParams(pooling="mean"), num_labels=3, compute_dtype=COMPUTE
    )
    documents = [e["input_ids"] for e in examples]
    before = torch.tensor(predict_logits(model, documents, token_budget=200).values)
    expected = torch.nn.BCEWithLogitsLoss(reduction="none")(before, torch.tensor(truth)).sum(1)
    evaluate = partial(
        evaluate_embedding, documents=documents, y_true=truth > 0, multi_label=True,
        token_budget=200,
    )  # fmt: skip
    model = add_lora(model, LoraParams(lora_r=4, lora_alpha=8, lora_dropout=0.0))
    params = EmbeddingParams(**OPTIONS | {"num_epochs": 6, "batch_size": 16})
    head_loss = HeadLoss("cross_entropy", 3)
    history, _ = finetune_embedding(
        model, examples, evaluate, params, head_loss=head_loss, output_dir=tmp_path
    )
    assert history["loss"].dropna().iloc[0] == pytest.approx(float(expected.mean()), rel=0.02)
    assert history["eval_micro_f1"].max() > 0.9


def test_a_rung_counts_the_empty_set_as_an_answer_and_others_outside(monkeypatch):
    space = LabelSpace(("a", "b"), none="none")
    truth = np.array([[True, False], [False, False], [False, False]])
    for answers, rate, accuracy in (
        ([["a"], [], []], 0.0, 1.0),
        ([["a"], [""], [""]], 2 / 3, 1 / 3),
    ):
        decoded = (answers, Scores(np.zeros((3, 2))))
        monkeypatch.setattr(
            "lib.training.evaluate.decode_labels", lambda *_, found=decoded, **__: found
        )
        metrics = evaluate_instruction(
            None, label_space=space, y_true=truth, strategy="steps", multi_label=True
        )
        assert metrics["out_of_set_rate"] == pytest.approx(rate)
        assert metrics["accuracy"] == metrics["samples_f1"] == pytest.approx(accuracy)
