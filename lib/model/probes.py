"""Short passes that find out which shortcuts are exact for a loaded model, remembered on disk.

Shortcuts (packed documents, label trees, padded batches) rest on what a model's layers do with
positions, masks and caches. The name of an architecture does not show that. Each shortcut is
therefore compared with plain passes, one text at a time, on a few made-up tokens. A shortcut that
gives other values is not used.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lib import storage
from lib.model.batches import pad
from lib.model.parts import pretrained
from lib.model.windows import Documents

WINDOW = 6  # tokens of a sliding window while packing is probed (our choice)
CASTABLE = 2**29  # bytes of 16-bit weights up to which a probe computes in float32 (our choice)
# Largest deviations that count as rounding (our choice): of states relative to their norm, of
# log-probabilities in nats. True: in float32. False: in 16 bits, where the same pass in another
# batch differs by as much.
STATE_TOLERANCE = {True: 1e-3, False: 0.1}
SCORE_TOLERANCE = {True: 2e-3, False: 0.3}

# Errors of a pass that a model cannot make.
UNABLE = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)


class Probes:
    """Answers to questions about one model, by name: yes or no, or a list of names.

    `structure` is a hash of all that decides the answers, code included. Answers are cached on disk
    by this hash; with "" they are remembered in this object alone.
    """

    def __init__(self, structure: str = "") -> None:
        self.structure = structure
        self.answers: dict[str, bool | list[str]] = {}

    @property
    def is_new(self) -> bool:
        """True if the disk has no answer about a model of this structure."""
        return not (storage.CACHE / self._kind).exists()

    @property
    def _kind(self) -> str:
        return f"probes/{self.structure}"

    def ask(self, name: str, probe: Callable[[], Any]) -> Any:
        """The remembered answer, or that of `probe`, which is then remembered."""
        if name not in self.answers:
            self.answers[name] = (
                storage.cached_json(self._kind, name, probe, code=self.structure)
                if self.structure
                else probe()
            )
        return self.answers[name]


def probes_of(model: nn.Module) -> Probes:
    """The probes that `load_backbone` attached to a model, or new ones, attached to it now."""
    inner = pretrained(model)
    if not isinstance(getattr(inner, "probes", None), Probes):
        inner.probes = Probes()
    return inner.probes


def made_up_tokens(model: PreTrainedModel, *lengths: int) -> list[list[int]]:
    """Token ids of documents of these lengths: the same in each call, none a special token."""
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    special = set()
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = getattr(config, name, None)
        special |= set(value) if isinstance(value, (list, tuple)) else {value}
    drawn = torch.randint(config.vocab_size // 2, (4 * sum(lengths) + 16,), generator=generator)
    usable = iter([token for token in drawn.tolist() if token not in special])
    return [[next(usable) for _ in range(length)] for length in lengths]


def document_rows(model: PreTrainedModel, *lengths: int) -> tuple[Tensor, Tensor]:
    """`made_up_tokens`, padded on the right: `input_ids` and `attention_mask`, (B, T) int64."""
    pad_token = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
    rows = pad(made_up_tokens(model, *lengths), pad_token)
    return tuple(x.to(model.device) for x in rows)


@contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[bool]:
    """Let a small model (`CASTABLE`) without packed weights compute in float32.

    Rounding then hides no difference. It yields True if the model computes in float32 meanwhile,
    False if it goes on in 16 bits or is packed in 4. Afterwards the weights are the tensors that
    they were before.
    """
    tensors = [*model.parameters(), *model.buffers()]
    low = [t for t in tensors if t.dtype in (torch.bfloat16, torch.float16)]
    plain = all(t.is_floating_point() for t in model.parameters())
    if not plain or sum(t.nbytes for t in low) > CASTABLE:
        yield not low and plain
        return
    before = [t.data for t in low]
    for tensor in low:
        tensor.data = tensor.data.float()
    try:
        yield True
    finally:
        for tensor, data in zip(low, before, strict=True):
            tensor.data = data


@contextmanager
def short_window(model: PreTrainedModel) -> Iterator[None]:
    """Shorten a sliding window to `WINDOW` tokens, so that a short document is longer than it."""
    config = model.config.get_text_config()
    places = [config, *(m for m in model.modules() if m is not model)]
    before = [(p, vars(p)["sliding_window"]) for p in places if vars(p).get("sliding_window")]
    for place, _ in before:
        place.sliding_window = WINDOW
    try:
        yield
    finally:
        for place, value in before:
            place.sliding_window = value


def states_alone(model: PreTrainedModel, documents: Documents) -> list[Tensor]:
    """Last hidden states, (T, H) float32 each, of documents by one plain pass per document."""
    rows = [torch.tensor([list(document)], device=model.device) for document in documents]
    outputs = (model(input_ids=ids, attention_mask=torch.ones_like(ids)) for ids in rows)
    return [output.last_hidden_state[0].float() for output in outputs]


def states_agree(ours: Tensor, theirs: Tensor, *, exact: bool) -> bool:
    """True if states of the same tokens, (T, H), differ by rounding alone.

    With `exact` (float32) the token that differs most decides, otherwise the median one: in 16 bits
    rounding alone may send a token to another expert.
    """
    if ours.shape != theirs.shape or not torch.isfinite(ours).all():
        return False
    off = (ours.float() - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp(min=1e-6)  # (T,)
    return float(off.max() if exact else off.median()) <= STATE_TOLERANCE[exact]


@contextmanager
def entering_states(decoder: PreTrainedModel, layer: int) -> Iterator[list[Tensor]]:
    """List of the hidden states that enter a block, (tokens, H) float32 for each pass meanwhile.

    The list stays empty for a decoder that does not keep its blocks in `layers`.
    """
    seen: list[Tensor] = []

    def keep(block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        seen.append(states.float().flatten(0, -2))

    blocks = getattr(decoder, "layers", ())
    with ExitStack() as stack:
        for block in blocks[layer : layer + 1]:
            handle = block.register_forward_pre_hook(keep, with_kwargs=True)
            stack.callback(handle.remove)
        yield seen


def window_of(model: PreTrainedModel) -> int | None:
    """Longest text, in tokens, in which every layer sees all tokens before; None without limit."""
    config = model.config.get_text_config()
    names = ("sliding_window", "attention_chunk_size", "window_size")
    if set(getattr(config, "layer_types", None) or ()) == {"full_attention"}:
        names = ()
    sizes = [getattr(config, name, None) for name in names]
    sizes = [min(size) if isinstance(size, (list, tuple)) else size for size in sizes]
    return min(filter(None, [*sizes, alone_beyond(model)]), default=None)


def rotary_parameters(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Parameters of rotary positions in a config: those of all layers, then of each layer type."""
    rotary = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return [rotary, *(values for values in rotary.values() if isinstance(values, dict))]


def alone_beyond(model: PreTrainedModel) -> int | None:
    """Longest text, in tokens, that the rest of its batch does not change; None without limit.

    Rotary positions of some types follow the longest text of a batch, and some layers choose the
    columns that they attend to among all columns of a batch.
    """
    config = model.config.get_text_config()
    sizes = [getattr(config, name, None) for name in ("index_topk", "keep_window_size")]
    for values in rotary_parameters(model):
        if values.get("rope_type") in ("dynamic", "longrope"):
            own = values.get("original_max_position_embeddings")
            sizes.append(own or getattr(config, "original_max_position_embeddings", None)
                         or config.max_position_embeddings)  # fmt: skip
    return min(filter(None, sizes), default=None)
