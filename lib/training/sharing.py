"""One of several processes that share each optimizer step: its documents, and sums over all.

    documents of a step      7 3 5 1 8 2 6 4     the same in every process
    process 1, process 2     7     1 8     4  |    3 5     2 6
    gradients                      g1 + g2       in both, before they are clipped

Training in a single process goes through the same functions: it has all documents, and keeps its
own gradients. `lib.training.processes` starts several.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lib.stopping import Stopped

T = TypeVar("T")

BUCKET = 2**25  # elements of gradients that are summed at once, which bounds memory (our choice)


def count() -> int:
    """Number of processes of this training."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """True in the process that evaluates, saves and logs."""
    return _index() == 0


def _index() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def own_share(tokens: Sequence[int]) -> list[int]:
    """Indices of this process's documents, rising, given the tokens of each document of a step.

    Documents are dealt out longest first, each to the process with the fewest tokens so far.
    """
    loads, shares = [0] * count(), [[] for _ in range(count())]
    for i in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
        least = loads.index(min(loads))
        loads[least] += tokens[i]
        shares[least].append(i)
    return sorted(shares[_index()])


def any_asks(asked: bool) -> bool:
    """True, in all processes, if `asked` is true in any; every process has to call this."""
    if count() == 1:
        return asked
    flag = torch.tensor(int(asked))
    dist.all_reduce(flag)
    return bool(flag)


def from_first(find: Callable[[], T]) -> T:
    """Result of `find` in the first process, given to all; `Stopped` is raised in all, too."""
    if count() == 1:
        return find()
    found: list[Any] = [None]
    if is_first():
        try:
            found = [find()]
        except Stopped as stopped:
            found = [stopped]
    dist.broadcast_object_list(found, device=torch.device("cpu"))
    if isinstance(found[0], Stopped):
        raise found[0]
    return found[0]


def wait_for_all() -> None:
    """Return once every process has called this."""
    any_asks(False)


@contextlib.contextmanager
def first_alone(num_threads: int) -> Iterator[None]:
    """A block that the first process runs before the others, with `num_threads` CPU threads.

    These are the threads of all processes together. The others then find the block's results in a
    cache.
    """
    if count() == 1:
        yield
        return
    own = torch.get_num_threads()
    if not is_first():
        wait_for_all()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(own)
    if is_first():
        wait_for_all()


@contextlib.contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """A block whose random numbers differ between processes; after it all draw alike again."""
    if count() == 1:
        yield
        return
    seed = int(torch.randint(2**62, ()))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed + _index())
        yield


def sum_gradients(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Sum of the losses of all processes; gradients are replaced by their sums, in place.

    A parameter that has a gradient in no process keeps None, so that the optimizer skips it.
    """
    if count() == 1:
        return loss
    trained = [p for p in parameters if p.requires_grad]
    used = loss.new_tensor([p.grad is not None for p in trained])
    sums = torch.cat([loss.reshape(1), used])
    dist.all_reduce(sums)
    used = [p for p, times in zip(trained, sums[1:].tolist(), strict=True) if times]
    for bucket in _buckets(used):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        for p, grad in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            p.grad = grad.view_as(p).to(p.dtype)
    return sums[0]


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in order, cut where `BUCKET` elements are exceeded."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def random_state(device: torch.device) -> tuple[Tensor, ...]:
    """State of torch's generators, from which adapters, heads and dropout draw: CPU, and CUDA."""
    cuda = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return (torch.get_rng_state(), *cuda)


def set_random_state(device: torch.device, state: Sequence[Tensor]) -> None:
    """Let the generators go on from a `random_state`."""
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
