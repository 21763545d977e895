"""Servers that a laptop needs: an embedded Temporal and a small local model.

Both are foreign programs from PyPI that run as processes of their own, one of
each per state folder. Nothing here is needed where a Temporal server and a
model provider exist already. Names are loaded when they are first used: the
model server's process imports this package and needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tierpool.devserver.model import LocalModel, find_local_model, local_model
    from tierpool.devserver.temporal import (
        EmbeddedServer,
        embedded_server,
        find_dev_server,
    )

__all__ = [
    "EmbeddedServer",
    "LocalModel",
    "embedded_server",
    "find_dev_server",
    "find_local_model",
    "local_model",
]

_HOME = {
    "EmbeddedServer": "temporal",
    "embedded_server": "temporal",
    "find_dev_server": "temporal",
    "LocalModel": "model",
    "find_local_model": "model",
    "local_model": "model",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that has it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
