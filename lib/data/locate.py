"""Files that belong to one data set: a file per split, found from any of them."""

import re
from pathlib import Path

from lib.data.delimited import MAX_SHOWN
from lib.data.tables import ENDINGS, is_hub_id
from lib.errors import DataError
from lib.storage import ROOT

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
ONE_FILE = ["train", "", "test"]  # `split_names` where they name nothing


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
        A file, a folder with a file per split, one of these files, or a path with `{split}`. The
        name of a file may have other words beside that of its split: "tickets_train.csv".

    Raises
    ------
    DataError
        There is no such file, or none of training documents, or several could be meant.
    """
    path = Path(data).expanduser()
    if "{split}" in data:
        folder, pattern = path.parent, path.name
    elif path.is_dir():
        folder, pattern = path, _pattern_in(path, data)
    elif not path.is_file():
        hub = "; a hub data set is named in a study's common.yaml, as dataset: "
        raise DataError(f"{data}: no such file{f'{hub}{data!r}' if is_hub_id(data) else ''}")
    else:
        pattern, split = _pattern(path.name)
        if split != "train":
            return str(short_path(path.resolve())), [*ONE_FILE], path.name.partition(".")[0]
        folder = path.parent
    found: dict[str, str] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_file() and (word := _split_word(file.name, pattern)):
            found.setdefault(split_of(word) or "", word)
    if "train" not in found:
        raise DataError(f"{data}: no file of training documents: none is called train")
    several = len(found) > 1
    others = pattern.partition(".")[0].replace("{split}", "" if several else found["train"])
    name = folder.resolve().name if pattern.startswith("{split}.") else others.strip("-_ ")
    pattern = pattern if several else pattern.replace("{split}", found["train"])
    names = [found.get(part, "") for part in SPLIT_WORDS] if several else [*ONE_FILE]
    return str(short_path(folder.resolve() / pattern)), names, name


def _pattern(name: str) -> tuple[str, str]:
    """A file's name with `{split}` for the word of its split, and that split; "" where none is."""
    for word in re.finditer(r"(?<![^\W_])[A-Za-z]+(?![^\W_])", name):
        if split := split_of(word[0]):
            return f"{name[: word.start()]}{{split}}{name[word.end() :]}", split
    return name, ""


def _pattern_in(folder: Path, data: str) -> str:
    """The pattern of the folder's file of training documents."""
    files = [file.name for file in sorted(folder.iterdir()) if file.name.lower().endswith(ENDINGS)]
    patterns = [pattern for pattern, split in map(_pattern, files) if split == "train"]
    plain = [pattern for pattern in patterns if pattern.startswith("{split}.")]
    if not patterns:
        one = f"; name one of its files: {', '.join(files)[:MAX_SHOWN]}" if files else ""
        raise DataError(f"{data}: no file of training documents: none is called train{one}")
    if len(patterns) > 1 and not plain:
        raise DataError(
            f"{data}: files of several data sets: {', '.join(patterns)[:MAX_SHOWN]}; name one"
        )
    return (plain or patterns)[0]


def _split_word(name: str, pattern: str) -> str:
    """The word of a split in a file's name; "" if it is another file."""
    before, _, after = pattern.partition("{split}")
    word = name[len(before) : len(name) - len(after)]
    return word if name == f"{before}{word}{after}" and split_of(word) else ""
