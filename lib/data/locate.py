"""Files that belong to one data set: a file per split, found from any of them."""

from pathlib import Path

from lib.data.tables import ENDINGS
from lib.errors import DataError
from lib.storage import ROOT

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
ONE_FILE = ("train", "", "test")  # `split_names` where they name nothing


def split_of(word: str) -> str | None:
    """The split that a word such as "dev" names; None for other words."""
    known = (part for part, words in SPLIT_WORDS.items() if word.lower() in words)
    return next(known, None)


def short_path(path: Path) -> Path:
    """The path from the project's root on, where it is in there."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def locate(data: str) -> tuple[str, list[str], str]:
    """The parameter `dataset`, the names of its splits (`split_names`), and a name for a study.

    Parameters
    ----------
    data
        A file, a folder with a file per split, one of these files, or a path with `{split}`.

    Raises
    ------
    DataError
        There is no such file, or none of training documents.
    """
    path = Path(data)
    stem, _, ending = path.name.partition(".")
    if "{split}" in data:
        folder, pattern = path.parent, path.name
    elif path.is_dir():
        named = [file.name for file in sorted(path.iterdir()) if split_of(file.name.split(".")[0])]
        endings = [name.partition(".")[2] for name in named if name.lower().endswith(ENDINGS)]
        folder, pattern = path, f"{{split}}.{endings[0] if endings else ''}"
    elif not path.is_file():
        raise DataError(f"{data}: no such file")
    elif split_of(stem) == "train":
        folder, pattern = path.parent, f"{{split}}.{ending}"
    else:
        return str(short_path(path.resolve())), list(ONE_FILE), stem
    found: dict[str, str] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_file() and (word := _split_word(file.name, pattern)):
            found.setdefault(split_of(word) or "", word)
    if "train" not in found:
        raise DataError(f"{data}: no file of training documents: none is called train")
    name = folder.resolve().name
    pattern = pattern if len(found) > 1 else pattern.replace("{split}", found["train"])
    names = [found.get(part, "") for part in SPLIT_WORDS] if len(found) > 1 else list(ONE_FILE)
    return str(short_path(folder.resolve() / pattern)), names, name


def _split_word(name: str, pattern: str) -> str:
    """The word of a split in a file's name; "" if it is another file."""
    before, _, after = pattern.partition("{split}")
    word = name[len(before) : len(name) - len(after)]
    return word if name == f"{before}{word}{after}" and split_of(word) else ""
