"""The classes that a card may name: models and configurations of transformers and diffusers, and our own. A card is data.

A name is one of the library's own, or `models.<model>.modeling_<model>.<Class>`; what it stands for must be a class of models (or
of configurations) that the library defines itself. Anything else (a function, a class that loads, runs or fetches) is refused
before it is touched.
"""

from __future__ import annotations

import importlib
from typing import Any

from general_perf.failures import StageError

OWN = ("WideDeep", "Dlrm")


def model_class(library: str, name: str) -> Any:
    """A class of models, `AutoModel…` among them. Raises StageError."""
    if library == "own":
        return getattr(importlib.import_module("general_perf.zoo.ranking"), _known(name, OWN))
    if library == "diffusers":
        from diffusers import ModelMixin

        return _class(library, name, (ModelMixin,), "model")
    from transformers import PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    return _class(library, name, (PreTrainedModel, _BaseAutoModelClass), "model")


def config_class(name: str) -> Any:
    """A class of transformers' configurations. Raises StageError."""
    from transformers import PretrainedConfig

    return _class("transformers", name, (PretrainedConfig,), "configuration")


def _known(name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise StageError("unsupported_format", f"'{name}' is not a model of ours", f"name one of {', '.join(names)}")
    return name


def _class(library: str, name: str, bases: tuple[type, ...], what: str) -> Any:
    folder, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(f"{library}.{folder}" if folder else library), last, None)
    except ImportError:
        found = None
    own = isinstance(found, type) and issubclass(found, bases) and found.__module__.startswith(f"{library}.models.")
    if not own:
        raise StageError("unsupported_format", f"'{name}' is not a {what} class of {library}", "name a class such as BertModel in the card")
    return found
