"""Sizes of network inputs: one number for a square, height and width for any other rectangle."""

Size = int | tuple[int, int]
"""px: the side of a square, else (height, width)."""


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def size_of(height: int, width: int) -> Size:
    """The size that has these sides; one number where they are equal."""
    return height if height == width else (height, width)


def spelled(size: Size) -> str:
    """As options, names and tables write it, height first: 224, 384x640."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"
