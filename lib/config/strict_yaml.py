"""Strict YAML against a pydantic model, every complaint in one line that says where and what."""

import difflib
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lib.errors import ParamsError

Model = TypeVar("Model", bound=BaseModel)

# Our choices, far above what parameters need.
MAX_BYTES = 4 * 2**20  # of a file
MAX_GROWTH = 10  # times as many nodes with aliases written out
MAX_BITS = 64  # of a whole number
MAX_SHOWN = 200  # characters of a value in a complaint

NO_TEXT = re.compile("[\0\ud800-\udfff]")  # escapes in YAML, not valid in paths or UTF-8


def parse_params(
    model: type[Model],
    values: Mapping[str, Any],
    *,
    source: str,
    origin: Mapping[str, str] | None = None,
) -> Model:
    """An instance of `model` with these values; all complaints are one line of a `ParamsError`.

    A complaint names the `origin` of its key, such as a file, or `source` if it is not known.
    """
    try:
        return model(**values)
    except ValidationError as error:
        complaints = [_complaint(e, model, source, origin or {}) for e in error.errors()]
        raise ParamsError("; ".join(complaints)) from None


def _complaint(error: Any, model: type[BaseModel], source: str, origin: Mapping) -> str:
    """One of pydantic's errors as a line: its origin, the key, the value, the fault, a remedy."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # a contradiction between keys, worded by a validator above
        return f"{origin.get(message.split(':')[0], source)}: {message}"
    key, value = str(error["loc"][0]), error["input"]
    where = f"{origin.get(key, source)}: {key}"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown parameter{suggestion(key, model.model_fields)}"
    remedy = ""
    if isinstance(value, bool):
        remedy = "; YAML reads an unquoted yes, no, on or off as a boolean: quote it"
    elif error["type"] == "literal_error":
        known = list(filter(None, re.findall("'([^']*)'", error["ctx"]["expected"])))
        remedy = suggestion(str(value), known) if known else ""
    elif isinstance(value, str) and (number := _plain_number(value)):
        wants_text = error["type"].startswith("string")
        remedy = "" if wants_text else f"; this is text: write the number as {number}"
    shown = repr(value)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    return f"{where}: {shown} is not valid: {message}{remedy}"


def suggestion(word: str, known: Any) -> str:
    """The end of a complaint about an unknown word: the nearest known one, or all of them."""
    match = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(map(str, known))}"


def _plain_number(text: str) -> str:
    """A number as YAML 1.1 reads it, `2.0e-4` for `2e-4`, which is text there; "" for others."""
    try:
        if not math.isfinite(float(text)):
            return ""
    except ValueError:
        return ""
    mantissa, _, exponent = text.lower().partition("e")
    if not exponent:
        return text
    sign = exponent if exponent[0] in "+-" else f"+{exponent}"
    return f"{float(mantissa)}e{sign}"


class TextLoader(yaml.BaseLoader):
    """YAML whose scalars are all texts; a key that is given twice or is no text is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """The values by key; `ParamsError` for a key that is given twice or is no text."""
        written = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, count in written.items() if count > 1]:
            raise ParamsError(f"{self.name}: {twice[0]}: given twice; leave one")
        values = super().construct_mapping(node, deep)
        for key in values:
            if not isinstance(key, str):
                raise ParamsError(f"{self.name}: {key}: read as no text; write the key in quotes")
        return values

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        """The text of a value; `ParamsError` for a character that cannot be in one."""
        text = super().construct_scalar(node)
        if found := NO_TEXT.search(text):
            raise ParamsError(f"{self.name}: {found[0]!r} is no character of a text; leave it out")
        return text


class _StrictLoader(TextLoader, yaml.SafeLoader):
    """YAML as papermill reads it, otherwise as strict as `TextLoader`."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if number.bit_length() > MAX_BITS:
            raise ValueError(f"a number of more than {MAX_BITS} bits")
        return number


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def load_yaml(path: Path, loader: type, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value of a YAML file that may be a stranger's: it cannot grow or go on for ever.

    Raises `OSError`, `ValueError` or `yaml.YAMLError` if it cannot be read, is no regular file, has
    more than `max_bytes`, or becomes `MAX_GROWTH` times as large with its aliases written out.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("a pipe or device; write a file")
    with path.open(encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise ValueError(f"more than {max_bytes:,} bytes")
        reader = loader(file)
        try:
            node = reader.get_single_node()
            sizes: dict[int, int] = {}
            if node is not None and _written_out(node, sizes) > MAX_GROWTH * len(sizes):
                raise ValueError("its aliases repeat too much; write the values out")
            return None if node is None else reader.construct_document(node)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            kind = type(error).__name__
            raise ValueError(f"a value cannot be read ({kind}: {error}); quote it") from None
        finally:
            reader.dispose()


def _written_out(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of nodes within a node, aliases written out; `sizes` gets each node's by its `id`."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise ValueError("an alias contains itself")
        return sizes[id(node)]
    sizes[id(node)] = 0  # as long as it is not known
    inside = [] if isinstance(node, yaml.ScalarNode) else node.value
    nodes = [each for part in inside for each in (part if isinstance(part, tuple) else (part,))]
    sizes[id(node)] = 1 + sum(_written_out(each, sizes) for each in nodes)
    return sizes[id(node)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Values of a YAML file by key.

    Raises `ParamsError` if it cannot be read, is not YAML, gives a key twice, or has no keys.
    """
    try:
        loaded = load_yaml(path, _StrictLoader)
    except ParamsError:
        raise
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise ParamsError(f"{path}: expected `key: value` lines, found {type(loaded).__name__}")
    return loaded
