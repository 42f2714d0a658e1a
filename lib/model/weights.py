"""Where a model's files are: in a package, in a folder or on the hub; checked, and readable."""

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from lib.data.tables import find_packaged, urlsafe_sha256
from lib.errors import DataError, ModelError
from lib.storage import ROOT, code_fingerprint

log = logging.getLogger(__name__)

CACHE = ROOT / "runs" / "cache"


def unusable(model_id: str, error: Exception, what: str = "cannot be loaded") -> ModelError:
    """The error for those of safetensors, torch, hub and config: they share no base class."""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return ModelError(f"{model_id}: {what}: {kind}{first_line}")


def resolve_model(model_id: str) -> str:
    """A folder or hub id that `from_pretrained` loads.

    `package:<python package>/<file or folder>` is found among the installed packages and verified
    against the checksum in its wheel; a GGUF file (packaged or local) is dequantized once into a
    cache of bf16 safetensors keyed by its SHA-256 and by the code that reads it. A path that exists
    is itself; everything else is taken for a hub id.

    Raises
    ------
    ModelError
        The file is missing, or its checksum is not the recorded one.
    """
    if not model_id.startswith("package:"):
        local = ROOT / model_id
        if local.suffix == ".gguf":
            return str(_dequantized(local))
        return str(local) if local.exists() else model_id
    try:
        path, digest = find_packaged(model_id)
    except DataError as error:
        raise ModelError(str(error)) from None
    if path.is_dir():
        for weights in sorted(path.glob("*.safetensors")):
            _verify(*find_packaged(f"{model_id}/{weights.name}"))
        return str(path)
    _verify(path, digest)
    return str(_dequantized(path))


def model_fingerprint(model_id: str) -> str:
    """URL-safe SHA-256 of a local or packaged model's weights and config.

    Of a hub id it is the name, with the commit that lies in the hub's cache, if any; the network is
    not asked.
    """
    folder = Path(resolve_model(model_id))
    if folder.is_dir():
        # Where there are both, transformers reads safetensors.
        weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
        files = [*weights, *folder.glob("config.json")]
        return "-".join(urlsafe_sha256(file)[:16] for file in files) or model_id
    try:
        config = try_to_load_from_cache(model_id, "config.json")  # .../snapshots/<commit>/
    except HFValidationError:
        return model_id
    return f"{model_id}@{Path(config).parent.name}" if isinstance(config, str) else model_id


def _verify(path: Path, digest: str | None) -> None:
    if digest is not None and urlsafe_sha256(path) != digest:
        raise ModelError(f"{path}: checksum differs from the installed package's; reinstall it")


def _dequantized(gguf: Path) -> Path:
    """Folder with the GGUF file's weights as bf16 safetensors, its config and its tokenizer."""
    if not gguf.is_file():
        raise ModelError(f"{gguf}: no such file")
    # Another version of what reads the file may read other weights.
    code = code_fingerprint("model.weights", packages=("gguf", "torch", "transformers"))
    folder = CACHE / f"{gguf.stem}-{urlsafe_sha256(gguf)[:16]}-{code[:8]}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    needed, free = 4 * gguf.stat().st_size, shutil.disk_usage(CACHE).free  # 4 bits -> 16 bits
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 2**30:.1f} GiB needed for dequantized weights, "
                      f"{free / 2**30:.1f} GiB free; make room", str(CACHE))  # fmt: skip
    log.info("dequantizing %s, once, into %s", gguf.name, folder)
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
        try:
            model = AutoModelForCausalLM.from_pretrained(
                **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
            )
            tokenizer = AutoTokenizer.from_pretrained(**source)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ModelError(f"{gguf}: not a readable GGUF file: {error}") from None
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not folder.is_dir():  # else a run beside this one was faster
                raise
        else:
            Path(unfinished).mkdir()  # for the context manager to remove
    return folder
