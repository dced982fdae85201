"""Engines by name, and starting one, in this process or in a load worker's."""

from __future__ import annotations

from bytemlperf.errors import UserError
from bytemlperf.extensions import ENGINES
from bytemlperf.redaction import Redactor, option_secrets
from engines.contract import Engine, EngineInfo, EngineUnavailable, Model


def engine_class(name: str) -> type[Engine]:
    """The class behind a name. Raises UserError for an unknown one, or one that can't be loaded."""
    loaded: type[Engine] = ENGINES.load(name)
    return loaded


async def start_engine(engine: Engine, model: Model | None, options: dict[str, str], redactor: Redactor) -> EngineInfo:
    """Start it, learn its secrets. What it says of itself may be a server's words, and is cleaned. Raises UserError."""
    redactor.add(option_secrets(options))
    try:
        info = await engine.start(model, options)
    except EngineUnavailable as error:
        redactor.add(_secrets(engine))
        raise UserError(redactor.clean(error.cause), redactor.clean(error.fix)) from None
    redactor.add(_secrets(engine))
    info.model, info.notes = redactor.clean(info.model), [redactor.clean(note) for note in info.notes]
    if model is not None and model.random_weights and not any("random weights" in note for note in info.notes):
        info.notes.append("random weights: speed is that of this architecture, output is meaningless")
    return info


def _secrets(engine: Engine) -> tuple[str, ...]:
    tell = getattr(engine, "secrets", None)
    return tuple(tell()) if tell is not None else ()
