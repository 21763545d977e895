"""Which environment variables the models need; never their values.

A missing one is a warning when a file is checked and an error in the worker
of that pool: other machines may run the other pools.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from tierpool.blueprint import Fallback, Tier, split_model
from tierpool.config.report import Key, Report, path_text
from tierpool.errors import Problem
from tierpool.fleet import LoadedFleet

__all__ = [
    "check_credentials",
    "credential",
    "missing_credentials",
    "model_path",
    "models_of",
]

_KEY_VARIABLES: Mapping[str, str] = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
}


def models_of(tier: Tier) -> list[tuple[int, Tier | Fallback]]:
    """Return a tier's own model (0) and its fallbacks (1, 2, …)."""
    return [(0, tier), *enumerate(tier.fallback, start=1)]


def model_path(tier: str, number: int) -> tuple[Key, ...]:
    """Return the place of a tier's own model (0) or of a fallback."""
    return ("tiers", tier, *(("fallback", number - 1) if number else ()))


def credential(model: Tier | Fallback) -> str | None:
    """Name the environment variable that a model's worker needs, if any.

    An address of its own gets no key unless `api_key_env` names one: a
    provider's key must not travel to another server by default.
    """
    if model.api_key_env is not None:
        return model.api_key_env
    if model.base_url is not None:
        return None
    return _KEY_VARIABLES.get(split_model(model.model)[0])


def missing_credentials(
    fleet: LoadedFleet,
    pools: Iterable[str],
    environ: Mapping[str, str] | None = None,
) -> tuple[Problem, ...]:
    """Return an error for each variable that a worker of these pools lacks.

    Args:
        fleet: The fleet.
        pools: Names of tiers; unknown and paused ones are passed over.
        environ: Default: the process's own environment.
    """
    known = fleet.fleet.tiers
    tiers = {n: known[n] for n in pools if n in known and known[n].pool.max_instances}
    return tuple(
        Problem(
            message=_message(variable, paths),
            path=path_text(paths[0]),
            file=str(fleet.path),
        )
        for variable, paths in _missing(
            tiers, os.environ if environ is None else environ
        ).items()
    )


def check_credentials(
    tiers: Mapping[str, Tier | None], environ: Mapping[str, str], report: Report
) -> None:
    """Warn of each variable that is not set here."""
    for variable, paths in _missing(tiers, environ).items():
        report.warning(paths[0], _message(variable, paths))


def _missing(
    tiers: Mapping[str, Tier | None], environ: Mapping[str, str]
) -> dict[str, list[tuple[Key, ...]]]:
    missing: dict[str, list[tuple[Key, ...]]] = {}
    for variable, path in _needed(tiers):
        if not environ.get(variable, "").strip():
            missing.setdefault(variable, []).append(path)
    return missing


def _needed(
    tiers: Mapping[str, Tier | None],
) -> Iterator[tuple[str, tuple[Key, ...]]]:
    for name, tier in tiers.items():
        for number, model in models_of(tier) if tier is not None else ():
            variable = credential(model)
            if variable is not None:
                key = "api_key_env" if model.api_key_env else "model"
                yield variable, (*model_path(name, number), key)


def _message(variable: str, paths: list[tuple[Key, ...]]) -> str:
    tiers = ", ".join(dict.fromkeys(str(path[1]) for path in paths))
    return f"the environment variable {variable} is not set; the pool needs it: {tiers}"
