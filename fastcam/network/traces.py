"""What tells that tensors were written to: their identity, storage and version counter, and a few of their numbers."""

from collections.abc import Iterable

import torch
from torch import Tensor

# Numbers that are looked at in each tensor: the first, one in the middle, the last.
_NUMBERS = 3
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Traces:
    """What some tensors were like when this was made.

    A version counter tells of most writes, not of those by a fused optimiser, in inference mode (where there is none),
    through `.data` or through numpy. Of these tell a few numbers of each tensor: what writes to all of a tensor changes
    one of them.

    tensors: held, so that their identities are not used again.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = tuple(tensors)
        self._counters = _counters(self.tensors)
        self._looked_at = _spots(self.tensors)
        self._numbers = self._look()

    def are_of(self, tensors: tuple[Tensor, ...]) -> bool:
        """Whether `tensors` are these, with nothing written to them that version counters tell of."""
        return self._counters == _counters(tensors)

    def written(self) -> Tensor:
        """Whether a number is no longer what it was, a boolean on the tensors' device, which is not waited for."""
        changed = [(now != before).any() for now, before in zip(self._look(), self._numbers, strict=True)]
        return torch.stack(changed).any() if changed else torch.zeros((), dtype=torch.bool, device=self.device)

    @property
    def device(self) -> torch.device:
        """The tensors' device."""
        return self.tensors[0].device if self.tensors else torch.device("cpu")

    def _look(self) -> list[Tensor]:
        return [torch.cat(views) for views in self._looked_at]


def _counters(tensors: tuple[Tensor, ...]) -> tuple[object, ...]:
    return tuple((id(t), t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def _spots(tensors: tuple[Tensor, ...]) -> list[list[Tensor]]:
    """Views of numbers of each tensor, as integers (NaN is NaN then, and -0 is not 0), by their width."""
    found: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.numel() == 0:
            continue
        real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        count = min(_NUMBERS, max(real.shape, default=1))
        for i in range(count):
            along = zip(real.shape, real.stride(), strict=True)
            offset = sum((size - 1) * i // max(count - 1, 1) * stride for size, stride in along)
            # One number a view: torch.cat takes a third of the time where all that it is given is contiguous.
            number = real.as_strided((1,), (1,), real.storage_offset() + offset)
            integers = _INTEGERS[number.element_size()]
            found.setdefault(integers, []).append(number.view(integers))
    return list(found.values())
