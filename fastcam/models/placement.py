"""Where the network's view lies in a photo."""

from dataclasses import dataclass

Bounds = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Three steps from a photo to the network's view, in whole pixels: crop, resize, crop.

    first: (left, top, right, bottom) of what is kept of the photo, in the photo's pixels.
    resized: (height, width) to which that is resized.
    second: (left, top, right, bottom) of the view, in the pixels of the resized photo.

    A resize maps edges to edges: the point x of the photo (x = 0 at its left edge, pixel i from i to i + 1) lies at
    (x - first.left) * resized.width / first.width - second.left in the view.
    """

    first: Bounds
    resized: tuple[int, int]
    second: Bounds

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the view."""
        left, top, right, bottom = self.second
        return bottom - top, right - left

    @property
    def scale(self) -> tuple[float, float]:
        """View pixels per photo pixel, (to the right, down)."""
        left, top, right, bottom = self.first
        return self.resized[1] / (right - left), self.resized[0] / (bottom - top)

    @property
    def origin(self) -> tuple[float, float]:
        """(x, y) of the view's top left corner, in the photo's pixels."""
        (across, down), (left, top, *_), (x, y, *_) = self.scale, self.first, self.second
        return left + x / across, top + y / down

    @property
    def window(self) -> Bounds:
        """(left, top, right, bottom) of what the view shows, in the photo's pixels, rounded to whole ones."""
        (across, down), (left, top) = self.scale, self.origin
        height, width = self.size
        x, y = round(left), round(top)
        right, bottom = round(left + width / across), round(top + height / down)
        return x, y, max(right, x + 1), max(bottom, y + 1)
