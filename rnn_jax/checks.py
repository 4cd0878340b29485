"""Errors that say got, wanted, and the fix."""


def require_positive(**sizes: int) -> None:
    """Raises a ValueError that names the first size which is not a positive integer.

    >>> require_positive(input_size=3, hidden_size=0)
    Traceback (most recent call last):
    ValueError: hidden_size got 0; want a positive integer, for example hidden_size=128
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} got {size}; want a positive integer, for example {name}=128")
