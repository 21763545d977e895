"""Every error that tierpool raises on purpose.

One base class; leaves say whether trying again can help (`retryable`) and
after what time (`retry_after`). `type_name` is the name that Temporal shows
and that users may match on; it is part of the API.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar, Literal

__all__ = [
    "AgentCallFailed",
    "BudgetDenied",
    "ConfigError",
    "ItemCancelled",
    "ItemConflict",
    "LeaseShort",
    "ModelUnavailable",
    "NoTierAbove",
    "NotAdmitted",
    "PayloadTooLarge",
    "Problem",
    "ServerError",
    "TierpoolError",
    "UnknownName",
    "UsageError",
    "nearest",
]


class TierpoolError(Exception):
    """Base of every error of this package."""

    retryable: ClassVar[bool] = False
    type_name: ClassVar[str] = "TierpoolError"

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        """Keep the message; `retry_after` is a hint, not a promise."""
        super().__init__(message)
        self.retry_after = retry_after

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.type_name = cls.__name__


class NotAdmitted(TierpoolError):
    """A call that reached a worker which cannot start it now; nothing was sent."""

    retryable = True


class LeaseShort(NotAdmitted):
    """A call for which the fleet has no money, rate or concurrency left now."""

    def __init__(
        self, message: str, *, limit: str, never: bool = False,
        retry_after: timedelta | None = None,
    ) -> None:  # fmt: skip
        """Name the resource; `never`: the call is larger than its whole limit."""
        super().__init__(message, retry_after=retry_after)
        self.limit, self.never = limit, never


class ModelUnavailable(NotAdmitted):
    """A call of a model that takes none for long; there is a fallback for it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration file, and where."""

    message: str
    """What is wrong and what would be right."""
    path: str = ""
    """Place in the file's structure, such as `tiers.nano.pool.min_instances`."""
    file: str = ""
    line: int = 0
    """1-based; 0 when the problem has no line (a missing file, say)."""
    column: int = 0
    """1-based; 0 when unknown."""
    value: str | None = None
    """The offending value as written, shortened."""
    hint: str | None = None
    """The nearest known name, or what to do."""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = ":".join(
            str(part) for part in (self.file, self.line, self.column) if part
        )
        text = f"{self.severity}: "
        text += f"{self.path}: " if self.path else ""
        text += self.message
        if self.value is not None:
            text += f" (got {self.value})"
        if self.hint:
            text += f"; {self.hint}"
        return f"{where}: {text}" if where else text

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON data."""
        return asdict(self)


class ConfigError(TierpoolError):
    """A configuration that cannot be used; carries all its problems at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Take every problem found, not just the first."""
        self.problems = tuple(problems)
        errors = [p for p in self.problems if p.severity == "error"]
        count = f"{len(errors)} problem" + ("" if len(errors) == 1 else "s")
        super().__init__("\n".join([count, *(f"  {p}" for p in errors)]))


class UnknownName(TierpoolError):
    """A flow, role or tier that the fleet does not have."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Name what was asked for and what there is."""
        self.kind, self.name, self.known = kind, name, tuple(known)
        hint = nearest(name, self.known)
        super().__init__(
            f"unknown {kind} {name!r}; "
            + (f"did you mean {hint!r}? " if hint else "")
            + f"known: {', '.join(self.known) or 'none'}"
        )


class UsageError(TierpoolError):
    """A command or call that cannot mean anything as it stands."""


class PayloadTooLarge(TierpoolError):
    """Something that would not fit through Temporal, refused before it is sent."""


class ItemConflict(TierpoolError):
    """A work item with this ID is already known to the server."""


class ItemCancelled(TierpoolError):
    """The work item was cancelled while an agent call was under way."""


class AgentCallFailed(TierpoolError):
    """An agent call that ended without a usable reply, after all its attempts."""

    def __init__(self, role: str, reason: str, *, attempts: int = 0) -> None:
        """Say which role failed, why, and after how many attempts."""
        self.role, self.reason, self.attempts = role, reason, attempts
        tries = f" after {attempts} attempt{'s' if attempts != 1 else ''}"
        super().__init__(f"{role}: {reason}" + (tries if attempts else ""))


class BudgetDenied(AgentCallFailed):
    """A call that the workflow's budget does not pay for; nothing was sent."""

    def __init__(self, role: str, tier: str, needs: str, why: str) -> None:
        """Name the call, what it could cost at most in USD, and what is left."""
        self.tier, self.needs, self.why = tier, needs, why
        super().__init__(role, f"denied by the budget: {tier} needs {needs}, {why}")


class NoTierAbove(AgentCallFailed):
    """An escalation for which the role has no higher tier left."""


class ServerError(TierpoolError):
    """The Temporal server cannot be reached or cannot be used as it is."""

    retryable = True


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was probably meant to be."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
