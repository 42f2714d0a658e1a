"""Fingerprints of code: hashes of the modules that a computation or a notebook runs through.

A cached result and a finished run hold such a hash, so that neither outlives the code that made it.
"""

import ast
import hashlib
import json
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from lib.storage import ROOT, atomic_path, remove

PARAMETERS = "# Parameters."  # begins a notebook's cell of parameters, whose values papermill sets
# Packages whose version decides the result of a cached computation.
COMPUTING = ("bitsandbytes", "gguf", "numpy", "peft", "tokenizers", "torch", "transformers")


def code_fingerprint(*modules: str, notebook: str = "", packages: Sequence[str] = ()) -> str:
    """A hash of the source of modules of `lib` and of a notebook, and of versions of packages.

    16 hexadecimal digits. Modules are named from `lib` on: "model.tokens". Of a notebook its cells
    of code count, but not its parameters.
    """
    code = hashlib.sha256()
    for file in sorted(map(_source, modules)):
        code.update(file.read_bytes())
    if notebook:
        code.update("\n".join(_cells(notebook)).encode())
    for name in packages:
        code.update(f"{name} {version(name)}".encode())
    return code.hexdigest()[:16]


def computing_fingerprint(*modules: str) -> str:
    """A hash of all that a computation of these modules uses: `modules_behind` and `COMPUTING`."""
    return code_fingerprint(*modules_behind(*modules), packages=COMPUTING)


def modules_behind(*modules: str, notebook: str = "") -> list[str]:
    """Modules of `lib`, those of a notebook, and all that they import, directly or through others.

    Modules are named from `lib` on: "model.tokens". A name that is imported from a room (a package
    of `lib`) stands for the module that defines it, so that a run does not depend on all that its
    rooms contain.
    """
    found: set[str] = set()
    waiting = set(modules)
    if notebook:
        waiting |= _imported("\n".join(_cells(notebook)))
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= _imported(_source(name).read_text(encoding="utf-8")) - found
    return sorted(found)


def notebook_mark(name: str, folder: Path) -> Path:
    """A file in `folder` that changes with the code of a notebook, not whenever that is saved.

    Snakemake compares its time with those of the notebook's runs.
    """
    mark = folder / f"{name}.code"
    code = code_fingerprint(notebook=name).encode()
    known = b""
    if mark.is_file():
        with mark.open("rb") as file:
            known = file.read(len(code) + 1)
    else:
        remove(mark)
    if known == code:
        return mark
    with atomic_path(mark) as path:
        path.write_bytes(code)
    if not re.fullmatch(rb"[0-9a-f]{16}", known):
        # A new mark gets the notebook's time, so that runs since it was last saved stay valid.
        os.utime(mark, ns=(_notebook(name).stat().st_mtime_ns,) * 2)
    return mark


def _cells(name: str) -> list[str]:
    """The code of a notebook, cell by cell, without the cell of its parameters."""
    cells = json.loads(_notebook(name).read_bytes())["cells"]
    code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return [source for source in code if not source.startswith(PARAMETERS)]


def _notebook(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.ipynb"


def _source(module: str) -> Path:
    return ROOT / "lib" / f"{module.replace('.', '/')}.py"


def _imported(source: str) -> set[str]:
    """Modules of `lib` that a source imports anywhere in it, within functions too."""
    found = set()
    for place, name in _imports(source):
        room = ROOT / "lib" / place.replace(".", "/")
        if _source(place).is_file() and place:  # a module
            found.add(place)
        elif _source(inside := f"{place}.{name}".strip(".")).is_file():  # a module of a room
            found.add(inside)
        elif place:  # a name that a room's `__init__` exports
            found |= {at for at, known in _imports(_face(room)) if known == name}
    return found


def _face(room: Path) -> str:
    """The source of a room's exports: its `__init__.py`, or `__init__.pyi` if they are lazy."""
    stub = room / "__init__.pyi"
    if not stub.exists():
        return (room / "__init__.py").read_text(encoding="utf-8")
    relative = stub.read_text(encoding="utf-8")
    absolute = re.sub(r"^from \.", f"from lib.{room.name}.", relative, flags=re.MULTILINE)
    return absolute.replace(". import", " import")


@lru_cache
def _imports(source: str) -> frozenset[tuple[str, str]]:
    """Pairs of a place within `lib`, such as "model.load", and a name that is imported from it."""
    lines = [line for line in source.split("\n") if not line.startswith(("%", "!"))]
    pairs = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import):
            pairs |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            pairs |= {(node.module, alias.name) for alias in node.names}
    within = [(*place.partition("."), name) for place, name in pairs]
    return frozenset((place, name) for room, _, place, name in within if room == "lib")
