"""Checks of a loaded model: a first pass over two documents, before anything is trained.

A fault raises an error, so that an unusable model fails at once and in one line. A shortcut that is
not exact for the model returns False, so that the shortcut is not used.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lib.machine import mixed_precision
from lib.model.batches import pad
from lib.model.forward import last_hidden_states, next_token_logits
from lib.model.parts import decoder_of
from lib.model.probes import (
    SCORE_TOLERANCE,
    UNABLE,
    document_rows,
    in_float32,
    made_up_tokens,
    states_agree,
    states_alone,
)


@torch.no_grad()
def check_logits(model: PreTrainedModel) -> bool:
    """True if `next_token_logits` equal the logits of the model's own pass: it can answer a prompt.

    Raises
    ------
    ValueError
        The logits differ, or the model's own depend on later tokens. An error of the model's own
        pass is raised as it is.
    """
    name = type(model).__name__
    if not isinstance(model.get_output_embeddings(), nn.Module):
        raise ValueError(f"{name} has no language-model head")
    ids = torch.tensor([[2, 3], [2, 4]], device=model.device)  # any tokens, the first the same
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: BaseModelOutput) -> None:
        seen.append(output.last_hidden_state)

    handle = decoder_of(model).register_forward_hook(keep)
    unknown = f"{name} transforms its logits in a way that this code does not reproduce"
    with in_float32(model):
        try:
            theirs = model(input_ids=ids).logits
        finally:
            handle.remove()
        try:
            ours = next_token_logits(model, seen[0])
        except (AttributeError, IndexError, RuntimeError, TypeError) as error:
            raise ValueError(f"{unknown}; use another model ({error})") from None
    if ours.shape != theirs.shape or not _near(ours, theirs):
        raise ValueError(f"{unknown}; use another model")
    if not _near(theirs[0, 0], theirs[1, 0]):
        raise ValueError(f"{name} lets a token depend on those after it, so it cannot answer")
    return True


def _near(ours: Tensor, theirs: Tensor) -> bool:
    """True if logits differ by rounding alone, in 16 bits as well (our choice)."""
    return torch.allclose(ours.float(), theirs.float(), rtol=0.01, atol=0.01)


@torch.no_grad()
def suits_eager(model: PreTrainedModel) -> bool:
    """True if plain ("eager") attention gives the states of the model's default attention."""
    decoder, own = decoder_of(model), model.config._attn_implementation
    if own == "eager" or not model._can_set_attn_implementation():
        return own == "eager"
    documents = made_up_tokens(decoder, 3, 16)
    with in_float32(model) as exact:
        expected = states_alone(decoder, documents)
        model.set_attn_implementation("eager")
        try:
            found = states_alone(decoder, documents)
        finally:
            model.set_attn_implementation(own)
    return all(states_agree(*both, exact=exact) for both in zip(found, expected, strict=True))


@torch.no_grad()
def check_padding(model: PreTrainedModel) -> bool:
    """True if two documents of a padded batch have the states that each has alone.

    Raises
    ------
    ValueError
        The states differ, or have another width than the config says.
    """
    decoder, name = decoder_of(model), type(model).__name__
    ids, mask = document_rows(decoder, 3, 11)
    with in_float32(model) as exact:
        states = last_hidden_states(decoder, ids, mask, compute_dtype=torch.float32)
        alone = states_alone(decoder, made_up_tokens(decoder, 3, 11))
    width = decoder.config.get_text_config().hidden_size
    if states.shape[-1] != width:
        raise ValueError(f"{name} gives states of {states.shape[-1]} numbers, not of {width}")
    for of_batch, whole in zip(states, alone, strict=True):
        if not states_agree(of_batch[: len(whole)], whole, exact=exact):
            raise ValueError(f"{name} has other hidden states where documents are padded")
    return True


@torch.no_grad()
def reads_last_block(model: PreTrainedModel) -> bool:
    """True if the last block may compute the states that are read, and no others.

    That is, if `lib.model.fast.blocks.skip_unread_positions` is exact for the model.
    """
    decoder = decoder_of(model)
    ids, mask = document_rows(decoder, 3, 7)
    last = mask.bool() & (mask.flip(1).cumsum(dim=1).flip(1) == 1)
    with in_float32(model) as exact:
        states = partial(last_hidden_states, decoder, ids, mask, compute_dtype=torch.float32)
        whole = states()
        try:
            read = states(read=last)
        except UNABLE:
            return False
    return states_agree(read[last], whole[last].float(), exact=exact)


def check_training(model: PreTrainedModel) -> list[str]:
    """Names of trained parameters without a gradient, after a pass over two documents and back.

    The list is empty for a model with LayerDrop, in which a layer may lack a gradient by chance.
    Gradients are None afterwards, and random generators as before. An exception of any kind means
    that the model cannot be trained.
    """
    decoder = decoder_of(model)
    ids, mask = document_rows(decoder, 3, 7)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    devices = [model.device] if model.device.type == "cuda" else []
    before = model.training
    model.train()
    with torch.random.fork_rng(devices=devices), mixed_precision(model.device, model.dtype):
        states = last_hidden_states(decoder, ids, mask, compute_dtype=model.dtype)
        states.float().square().mean().backward()
    model.train(before)
    unreached = [name for name, p in trained.items() if p.grad is None]
    for parameter in trained.values():
        parameter.grad = None
    return [] if getattr(decoder.config, "layerdrop", 0.0) else unreached


@torch.no_grad()
def generates_padded(model: PreTrainedModel) -> bool:
    """True if left padding leaves a prompt's logits as they are, for the second generated token.

    The second token is the first one that is computed with the cache of padded keys.
    """
    prompts = made_up_tokens(model, 3, 11)
    with in_float32(model) as exact:
        padded = _second_logits(model, prompts)
        alone = _second_logits(model, prompts[:1])
    scores = [logits[0].float().log_softmax(-1) for logits in (padded, alone)]
    return float((scores[0] - scores[1]).abs().median()) <= SCORE_TOLERANCE[exact]


def _second_logits(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Logits (B, V) of the second generated token behind each of B prompts."""
    pad_token = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
    ids, mask = pad(prompts, pad_token, side="left")
    with greedily(model):
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=2,
            min_new_tokens=2,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return output.logits[1]


@contextmanager
def greedily(model: PreTrainedModel) -> Iterator[None]:
    """Let a model generate the most probable tokens, whatever its saved generation settings are."""
    before = model.generation_config
    ends = {name: getattr(before, name) for name in ("eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(do_sample=False, **ends)
    try:
        yield
    finally:
        model.generation_config = before
