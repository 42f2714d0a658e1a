"""Commands: `python -m lib new FILE`, `plan STUDY`, `predict RUN IN OUT`, `export RUN FOLDER`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

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
    """Run a command; an error of its input is printed as one line, with exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
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


def _new(options: argparse.Namespace) -> None:
    """Write a study; its name alone is on standard output, for scripts."""
    given = {key: value for key, value in vars(options).items() if key != "run"}
    logging.disable(logging.WARNING)  # it says itself what is left out
    try:
        print(new_study(**given, say=partial(print, file=sys.stderr)))
    finally:
        logging.disable(logging.NOTSET)


def _predict(options: argparse.Namespace) -> None:
    values = {name: value for name, value in vars(options).items() if name != "run"}
    stop_on_sigterm()
    try:
        print(predict_file(values.pop("run_dir"), values.pop("source"), **values))
    except OSError as error:
        sys.exit(_explain(error, options.target, read=[options.run_dir, options.source]))
    except (KeyboardInterrupt, Stopped):
        sys.exit(f"{options.target}: stopped; nothing was written")


def _export(options: argparse.Namespace) -> None:
    stop_on_sigterm()
    try:
        export_run(options.run_dir, options.folder)
    except OSError as error:
        sys.exit(_explain(error, options.folder, read=[options.run_dir]))
    except (KeyboardInterrupt, Stopped):
        sys.exit(f"{options.folder}: stopped; nothing was written")
    print(f"{Path(options.folder) / 'README.md'} says how it is loaded")


def _explain(error: OSError, target: str | Path, *, read: list[str | Path]) -> str:
    """One line for an error of a file: the one that was written, or one within those read."""
    if isinstance(error, InputError):  # in words of our own
        return str(error)
    file = Path(str(error.filename or target))
    failed = next((path for path in read if file.is_relative_to(path)), None)
    what = f"{target}: cannot be written" if failed is None else f"{failed}: cannot be read"
    said = " ".join(str(error.strerror or error).split())
    return explain_memory("OSError", str(error)) or f"{what}: {said}"


def _plan(options: argparse.Namespace) -> None:
    named = ROOT / "params" / options.study
    folder = named if named.is_dir() else Path(options.study)
    study = load_params(*study_files(folder).common)
    require_data(study.dataset)  # before a model is loaded
    configure_process(seed=0, num_threads=study.threads)
    machine = GPUS[options.machine] if options.machine else measure_this_machine(study)
    table = plan(folder, machine=machine, price=options.price)
    if options.jobs:
        with atomic_path(Path(options.jobs)) as path:
            job_resources(table, machine).to_csv(path, index=False)
    print(f"{machine.name}: {machine.flops / 1e12:.2f} TFLOP/s, "
          f"{machine.bandwidth / 1e9:.0f} GB/s, {machine.memory_gib:.0f} GiB")  # fmt: skip
    print(table.to_string(index=False, float_format="{:,.2f}".format, na_rep="-"))


if __name__ == "__main__":
    main()
