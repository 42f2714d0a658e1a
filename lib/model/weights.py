"""A model's files, in a package, in a folder or on the hub; its config and its tokenizer."""

import difflib
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import get_session
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from lib.errors import DiskFullError, InputError, ModelError
from lib.fingerprints import code_fingerprint
from lib.machine import GIB, quieten_transformers
from lib.storage import CACHE, ROOT, cached, checksum, content_hash, free_bytes, packaged_file

log = logging.getLogger(__name__)
quieten_transformers()  # whatever is loaded

# A model's id on the hub: an organization and a name, or a name alone.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB_TIMEOUT = 10  # seconds until the hub counts as out of reach (our choice)

# Files beside the weights: config, tokenizer and chat template.
TEXT_FILES = ("*.json", "*.jinja", "*.model", "*.txt")


def unusable(model_id: str, error: Exception, what: str = "cannot be loaded") -> ModelError:
    """A `ModelError` in one line for an error of safetensors, torch, hub or config.

    These share no base class, so that callers catch every `Exception`.
    """
    if "trust_remote_code" in str(error):
        error = ValueError("it needs code of its own, which is never run; name another model")
    first_line = next(iter(str(error).strip().splitlines()), "")
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return ModelError(f"{model_id}: {what}: {kind}{first_line}")


def resolve_model(model_id: str) -> str:
    """A folder or hub id that `from_pretrained` loads.

    `package:<python package>/<file or folder>` is found among the installed packages and verified
    against the checksum in its wheel. A GGUF file (packaged or local) is dequantized once, into a
    cache of bf16 safetensors. Any other path that exists is returned; a relative one starts at the
    project's root. Everything else is a hub id.

    Raises
    ------
    ModelError
        The file is missing or unreadable, its checksum is not the recorded one, or a hub id is also
        a folder in the working directory.
    DiskFullError
        The cache has no room for dequantized weights.
    """
    path = _local_path(model_id)
    if path.suffix == ".gguf" or (model_id.startswith("package:") and path.is_file()):
        return str(_dequantized(path))
    if path.exists():
        return str(path)
    is_in_a_folder = path.parent != ROOT and path.parent.is_dir()
    if is_in_a_folder or not HUB_ID.fullmatch(model_id):
        raise ModelError(f"{model_id}: no such folder or file here{_near(path)}")
    if Path(model_id).exists():  # transformers would read it in the place of the hub's model
        raise ModelError(
            f"{model_id}: a folder of this name is in {Path.cwd()}, but models are looked for in "
            f"{ROOT}; move or rename it, or give its whole path"
        )
    return model_id


def pretrained_source(model_id: str, revision: str = "") -> dict[str, Any]:
    """Arguments of every `from_pretrained`: the model's place, and that its own code is never run.

    `revision` is a branch, tag or commit of a hub id; "" for its main branch.

    Raises
    ------
    ModelError
        See `resolve_model`; a local model has a revision or a folder with a pipe in it; or a model
        of the hub is not in its cache, and the hub cannot be reached.
    """
    place = resolve_model(model_id)
    for file in Path(place).glob("*"):
        if not (file.is_file() or file.is_dir()):  # reading a pipe may never end
            raise ModelError(f"{file}: a pipe, a device or a dangling link; remove it")
    if not Path(place).exists():
        _require_hub(model_id, revision)
    source = {"pretrained_model_name_or_path": place, "trust_remote_code": False}
    if revision and (place != model_id or Path(place).exists()):
        raise ModelError(
            f"model_revision: {revision!r} has no effect on {model_id}, which is no hub id; "
            "leave it out"
        )
    return source | ({"revision": revision} if revision else {})


def model_fingerprint(model_id: str, revision: str = "") -> str:
    """Hash of a local or packaged model: its weights, config, tokenizer and chat template.

    It is the first 32 hexadecimal digits of a SHA-256. For a hub id, it is the name and the commit
    in the hub's cache, if any; the network is not asked.
    """
    path = _local_path(model_id)
    if path.is_file():
        return checksum(path)[:32]
    if path.is_dir():
        # transformers reads *.bin only if there are no safetensors.
        weights = list(path.glob("*.safetensors")) or list(path.glob("*.bin"))
        others = [file for ending in TEXT_FILES for file in path.glob(ending)]
        return content_hash([f.name, checksum(f)] for f in sorted({*weights, *others}))[:32]
    try:  # .../snapshots/<commit>/
        config = try_to_load_from_cache(model_id, "config.json", revision=revision or None)
    except HFValidationError:
        return model_id
    return f"{model_id}@{Path(config).parent.name}" if isinstance(config, str) else model_id


@cache
def _require_hub(model_id: str, revision: str) -> None:
    """Raise a `ModelError` at once if a model is not in the hub's cache and the hub is offline.

    transformers would try again and again, for a minute.
    """
    try:
        known = try_to_load_from_cache(model_id, "config.json", revision=revision or None)
    except HFValidationError as error:
        raise unusable(model_id, error, "no folder of this name, and no hub id") from None
    if constants.HF_HUB_OFFLINE or isinstance(known, str):
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except Exception as error:  # of whatever library the hub's client uses
        raise ModelError(
            f"{model_id}: no folder of this name, and the hub ({constants.ENDPOINT}) cannot be "
            f"reached: {type(error).__name__}{_near(_local_path(model_id))}"
        ) from None


def _near(path: Path) -> str:
    """The end of a complaint about a missing file: the nearest name in its folder, if any."""
    names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    match = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _local_path(model_id: str) -> Path:
    """Path of a packaged or local model, which need not exist."""
    try:
        return packaged_file(model_id) if model_id.startswith("package:") else ROOT / model_id
    except InputError as error:
        raise ModelError(str(error)) from None


def _dequantized(gguf: Path) -> Path:
    """Folder with the GGUF file's weights as bf16 safetensors, its config and its tokenizer."""
    if not gguf.is_file():
        raise ModelError(f"{gguf}: no such file{_near(gguf)}")
    # Another version of a package that reads the file may read other weights.
    code = code_fingerprint("model.weights", packages=("gguf", "torch", "transformers"))
    return cached("gguf", checksum(gguf), lambda folder: _convert(gguf, folder), code=code)


def _convert(gguf: Path, folder: Path) -> None:
    needed, free = 4 * gguf.stat().st_size, free_bytes()  # from 4 bits to 16
    if free < needed:
        raise DiskFullError(
            f"{CACHE}: {needed / GIB:.1f} GiB needed for dequantized weights, "
            f"{free / GIB:.1f} GiB free; make room"
        )
    log.info("dequantizing %s, once, into the cache", gguf.name)
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name,
              "trust_remote_code": False}  # fmt: skip
    try:
        model = AutoModelForCausalLM.from_pretrained(
            **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # of whatever reads it: struct, NumPy, torch
        raise unusable(str(gguf), error, "not a readable GGUF file") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_tokenizer(model_id: str, revision: str = "") -> PreTrainedTokenizerBase:
    """The model's tokenizer, named by the model; one without a pad token pads with its end token.

    Raises
    ------
    ModelError
        The model cannot be found, or its tokenizer cannot be read or has no token to pad with.
    """
    source = pretrained_source(model_id, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except Exception as error:
        raise unusable(model_id, error) from error
    tokenizer.name_or_path = model_id
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{model_id}: the tokenizer has neither pad_token nor eos_token; name one in its "
            "tokenizer_config.json"
        )
    return tokenizer


def load_config(model_id: str, revision: str = "", *, depth: int = 0) -> PretrainedConfig:
    """The model's configuration; with `depth`, that of its first `depth` blocks alone.

    What follows the last block, such as a final norm, stays.

    Raises
    ------
    ModelError
        The configuration cannot be read, or the model has fewer than `depth` blocks.
    """
    source = pretrained_source(model_id, revision)
    try:
        config = AutoConfig.from_pretrained(**source)
    except Exception as error:
        raise unusable(model_id, error, "no config") from error
    text_config = config.get_text_config()
    whole = text_config.num_hidden_layers
    if depth > whole:
        raise ModelError(f"depth: {depth} blocks were asked for, but {model_id} has {whole}")
    if depth:
        for name, value in list(vars(text_config).items()):
            if isinstance(value, list) and len(value) == whole:  # an entry per block
                setattr(text_config, name, value[:depth])
        text_config.num_hidden_layers = depth
    return config
