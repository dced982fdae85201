"""Providers by name: those of `bytemlperf.extensions`, and the cheats that the checks of a run must catch."""

from __future__ import annotations

from bytemlperf.extensions import PROVIDERS
from micro.providers.cheats import CHEATS
from micro.providers.contract import Provider


def provider_names() -> list[str]:
    """Built-in ones first."""
    return list(PROVIDERS.all())


def find_provider(name: str) -> Provider:
    """By name, built-in or of another package. Raises UserError."""
    provider: Provider = CHEATS[name] if name in CHEATS else PROVIDERS.load(name)
    return provider
