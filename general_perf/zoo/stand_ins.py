"""Our architecture in the place of a model whose weights aren't here: by its name, at its sizes, with seeded random weights."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from general_perf.card import Architecture, Card, Input, zoo

PARTS = ("encoder", "decoder")
NUMBERS = ("image", "features", "uniform")
"""Kinds of input that differ in their values alone."""


def stand_in(theirs: Card) -> Card:
    """Our card whose name a model's begins with, hyphens apart, its dims those of the model's inputs. Raises ValueError with why not.

    What the model takes beside ours is left out (segments); a mask that it hasn't got is ours.
    """
    plain = theirs.name.replace("-", "")
    base = max((name for name in zoo() if plain.startswith(name.replace("-", ""))), key=len, default="")
    part = next((part for part in PARTS if part in theirs.name and part not in base), "")
    ours = zoo().get(base)
    if ours is None or part or not isinstance(ours.source, Architecture):
        raise ValueError(f"no architecture of ours stands in for {theirs.name}" + (f": our {base} is more than the {part}" if part else ""))
    dims, remaining = dict[str, int](), list(theirs.inputs)
    for wanted in ours.inputs:
        given = next((given for given in remaining if _alike(wanted, given) and _sizes(wanted, given, ours.dims) is not None), None)
        if given is not None:
            dims |= _sizes(wanted, given, ours.dims) or {}
            remaining.remove(given)
        elif wanted.kind != "attention_mask":
            offered = ", ".join(f"{given.name} {_shape(given)}" for given in theirs.inputs)
            raise ValueError(f"our {base} takes {wanted.name} {_shape(wanted)}, which {theirs.name} doesn't: it takes {offered}")
    source = replace(ours.source, stands_for=theirs.name)
    return replace(ours, dims={**ours.dims, **dims}, source=source)


def _alike(ours: Input, theirs: Input) -> bool:
    return ours.kind == theirs.kind or {ours.kind, theirs.kind} <= set(NUMBERS)


def _shape(wanted: Input) -> str:
    return f"[{', '.join(map(str, wanted.shape))}]"


def _sizes(ours: Input, theirs: Input, dims: Mapping[str, int]) -> dict[str, int] | None:
    """Our dims that make both shapes equal; None where they can't be."""
    shape = list(theirs.shape)
    if theirs.nhwc and len(shape) == 4:
        shape = [shape[0], shape[3], *shape[1:3]]
    if len(shape) != len(ours.shape):
        return None
    sizes: dict[str, int] = {}
    for our, their in zip(ours.shape, shape, strict=True):
        if our in dims and isinstance(our, str) and isinstance(their, int):
            if sizes.setdefault(our, their) != their:
                return None
        elif our != their:
            return None
    return sizes
