"""Values that are made when first asked for, and kept."""

from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


class Once:
    """Keeps what was made for as long as it lives itself."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], object] = {}

    def once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """Make something, or return what was made under this key before."""
        if key not in self._made:
            self._made[key] = make()
        return cast("T", self._made[key])
