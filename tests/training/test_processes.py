"""Two processes that train one run: the same as one within rounding, and how they end.

Models are small and random. Processes are joined by gloo. Fresh ones take half a minute to import
all; most tests have forks of this one in their place.
"""

import json
import multiprocessing
import os
import re
import signal
import sys
from functools import partial
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import papermill
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from lib.config.arms import EmbeddingParams, InstructionParams
from lib.config.groups import HeadParams, LoraParams
from lib.errors import ModelError, NotFiniteError, ParamsError
from lib.head.losses import HeadLoss
from lib.head.model import EmbeddingModel, predict_logits
from lib.model.adapters import add_lora
from lib.runs.finished import read_predictions
from lib.stopping import Stopped
from lib.training import finetune_embedding, finetune_instruction, in_processes, processes, sharing
from lib.training.finetune import answer_log_probs
from lib.training.trainer import MicroBatchCollator

# As of a notebook, which other processes cannot import.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

CPU = torch.device("cpu")
OPTIONS = {
    "max_length": 24, "token_budget": 64, "num_epochs": 2, "batch_size": 4, "learning_rate": 5e-3,
    "dtype": "float32", "num_threads": 2, "num_processes": 2,
}  # fmt: skip
SIZES = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def documents():
    """Of these 13, the last step of an epoch has one: nothing is left for the second process."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, 24, size=13).tolist()
    return [[100 + i % 2, *generator.integers(5, 900, n).tolist()] for i, n in enumerate(lengths)]


def fit(run, stop_epochs=0):
    """A training as notebooks define it: its history, and the answers of the best weights."""
    torch.set_num_threads(1)
    config = LlamaConfig(**run.sizes, pad_token_id=0)
    model = (LlamaModel if run.head == "none" else LlamaForCausalLM)(config).requires_grad_(False)
    if run.head == "none":
        model = EmbeddingModel(model, HeadParams(), num_labels=2, compute_dtype=torch.float32)
    model = add_lora(model, LoraParams(lora_r=4, lora_alpha=8))
    rows = [
        {"id": f"d{i}", "input_ids": tokens, "target": i % 2 if run.head == "none" else 2}
        for i, tokens in enumerate(documents())
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MicroBatchCollator, "__call__", recording(run))
        if run.head == "none":
            finetune, options = finetune_embedding, {"head_loss": HeadLoss("cross_entropy", 2)}
        else:
            finetune, options = finetune_instruction, {"compute_dtype": torch.float32}
        history, _ = finetune(model, rows, partial(score, run), run.params, **options,
                              output_dir=run.checkpoints, stop_epochs=stop_epochs)  # fmt: skip
    if run.head == "none":
        return history, predict_logits(model, documents(), token_budget=200).values
    batch = MicroBatchCollator(10_000, 2, packed=True)(rows)["micro_batches"][0]
    with torch.no_grad():
        return history, answer_log_probs(model, batch, torch.float32).numpy()


def score(run, model):
    """A metric that rises; each call is noted."""
    with (run.checkpoints.parent / "evaluated.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
        file.flush()
    return {"micro_f1": len((run.checkpoints.parent / "evaluated.txt").read_text()) / 1e6}


def recording(run):
    """The collator, which notes each step's documents, and at a given one does what it is asked."""
    real, calls = MicroBatchCollator.__call__, []

    def call(self, examples):
        batch = real(self, examples)
        calls.append(batch["ids"])
        if sharing.count() == run.params.num_processes:
            own = [batch["ids"], batch["num_own"], sum(len(m["targets"]) for m in
                   batch["micro_batches"])]  # fmt: skip
            with (run.checkpoints.parent / f"documents-{sharing._index()}").open("a") as file:
                file.write(json.dumps(own) + "\n")
            if (sharing._index(), len(calls)) == (run.victim, run.at):
                os.kill(os.getppid() if run.signal == signal.SIGTERM else os.getpid(), run.signal)
        return batch

    return call


class Fork:
    """A process as `subprocess.Popen` shows it, which has imported all before it begins."""

    def __init__(self, folder, index, run):
        task = (folder / "task").open("rb")
        arguments = ["", str(folder), str(index)], SimpleNamespace(buffer=task)
        self._process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
        self._process.start()
        task.close()
        self.pid, self.kill, self.terminate = (
            getattr(self._process, name) for name in ("pid", "kill", "terminate")
        )
        self.wait = self._process.join

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode


def work(arguments, stdin):
    sys.argv, sys.stdin = arguments, stdin
    processes._work()


@pytest.fixture
def forked(monkeypatch):
    if not torch.cuda.is_available():  # with a GPU, autograd does not survive a fork
        monkeypatch.setattr(processes, "_start", Fork)


@pytest.fixture(params=["forked", pytest.param("fresh", marks=pytest.mark.slow)])
def started(request):
    """How processes start."""
    if request.param == "forked":
        request.getfixturevalue("forked")


@pytest.fixture
def make_run(tmp_path):
    """Parts of an open run that a training needs: `make_run("two", num_processes=2)`."""

    def make(name, head="none", *, victim=None, at=None, number=None, **changes):
        kind = EmbeddingParams if head == "none" else InstructionParams
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return SimpleNamespace(
            params=kind(**OPTIONS | changes), device=CPU, peaks=[], head=head, sizes=SIZES,
            checkpoints=folder / "checkpoints", victim=victim, at=at, signal=number,
        )  # fmt: skip

    return make


def train(run):
    """Loss of each step and answers afterwards, in as many processes as the run asks for."""
    torch.manual_seed(1)
    history, answers = in_processes(fit)(run)
    return history["loss"].dropna().to_numpy(), answers


def noted(run, index=0):
    """Documents of each step, and how many of them were this process's own, twice."""
    file = run.checkpoints.parent / f"documents-{index}"
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE)


@pytest.mark.parametrize("head", ["none", "lm"])
def test_two_processes_train_as_one(make_run, started, head):
    alone, two = make_run("alone", head, num_processes=1), make_run("two", head)
    check_equal(train(two), train(alone))
    # The same documents per step, dealt out; of the last one's document each epoch, one has none.
    steps, first, second = noted(alone), noted(two), noted(two, 1)
    assert len(steps) == 2 * 4
    assert [ids for ids, *_ in steps] == [ids for ids, *_ in first] == [ids for ids, *_ in second]
    assert all(own == trained for _, own, trained in (*first, *second))
    assert [own for _, own, _ in second][3::4] == [0, 0]
    assert [a[1] + b[1] for a, b in zip(first, second, strict=True)] == [4, 4, 4, 1] * 2
    # One evaluates; both have taken memory.
    assert len(set((two.checkpoints.parent / "evaluated.txt").read_text().split())) == 1
    assert two.peaks[0] > 0


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_goes_on_with_any_number_of_processes(make_run, forked, number):
    expected = train(make_run("alone", num_processes=1))
    stopped = make_run("two", victim=1, at=3, number=signal.SIGTERM)
    with pytest.raises(Stopped, match=r"^stopped at step \d of 8; run it again to go on$") as error:
        train(stopped)
    step = re.search(r"\d", str(error.value))[0]
    assert (stopped.checkpoints / f"checkpoint-{step}" / "checksums.json").exists()
    check_equal(train(make_run("two", num_processes=number)), expected)


@pytest.mark.slow
def test_a_process_that_is_killed_is_named_in_one_line_and_the_run_goes_on(make_run, started):
    expected = train(make_run("alone", num_processes=1))
    with pytest.raises(ModelError) as error:
        train(make_run("two", victim=1, at=6, number=signal.SIGKILL))
    line = r"num_processes: process 2 of 2 \(pid \d+\) was killed \(SIGKILL\), most often because "
    assert re.fullmatch(line + "memory ran out: .*; run it again to go on", str(error.value))
    check_equal(train(make_run("two")), expected)


@pytest.mark.slow
def test_an_error_of_a_process_is_that_of_the_run(make_run, forked):
    with pytest.raises(NotFiniteError, match=r"step \d, documents d\d+, .*learning rate"):
        train(make_run("two", learning_rate=1e30))
    run = make_run("other")
    run.sizes = {"hidden_size": 0}
    with pytest.raises(RuntimeError, match=r"^process [12]: \w+Error: ") as error:
        train(run)
    assert "in fit" in error.value.__notes__[0]


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ("os.kill(os.getpid(), 9)", r"process 1 of 2 \(pid \d+\) was killed \(SIGKILL\), most"),
        ("sys.exit(3)", r"process 1 of 2 \(pid \d+\) ended, most often"),
    ],
)
def test_others_end_with_a_process_that_ends_early(monkeypatch, ends, message):
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    start = "import os, sys, time\n" + f"if sys.argv[2] == '0': {ends}\n" + "time.sleep(600)"
    monkeypatch.setattr(processes, "START", start)
    run = SimpleNamespace(params=EmbeddingParams(num_processes=2), device=CPU)
    with pytest.raises(ModelError, match=message):
        in_processes(lambda run, stop_epochs: None)(run)


def test_a_function_with_a_cache_gets_an_empty_one():
    script = """
import io, functools, pickle
from lib.training.processes import _Pickler

@functools.lru_cache(maxsize=2)
def square(number):
    return number * factor

factor = 3
square(2)
file = io.BytesIO()
_Pickler(file).dump(square)
again = pickle.loads(file.getvalue())
assert again(2) == 6
assert again.cache_info()[1:] == (1, 2, 1)
"""
    exec(script, {"__name__": "__main__"})


def test_more_processes_than_documents_or_devices_are_refused_and_not_searched():
    with pytest.raises(ValueError, match="num_processes: 9 for batch_size 8; lower it"):
        EmbeddingParams(num_processes=9)
    with pytest.raises(ValueError, match="search: num_processes: belongs to the study or the run"):
        EmbeddingParams(search={"num_processes": [1, 2]})
    with pytest.raises(ParamsError, match="num_processes: 3 are more than the 2 CPU threads"):
        processes.require_devices(3, CPU, num_threads=2)


def test_a_process_by_itself_shares_nothing():
    parameter = torch.nn.Parameter(torch.zeros(2))
    loss = torch.tensor(1.0)
    assert sharing.sum_gradients(loss, [parameter]) is loss
    assert sharing.own_share([3, 1, 2]) == [0, 1, 2]
    assert sharing.any_asks(True)
    assert sharing.from_first(lambda: 7) == 7


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["03_finetune_embedding", "04_finetune_instruction"])
def test_a_notebook_in_two_processes_predicts_as_in_one(notebook, tmp_path):
    values = {
        "study": "smoke", "arm": notebook.split("_")[2], "num_train": 18, "num_validation": 8,
        "num_test": 16, "num_threads": 2, "num_epochs": 2,
    }  # fmt: skip
    if notebook == "03_finetune_embedding":
        values["search"] = "{learning_rate: [1.0e-3, 2.0e-3]}"
    scores, resources = [], []
    for number in (1, 2):
        given = values | {"num_processes": number, "runs_dir": str(tmp_path / str(number))}
        arguments = [x for key, value in given.items() for x in ("-y", f"{key}: {value}")]
        done = papermill(notebook, tmp_path / f"{number}.ipynb", *arguments)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / str(number) / "smoke" / values["arm"] / "seed-0"
        table = read_predictions(folder)
        scores.append(np.stack(table["scores"]))
        resources.append(json.loads((folder / "resources.json").read_text()))
        assert len(pd.read_parquet(folder / "history.parquet")["eval_micro_f1"].dropna()) == 2
    np.testing.assert_allclose(scores[0], scores[1], rtol=0.01, atol=0.01)
    print([r["train_seconds"] for r in resources], [r["peak_memory_gib"] for r in resources])
