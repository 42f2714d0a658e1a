"""Files that belong to one data set: a file per split, found from any of them."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lib.data.encodings import MAX_SHOWN
from lib.data.tables import ENDINGS, is_hub_id
from lib.errors import DataError
from lib.storage import ROOT

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
ONE_FILE = ["train", "", "test"]  # `split_names` where they name nothing
SHARD = re.compile(r"-\d{5}-of-(\d{5})(?=\.)")  # as the hub names pieces of a file


def split_of(word: str, beside: Iterable[str] = ()) -> str | None:
    """The split that a word such as "dev" names; None for other words.

    "eval" is the test split, but validation where another word `beside` it names the test split.
    """
    if word.lower() == "eval" and any(split_of(w) == "test" for w in beside if w.lower() != "eval"):
        return "validation"
    return next((part for part, words in SPLIT_WORDS.items() if word.lower() in words), None)


def short_path(path: Path) -> Path:
    """The path relative to the project's root if it is within; otherwise as it is."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def locate(data: str, say: Callable[[str], None] = print) -> tuple[str, list[str], str]:
    """The parameter `dataset`, the names of its splits (`split_names`), and a name for a study.

    `data` is a file, a folder with a file per split, one of these files, or a path with `{split}`.
    The name of a file may have other words beside that of its split: "tickets_train.csv". `say` is
    called with one line per file that is not used because its ending is not that of the others.

    Raises `DataError` if there is no such file, if no file or several could have the training
    documents, or if two files are for one split.
    """
    path = Path(data).expanduser()
    if _num_shards(path.name) > 1 and not path.is_dir():
        of_split = _pattern(path.name)[1] or "{split}" in data
        remedy = f"name their folder, {path.parent}" if of_split else "join them into one file"
        raise DataError(f"{data}: one of {_num_shards(path.name)} shards of a data set; {remedy}")
    if "{split}" in data:
        folder, pattern = path.parent, path.name
    elif path.is_dir():
        if names := _sharded_splits(path, data):
            return str(short_path(path.resolve())), names, path.resolve().name
        folder, pattern = path, _pattern_in(path, data)
    elif not path.is_file():
        hub = "; a hub data set is named in a study's common.yaml, as dataset: "
        raise DataError(f"{data}: no such file{f'{hub}{data!r}' if is_hub_id(data) else ''}")
    else:
        pattern, split = _pattern(path.name)
        if split != "train":
            return str(short_path(path.resolve())), [*ONE_FILE], path.name.partition(".")[0]
        folder = path.parent
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    words = [_split_word(file.name, pattern) for file in files if file.is_file()]
    found = _by_split({word: split_of(word, words) for word in words if word}, pattern, data)
    if "train" not in found:
        raise DataError(f"{data}: no file of training documents: none is called train")
    for file in _of_other_endings(folder, pattern, found):
        train = pattern.replace("{split}", found["train"])
        say(f"{short_path(file)} is not used: its ending is not that of {train}; write both alike")
    several = len(found) > 1
    others = pattern.partition(".")[0].replace("{split}", "" if several else found["train"])
    name = folder.resolve().name if pattern.startswith("{split}.") else others.strip("-_ ")
    pattern = pattern if several else pattern.replace("{split}", found["train"])
    names = [found.get(part, "") for part in SPLIT_WORDS] if several else [*ONE_FILE]
    return str(short_path(folder.resolve() / pattern)), names, name


def _pattern(name: str) -> tuple[str, str]:
    """A file's name with `{split}` for the word of its split, and that split; "" if it has none."""
    for word in re.finditer(r"(?<![^\W_])[A-Za-z]+(?![^\W_])", name):
        if split := split_of(word[0]):
            return f"{name[: word.start()]}{{split}}{name[word.end() :]}", split
    return name, ""


def _tables_in(folder: Path) -> list[str]:
    """The names of a folder's files whose ending can be read, in alphabetical order."""
    return [file.name for file in sorted(folder.iterdir()) if file.name.lower().endswith(ENDINGS)]


def _num_shards(name: str) -> int:
    """The number of shards that the name of a shard contains; 0 for other names."""
    found = SHARD.search(name)
    return int(found[1]) if found else 0


def _sharded_splits(folder: Path, data: str) -> list[str]:
    """The hub's names of the splits of a folder in which some have several shards; [] elsewhere.

    Such a folder is read as a hub data set is.
    """
    files = [name for name in _tables_in(folder) if _pattern(name)[1]]
    if max(map(_num_shards, files), default=0) < 2:
        return []
    kinds = {SHARD.sub("", pattern) for pattern, _ in map(_pattern, files)}
    shown = ", ".join(sorted(kinds))[:MAX_SHOWN]
    splits = {split for _, split in map(_pattern, files)}
    if len(kinds) > 1 or "train" not in splits or not all(map(_num_shards, files)):
        raise DataError(
            f"{data}: shards beside other files: {shown}; move the shards of one data set, train "
            "among them, into a folder of their own"
        )
    words = sorted({_split_word(SHARD.sub("", name), *kinds) for name in files})
    _by_split({word: split_of(word) for word in words}, *kinds, data)  # as the hub's reader
    return [part if part in splits else "" for part in SPLIT_WORDS]


def _by_split(parts: Mapping[str, str | None], pattern: str, data: str) -> dict[str, str]:
    """The word of each split, of splits by word; `DataError` if two words are for one split."""
    found: dict[str, str] = {}
    for word, part in parts.items():
        if (other := found.setdefault(part or "", word)) != word:
            both = " and ".join(pattern.replace("{split}", each) for each in (other, word))
            raise DataError(f"{data}: {both} are both for {part}; rename one, or move it elsewhere")
    return found


def _of_other_endings(folder: Path, pattern: str, found: Mapping[str, str]) -> list[Path]:
    """Files of splits that are not in `found`: their names fit the pattern, but for the ending."""

    def stem(name: str) -> str:
        ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
        return name[: len(name) - len(ending)]

    words = {name: _split_word(stem(name), stem(pattern)) for name in _tables_in(folder)}
    return [
        folder / name
        for name, word in words.items()
        if word and split_of(word, found.values()) not in found
    ]


def _pattern_in(folder: Path, data: str) -> str:
    """The pattern of the folder's file of training documents; `DataError` if there is not one."""
    files = _tables_in(folder)
    patterns = dict.fromkeys(pattern for pattern, split in map(_pattern, files) if split == "train")
    plain = [pattern for pattern in patterns if pattern.startswith("{split}.")]
    if not patterns:
        one = f"; name one of its files: {', '.join(files)[:MAX_SHOWN]}" if files else ""
        hint = _hint_of_folders(folder) or one
        raise DataError(f"{data}: no file of training documents: none is called train{hint}")
    if len(patterns) > 1 and not plain:
        raise DataError(
            f"{data}: files of several data sets: {', '.join(patterns)[:MAX_SHOWN]}; name one"
        )
    return next(iter(plain or patterns))


def _hint_of_folders(folder: Path) -> str:
    """The remedy where training documents are in a folder within this one; "" elsewhere."""
    if any(file.suffix == ".arrow" for level in ("*", "*/*") for file in folder.glob(level)):
        return "; Arrow files are not read: write each split by to_parquet or to_csv of datasets"
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    for path in folders:
        if any(_pattern(name)[1] == "train" for name in _tables_in(path)):
            return f"; {path} has one: name that folder"
    names = [path.name for path in folders if split_of(path.name) and _tables_in(path)]
    if not any(split_of(name) == "train" for name in names):
        return ""
    return f"; call the files in {', '.join(names)} as their folders, and put them into one"


def _split_word(name: str, pattern: str) -> str:
    """The word of a split in a file's name; "" if it is another file."""
    before, _, after = pattern.partition("{split}")
    word = name[len(before) : len(name) - len(after)]
    return word if name == f"{before}{word}{after}" and split_of(word) else ""
