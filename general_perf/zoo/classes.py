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
        if name not in OWN:
            raise StageError("unsupported_format", f"'{name}' is not a model of ours", f"name one of {', '.join(OWN)}")
        return getattr(importlib.import_module("general_perf.zoo.ranking"), name)
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


def _class(library: str, name: str, bases: tuple[type, ...], what: str) -> Any:
    folder, _, last = name.rpartition(".")
    try:
        named = getattr(importlib.import_module(f"{library}.{folder}" if folder else library), last, None)
    except ImportError:
        named = None
    if isinstance(named, type) and issubclass(named, bases) and named.__module__.startswith(f"{library}.models."):
        return named
    raise StageError("unsupported_format", f"'{name}' is not a {what} class of {library}", "name a class such as BertModel in the card")
