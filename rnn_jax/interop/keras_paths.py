"""Recurrent layers of Keras by the paths of their arrays: their order, and both directions of a bidirectional one."""

import re
from collections.abc import Sequence

from rnn_jax.interop.keras_layers import Group
from rnn_jax.interop.named_layers import listed, ordered_paths

__all__ = ["layers_of_groups"]

BIDIRECTIONAL = re.compile(r"bidirectional(_\d+)?")
"""The name that Keras gives to a bidirectional layer."""


def layers_of_groups(
    groups: dict[str, Group], order: list[str] | None, layers: Sequence[str] | None, pairs: bool | None
) -> list[tuple[str, tuple[Group, ...]]]:
    """The groups of each recurrent layer, from the bottom up, with its path: two of a bidirectional one."""
    if pairs:
        paths = ordered_paths([*groups], order, layers)
        if len(paths) % 2:
            raise ValueError(f"pairs got {len(paths)} cells; want an even number, forward and backward in turn")
        found = zip(paths[::2], paths[1::2], strict=True)
        return [(forward, (groups[forward], groups[backward])) for forward, backward in found]
    found = {path: (group,) for path, group in groups.items()} if pairs is False else paired(groups)
    above = {group.path: path for path, layer in found.items() for group in layer}
    in_turn = None if order is None else [*dict.fromkeys(above[path] for path in order if path in above)]
    return [(path, found[path]) for path in ordered_paths([*found], in_turn, layers)]


def paired(groups: dict[str, Group]) -> dict[str, tuple[Group, ...]]:
    """The groups of each layer by its path, with the two directions of a bidirectional one found by their names."""
    found: dict[str, tuple[Group, ...]] = {}
    sides = {path: side_of(path) for path in groups}
    for path, (above, side) in sides.items():
        beside = [other for other in groups if other != path and (not above or other.startswith(f"{above}/"))]
        partners = [other for other in beside if sides[other] == (above, "backward")]
        if side is None:
            continue
        if side == "forward" and not partners and len(beside) == 1 and BIDIRECTIONAL.fullmatch(above.split("/")[-1]):
            partners = beside  # Keras names the backward layer by its own name where it is given
        same = [other for other in sides if sides[other] == (above, side)]
        if side == "forward" and len(partners) == len(same) == 1:
            found[above] = groups[path], groups[partners[0]]
    taken = {group.path for layer in found.values() for group in layer}
    unclear = [path for path, (_, side) in sides.items() if side and path not in taken]
    if unclear:
        wanted = "forward_… and backward_… in one bidirectional layer, or pairs=True or False"
        raise ValueError(f"source got {listed(unclear)}, whose other direction is not clear; want {wanted}")
    return found | {path: (group,) for path, group in groups.items() if path not in taken}


def side_of(path: str) -> tuple[str, str | None]:
    """The path before ``forward_…`` or ``backward_…``, and which of the two it is; or the path and None."""
    match = re.fullmatch(r"(?:(.*)/)?(forward|backward)_[^/]*(?:/[^/]*)?", path)
    return (match[1] or "", match[2]) if match else (path, None)
