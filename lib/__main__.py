"""Commands: `python -m lib new FILE`, `plan STUDY`, `predict RUN IN OUT`, `export RUN FOLDER`."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lib.config.sources import require_data
from lib.config.study import load_params, study_files
from lib.errors import InputError, explain_memory
from lib.machine import configure_process
from lib.runs.export import export_run
from lib.runs.new import new_study
from lib.runs.plan import job_resources, measure_this_machine, plan
from lib.runs.predict import predict_file
from lib.runs.rates import GPUS
from lib.stopping import Stopped, stop_on_sigterm
from lib.storage import ROOT, atomic_path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error of its input is printed as one line, with exit status 1.

    `arguments` are those of the command line by default.
    """
    options = vars(_parser().parse_args(arguments))
    run = options.pop("run")
    try:
        run(**options)
    except Exception as error:
        if reason := explain_memory(type(error).__name__, str(error)):
            sys.exit(reason)
        if isinstance(error, ValueError):  # an InputError, or a run's folder that cannot be used
            sys.exit(str(error))
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("new", help="a study of your own file, for this machine")
    command.add_argument("data", metavar="FILE", help="texts and labels; or {split} in its name")
    command.add_argument("--text", nargs="+", default=[], metavar="COLUMN", help="joined, if many")
    command.add_argument("--label", default="", metavar="COLUMN")
    command.add_argument("--name", default="", help="of the study; by default the file's")
    command.add_argument("--minutes", type=float, default=30.0, help="that it may take (30)")
    command.add_argument("--model", default="135m", help="a folder of params/answer/models")
    command.set_defaults(run=_new)

    command = commands.add_parser("plan", help="seconds, memory and cost of each arm of a study")
    command.add_argument("study", help="a folder of params/, by its name or its path")
    command.add_argument("--machine", choices=GPUS, help="a GPU; by default this machine, measured")
    command.add_argument("--price", type=float, default=0.0, help="per hour of the machine")
    command.add_argument("--jobs", metavar="FILE", help="write what batch jobs need, as CSV")
    command.set_defaults(run=_plan)

    command = commands.add_parser("predict", help="labels for the texts of a file")
    command.add_argument("run_dir", metavar="RUN", help="runs/<study>/<arm>/seed-<seed>")
    command.add_argument("source", metavar="INPUT", help="CSV, TSV, JSONL, Parquet, or .txt lines")
    command.add_argument("target", metavar="OUTPUT", help="a new .csv, .tsv, .jsonl or .parquet")
    command.add_argument("--text", nargs="+", metavar="COLUMN", default=[], dest="text_columns",
                         help="columns of the text; by default those of the run")  # fmt: skip
    command.add_argument("--top-k", type=int, default=0, metavar="K", help="add the K best labels")
    command.add_argument("--precision", type=float, default=0.0, metavar="SHARE",
                         help="answer only where at least this share was right")  # fmt: skip
    command.add_argument("--int8", action="store_true",
                         help="int8 weights, where this CPU multiplies them faster")  # fmt: skip
    command.add_argument("--overwrite", action="store_true", help="replace OUTPUT")
    command.set_defaults(run=_predict)

    command = commands.add_parser(
        "export", help="a trained run as a folder that other software serves"
    )
    command.add_argument("run_dir", metavar="RUN", help="runs/<study>/<arm>/seed-<seed>")
    command.add_argument("folder", metavar="FOLDER", help="a new folder for the model")
    command.set_defaults(run=_export)
    return parser


def _new(**options: Any) -> None:
    """Write a study; its name alone is on standard output, for scripts."""
    logging.disable(logging.WARNING)  # `say` already reports rows that are left out
    try:
        print(new_study(**options, say=partial(print, file=sys.stderr)))
    finally:
        logging.disable(logging.NOTSET)


def _predict(run_dir: str, source: str, target: str, **options: Any) -> None:
    with _stoppable(target, read=[run_dir, source]):
        print(predict_file(run_dir, source, target, **options))


def _export(run_dir: str, folder: str) -> None:
    with _stoppable(folder, read=[run_dir]):
        export_run(run_dir, folder)
    print(f"{Path(folder) / 'README.md'} says how it is loaded")


@contextmanager
def _stoppable(target: str, *, read: Sequence[str]) -> Iterator[None]:
    """A block that writes a target; a signal or a file's error ends the process with one line.

    The line names the path in `read` that contains the error's file, or else the target.
    """
    stop_on_sigterm()
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        if reason := explain_memory("OSError", str(error)):
            sys.exit(reason)
        file = Path(str(error.filename or target))
        failed = next((path for path in read if file.is_relative_to(path)), None)
        what = f"{target}: cannot be written" if failed is None else f"{failed}: cannot be read"
        sys.exit(f"{what}: {' '.join(str(error.strerror or error).split())}")
    except (KeyboardInterrupt, Stopped):
        sys.exit(f"{target}: stopped; nothing was written")


def _require_writable(file: Path) -> None:
    """End the process with one line if a file cannot be written; nothing is left in its folder."""
    if file.is_dir():
        raise InputError(f"{file}: is a folder; name a file in it")
    with _stoppable(str(file), read=[]):
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()


def _plan(study: str, machine: str | None, price: float, jobs: str | None) -> None:
    if jobs:  # before the machine is measured, which takes a while
        _require_writable(Path(jobs))
    named = ROOT / "params" / study
    folder = named if named.is_dir() else Path(study)
    params = load_params(*study_files(folder).common)
    require_data(params.dataset)  # before a model is loaded
    configure_process(seed=0, num_threads=params.threads)
    rates = GPUS[machine] if machine else measure_this_machine(params)
    table = plan(folder, machine=rates, price=price)
    if jobs:
        with _stoppable(jobs, read=[]), atomic_path(Path(jobs)) as path:
            job_resources(table, rates).to_csv(path, index=False)
    print(f"{rates.name}: {rates.flops / 1e12:.2f} TFLOP/s, "
          f"{rates.bandwidth / 1e9:.0f} GB/s, {rates.memory_gib:.0f} GiB")  # fmt: skip
    print(table.to_string(index=False, float_format="{:,.2f}".format, na_rep="-"))


if __name__ == "__main__":
    main()
