"""Every launch that ships, compiled once for each chip that a test asks for."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from fastcam_kernels import aot
from fastcam_kernels.aot import Compiled
from fastcam_kernels.launch import Launch


def compiler_of(
    launches: Mapping[str, Launch], pairs: Sequence[tuple[str, str]] | None = None
) -> Callable[[str, str], Compiled]:
    """A function of a launch's name and a chip; the first of a chip compiles all of them, which are read together.

    pairs: the names and chips that are asked for; None for every launch on every chip.
    """

    @cache
    def on(target: str) -> dict[str, Compiled]:
        wanted = {name: launch for name, launch in launches.items() if pairs is None or (name, target) in pairs}
        return aot.compile_launches(wanted, target)

    return lambda name, target: on(target)[name]
