"""Models without a hub: turn a name into weights and a tokenizer on this machine.

`resolve("smollm2")` gives the default model, `"synthetic"` a tiny one with random weights,
a path a local checkpoint, `"org/name"` a download where a hub can be reached. Importing this
package is cheap: torch and transformers run in a child process, and only when something has to
be built.
"""

from __future__ import annotations

from bytemlperf.models.resolve import BUILT_IN, DEFAULT_MODEL, Progress, resolve

__all__ = ["BUILT_IN", "DEFAULT_MODEL", "Progress", "resolve"]
