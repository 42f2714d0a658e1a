"""A study of one's own file, of a size that this machine has the time for."""

import heapq
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unicodedata import normalize

import pandas as pd
import yaml

from lib.config.arms import StudyParams
from lib.config.data import DataParams
from lib.config.groups import TrainParams
from lib.config.strict_yaml import parse_params, read_yaml
from lib.config.study import load_params, study_files
from lib.data.columns import find_columns, parts_of
from lib.data.labels import LabelSpace
from lib.data.load import load_splits
from lib.data.locate import ONE_FILE, SPLIT_WORDS, locate, short_path
from lib.data.tables import UNSPLIT, read_parts
from lib.errors import DataError, ParamsError
from lib.machine import choose_device, configure_process
from lib.runs.advice import cautions, label_texts, language, prompt
from lib.runs.plan import measure_this_machine, plan
from lib.runs.rates import Machine
from lib.runs.reading import share_cut, with_length
from lib.storage import ROOT, atomic_path

MODELS = ("answer/models", "answer_gpu/models")  # folders of params/, one folder per model
BASELINES = "answer/baselines"
OF_SPLITS = ("split_column", "split_names")
# Names that Snakemake would read as a number or a truth value.
NUMBER = re.compile(r"(?i)[\d._]+(e-?\d+)?|nan|inf(inity)?|true|false")

# All numbers from here on are our choices.
HELD_OUT = 5  # one document in five is for test where there is no test split
MIN_VALIDATION, MAX_VALIDATION = 100, 400  # documents: half as many as train, within these
BATCH_SIZE = TrainParams.model_fields["batch_size"].default
SLACK = 1.5  # the planner's estimates were 1.1 to 1.5 times too short (docs/speed.md)
FEW_STEPS, SMALL_BATCH = 150, 4  # with fewer optimizer steps, batches are small (docs/head.md)
START_SECONDS, REPORT_SECONDS = 20.0, 60.0  # of an arm's process; of the comparison


class Size(NamedTuple):
    """The work of a study: documents, candidates per arm, and tokens per document at most."""

    num_train: int
    num_test: int
    tries: int
    max_length: int


# The first that there is time for is chosen. The encoder has 512 positions, two of them its own.
SIZES = (
    Size(2000, 2000, 6, 510),
    Size(2000, 2000, 6, 256),
    Size(1000, 1000, 6, 128),
    Size(1000, 1000, 3, 128),
    Size(500, 1000, 2, 96),
    Size(500, 500, 2, 64),
    Size(250, 300, 2, 64),
)


@dataclass(frozen=True)
class NewStudy:
    """A study before it is written."""

    values: dict[str, Any]  # of common.yaml
    arms: dict[str, str]  # text of each arm's file, by its name
    label_texts: Mapping[str, str]

    def write(self, folder: Path, final: Path) -> None:
        """Write the study's files into a new folder, which will be called `final`."""
        folder.mkdir()
        values = dict(self.values)
        if self.label_texts:
            texts = json.dumps(self.label_texts, ensure_ascii=False, indent=1)
            (folder / "labels.json").write_text(texts, encoding="utf-8")
            values["label_names"] = str(short_path(final / "labels.json"))
        command = f"make study STUDY={values['study']}"
        lines = [f"# Written by `python -m lib new`. Change what you like, then run `{command}`."]
        lines += [f"{key}: {_written(value)}" for key, value in values.items()]
        (folder / "common.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name, text in self.arms.items():
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def new_study(
    data: str,
    *,
    text: Sequence[str] = (),
    label: str = "",
    name: str = "",
    minutes: float = 30.0,
    model: str = "135m",
    params_dir: Path = ROOT / "params",
    say: Callable[[str], None] = print,
) -> str:
    """Write `params/<name>/` for a file of texts and labels; returns the name.

    If there is a study of that name on the same file, it stays as it is.

    Raises `DataError` if the file cannot be read or its columns are not clear, and `ParamsError` if
    the name is another study's or there is no such model.

    Parameters
    ----------
    data
        A file, a folder with a file per split, one of these files, or a path with `{split}`.
    text, label
        Columns, where they cannot be told from their names and cells.
    name
        Of the study; "": that of the file.
    minutes
        Time that the study may take on this machine. The smallest size is written even if it takes
        longer.
    model
        Name of a folder in one of `MODELS`.
    say
        Called with each line of what was chosen, and why.
    """
    dataset, names, stem = locate(data, say)
    plain = normalize("NFKD", stem).encode("ascii", "ignore").decode()  # ü as u
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-") or "mine"
    name = name or (f"study_{plain}" if NUMBER.fullmatch(plain) else plain)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or NUMBER.fullmatch(name):
        raise ParamsError(f"name: {name!r}: write a word of letters, digits and . _ -, no number")
    folder = params_dir / name
    if folder.exists():
        found = read_yaml(folder / "common.yaml").get("dataset")
        if found not in (dataset, dataset.replace("{split}", names[0])):  # or of train alone
            raise ParamsError(f"{folder}: is a study of {found}; name another one, NAME=<name>")
        say(f"{short_path(folder)} is there already and stays; remove it to choose anew")
        return name
    preset = _model_folder(params_dir, model)

    # The documents: columns, splits, labels.
    values, usable, least = _documents(dataset, names, data, text, label, say)
    values = {"study": name, "seeds": [0]} | values
    most = _sized(values, usable, SIZES[0], least) | _of_model(preset)
    largest = parse_params(StudyParams, most, source=data)
    splits = load_splits(largest)
    labels = LabelSpace.from_splits(splits)
    texts = splits["train"]["text"]
    say(_line("language", language(texts)))
    for caution in cautions(splits, labels, data):
        say(_line("caution", caution))

    # The prompt.
    values |= prompt(values, labels)
    if texts_of := label_texts(labels):
        say(_line("prompt", "labels are written without underscores (labels.json)"))

    # Sizes that this machine has the time for.
    base = load_params(*study_files(preset).common)
    on_gpu, cores = choose_device(base.device).type == "cuda", StudyParams().threads
    slots = 1 if on_gpu else min(2, cores)  # arms that run side by side
    values["num_threads"] = 0 if on_gpu else cores // slots
    configure_process(seed=0, num_threads=values["num_threads"])
    machine = measure_this_machine(base, seconds=5.0)
    covering = with_length(largest.model_copy(update={"max_length": "auto"}), texts).max_length
    for size in SIZES:
        common = _sized(values, usable, size, least)
        common["max_length"] = min(covering, size.max_length)
        held = sum(common[f"num_{part}"] for part in ("validation", "test") if part not in usable)
        num_train = common["num_train"] or int(usable["train"]) - held
        study = _of_size(common, size.tries, preset, params_dir / BASELINES, texts_of, num_train)
        needed = _minutes(study, machine, slots)
        if needed <= minutes:
            break
    cut = share_cut(largest.model_copy(update={"max_length": common["max_length"]}), texts)
    held_out = f"{common['num_validation']} validation, {common['num_test']} test documents"
    over = f", more than {minutes:.0f}" if needed > minutes else ""
    say(_line("sizes", f"{common['num_train'] or 'all other'} training, {held_out}"))
    say(_line("max_length", f"{common['max_length']} tokens; {cut:.0%} of texts are longer"))
    say(_line("tries", f"{size.tries} each for head, prompt and encoder, on validation"))
    say(_line("time", f"about {needed:.0f} minutes on this machine{over}"))
    with atomic_path(folder) as path:
        study.write(path, folder)
    say(f"written to {short_path(folder)}, to be changed; `make study STUDY={name}` runs it")
    return name


def _documents(
    dataset: str,
    names: list[str],
    data: str,
    text: Sequence[str],
    label: str,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], pd.Series, int]:
    """Parameters of documents and labels, usable documents per split, and the least to train on.

    The least is one document per label; 0 for label sets.
    """
    located = DataParams(dataset=dataset, split_names=names)
    parts = {part: table for part, (_, table) in read_parts(located).items()}
    first = next(iter(parts.values()))
    for part in [part for part, table in parts.items() if not set(first) <= set(table)]:
        say(f"{dataset}: {part} is left out, it lacks columns of train")
        names[list(SPLIT_WORDS).index(part)] = ""
        del parts[part]
    if len(parts) == 1 and "{split}" in dataset:
        dataset, names, parts = dataset.replace("{split}", names[0]), ONE_FILE, {UNSPLIT: first}
    table = pd.concat(parts.values(), ignore_index=True)
    found = find_columns(table, data, text=text, label=label)
    if UNSPLIT not in parts:  # files are the splits, whatever a column says
        found.values = {k: v for k, v in found.values.items() if k not in OF_SPLITS}
        found.reasons = [(what, reason) for what, reason in found.reasons if what != "splits"]
    usable = pd.Series(found.usable).groupby(parts_of(parts, found)).sum()
    if blank := [part for part in parts if part != UNSPLIT and not usable.get(part, 0)]:
        if "train" in blank:
            raise DataError(f"{dataset}: no row of train has a text and a label")
        say(f"{dataset}: {blank[0]} is left out, none of its rows has a text and a label")
        names[list(SPLIT_WORDS).index(blank[0])] = ""
        return _documents(dataset, names, data, text, label, say)
    say(f"{dataset}: {found.usable.sum():,} documents")
    for what, reason in found.reasons:
        say(_line(what, reason))
    split_names = {} if UNSPLIT in parts else {"split_names": names}
    least = 0 if found.values.get("label_mode") == "multi" else found.num_labels
    return {"dataset": dataset} | split_names | found.values, usable, least


def _line(what: str, reason: str) -> str:
    return f"  {what:<10} {reason}"


def _sized(values: Mapping[str, Any], usable: pd.Series, size: Size, least: int) -> dict[str, Any]:
    """The values with numbers of documents; a split without a file is cut from train."""
    pool, num_train = int(usable["train"]), max(size.num_train, least)
    # Groups are held out whole, which may take more documents than asked.
    spare = pool // 5 if "group_column" in values else 0
    num_test = min(size.num_test, int(usable.get("test", max(1, pool // HELD_OUT))))
    pool -= 0 if "test" in usable else num_test
    most = int(usable.get("validation", max(1, pool // HELD_OUT)))
    num_validation = min(MAX_VALIDATION, most, max(MIN_VALIDATION, num_train // 2))
    pool -= 0 if "validation" in usable else num_validation
    return dict(values) | {
        "num_train": 0 if num_train >= pool - spare else num_train,
        "num_validation": num_validation,
        "num_test": num_test,
        "allow_unseen_labels": True,
    }


def _model_folder(params_dir: Path, model: str) -> Path:
    folders = {f.name: f for name in MODELS for f in sorted((params_dir / name).iterdir())}
    if model not in folders:
        raise ParamsError(f"model: {model!r} is none of {', '.join(folders)}")
    return folders[model]


def _of_model(preset: Path) -> dict[str, Any]:
    """Values of a model's folder on the model and the machine, without those on documents."""
    values = read_yaml(preset / "common.yaml")
    own = set(StudyParams.model_fields) - set(DataParams.model_fields)
    return {key: values[key] for key in values if key in own - {"seeds", "train_sizes"}}


def _of_size(
    common: dict[str, Any],
    tries: int,
    preset: Path,
    baselines: Path,
    texts: Mapping[str, str],
    num_train: int,
) -> NewStudy:
    """The study with these values in common.yaml, and the arms of the folders of presets.

    Presets are a model's head and prompt, and the baselines.
    """
    own = read_yaml(preset / "common.yaml")
    own = {key: own[key] for key in own if key not in {"train_sizes", "base", *common}}
    files = [file for folder in (baselines, preset) for file in sorted(folder.glob("*.yaml"))]
    arms = {}
    for file in files:
        if file.stem == "common":
            continue
        values = own | read_yaml(file)
        arms[file.stem] = _narrowed(file, tries)
        if values.get("search") and values["num_epochs"] * num_train < FEW_STEPS * BATCH_SIZE:
            arms[file.stem] += f"batch_size: {SMALL_BATCH}\n"
    return NewStudy(common | own, arms, texts)


def _narrowed(file: Path, tries: int) -> str:
    """An arm's file whose search has no more candidates than `tries`."""
    text = file.read_text(encoding="utf-8")
    if not (search := read_yaml(file).get("search")):
        return text
    narrow = dict(search)
    # The last list is cut first, so that rates, which come first, keep most values; middles stay.
    for key in reversed(search):
        others = math.prod(len(narrow[other]) for other in search if other != key)
        kept = max(1, min(len(search[key]), tries // others))
        start = (len(search[key]) - kept) // 2
        narrow[key] = search[key][start : start + kept]
    return re.sub(r"(?m)^search:.*$", f"search: {_written(narrow)}", text)


def _written(value: Any) -> str:
    """A value on one line of YAML; texts are quoted."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    line = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=math.inf
    )
    return line.removesuffix("...\n").strip()


def _minutes(study: NewStudy, machine: Machine, slots: int) -> float:
    """Minutes that the study takes, its arms `slots` at a time, the longest first."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / study.values["study"]
        study.write(folder, folder)
        table = plan(folder, machine=machine)
    seconds = (table["train_seconds"] + table["infer_seconds"]).fillna(0.0) + START_SECONDS
    busy = [0.0] * slots
    for arm in sorted(seconds, reverse=True):
        heapq.heappush(busy, heapq.heappop(busy) + arm)
    return (SLACK * max(busy) + REPORT_SECONDS) / 60
