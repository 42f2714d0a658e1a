"""Files written whole or not at all, and fingerprints of the code that made them."""

import ast
import contextlib
import errno
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from lib.data_params import ROOT

# Packages whose version decides what a cached pass computes.
COMPUTING = ("bitsandbytes", "numpy", "peft", "tokenizers", "torch", "transformers")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Raises
    ------
    OSError
        The disk is full: names the file; what was there before stays, and nothing half-written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
        unfinished = Path(folder) / path.name
        try:
            yield unfinished
            unfinished.replace(path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OSError(errno.ENOSPC, "no space left on disk; make room", str(path)) from None
            raise


def code_fingerprint(*modules: str, notebook: str = "", packages: Sequence[str] = ()) -> str:
    """A hash of the source of modules of `lib` and of a notebook, and of versions of packages.

    16 hexadecimal digits.
    """
    files = [ROOT / "lib" / f"{name}.py" for name in modules]
    files += [ROOT / "notebooks" / f"{notebook}.ipynb"] if notebook else []
    code = hashlib.sha256()
    for file in sorted(files):
        code.update(file.read_bytes())
    for name in packages:
        code.update(f"{name} {version(name)}".encode())
    return code.hexdigest()[:16]


def computing_fingerprint(*modules: str) -> str:
    """A hash of all that a pass of these modules of `lib` runs through: the key of its cache.

    That is the modules, all modules of `lib` that they import, directly or through others, and the
    versions of the packages that compute (`COMPUTING`).
    """
    behind = set().union(*map(modules_behind, modules))
    return code_fingerprint(*behind, packages=COMPUTING)


def modules_behind(module: str) -> set[str]:
    """A module of `lib` and all modules of `lib` that it imports, directly or through others."""
    found, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= _imported((ROOT / "lib" / f"{name}.py").read_bytes()) - found
    return found


@lru_cache
def _imported(source: bytes) -> frozenset[str]:
    """Modules of `lib` that a source imports anywhere in it, within functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "lib":
            names |= {f"lib.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return frozenset(name.split(".")[1] for name in names if name.startswith("lib."))
