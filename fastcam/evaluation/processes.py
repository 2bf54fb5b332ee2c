"""The processes of one launch: one, or as many as PyTorch's launcher (torchrun) started."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from fastcam.evaluation.errors import SaidElsewhere

T = TypeVar("T")

# Processes wait for one another at the end of a round; a part may take hours. A process that is lost ends the launch
# by the launcher, not by this.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """One process among `count`."""

    rank: int = 0
    count: int = 1

    def first(self, action: Callable[[], T]) -> T:
        """What the first process's `action` returns, in all of them; an exception of it ends them all."""
        outcome: list[tuple[bool, T | None]] = [(False, None)]
        caught: Exception | None = None
        if self.rank == 0:
            try:
                outcome = [(True, action())]
            except Exception as error:
                caught = error
        if self.count > 1:
            distributed.broadcast_object_list(outcome, src=0)
        if caught is not None:
            raise caught
        worked, result = outcome[0]
        if not worked:
            raise SaidElsewhere
        return result  # type: ignore[return-value]

    def gather(self, own: T) -> list[T]:
        """What each process brings, in all of them."""
        if self.count == 1:
            return [own]
        found: list[T | None] = [None] * self.count
        distributed.all_gather_object(found, own)
        return found  # type: ignore[return-value]

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            distributed.barrier()

    def deal(self, things: Sequence[T]) -> Sequence[T]:
        """A process's share: each thing goes to exactly one process."""
        return things[self.rank :: self.count]


def local_device(device: torch.device) -> torch.device:
    """The launch's own share of the machine's devices: "cuda" becomes this process's GPU."""
    if str(device) == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(torch.cuda.device_count(), 1))
    return device


@contextmanager
def join() -> Iterator[Processes]:
    """Meet the other processes of this launch, where torchrun started any."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    # gloo, on GPUs too: what the processes tell one another are a few words.
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank=distributed.get_rank(), count=count)
    finally:
        distributed.destroy_process_group()
