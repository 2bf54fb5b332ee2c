"""What a capture takes for constants: attributes of modules, their classes, functions."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastcam.network.settings import Settings


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(4), F.relu
        self.undefined, self.word, self.sizes = float("nan"), "same", (1, (2, None))
        self.run = self._run
        self.log: list[Tensor] = []

    def _run(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))

    def _walk(self, x: Tensor) -> Tensor:
        return self.norm(x)


def set_eps(block: Block) -> None:
    block.norm.eps = 1.0


def set_word(block: Block) -> None:
    block.word = "valid"


def set_a_size(block: Block) -> None:
    block.sizes = (1, (3, None))


def another_function(block: Block) -> None:
    block.act = F.gelu


def another_method(block: Block) -> None:
    block.run = block._walk


def replaced_forward(block: Block) -> None:
    block.norm.forward = lambda x: x


def another_class(block: Block) -> None:
    block.norm.__class__ = nn.Identity


def one_for_another(block: Block) -> None:
    del block.word
    block.flag = True


def no_number_any_more(block: Block) -> None:
    block.undefined = torch.ones(1)


CHANGES: list[Callable[[Block], None]] = [
    set_eps,
    set_word,
    set_a_size,
    another_function,
    another_method,
    replaced_forward,
    another_class,
    one_for_another,
    no_number_any_more,
]


def settings(block: Block) -> Settings:
    return Settings(tuple(block.modules()))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_are_seen(change: Callable[[Block], None]) -> None:
    block = Block()
    before = settings(block)
    change(block)
    assert not before.are_of(tuple(block.modules()))


def test_what_is_no_setting_may_change() -> None:
    block = Block()
    before = settings(block)
    block.train(not block.training)
    block.log.append(torch.ones(1))
    block.run = block._run
    block.norm.weight.requires_grad_(False)
    block.register_forward_hook(lambda *_: None)
    assert before.are_of(tuple(block.modules()))


def test_functions_do_not_keep_their_model_alive() -> None:
    block = Block()
    block.forward = lambda x, block=block: block.run(x)
    block.own = lambda x, block=block: x
    kept = settings(block)
    gone = weakref.ref(block)
    del block
    gc.collect()
    assert gone() is None
    assert kept is not None
