"""What each role may use and returns, gathered for the other checks.

Finds the texts (prompts, schemas) that roles name and reports the ones that
cannot be used. Also whether a role's tiers exist and fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tierpool.blueprint import CLASSIFIER_ROLE, Blueprint, Tier
from tierpool.config.output import Schema, resolve_output, verdict_schema
from tierpool.config.parts import Parts
from tierpool.config.report import Key, Report, known_names
from tierpool.config.source import MAX_PART_BYTES, PartProblem, read_part

__all__ = ["RoleTexts", "allowed_tiers", "check_roles", "read_texts"]

_ONLY_FOR: Mapping[str, str] = {
    "conversation": "llm",
    "max_output_tokens": "llm",
    "classifier": "llm",
    "pass_env": "command",
}
"""Keys that mean something for one type of role only."""


@dataclass(slots=True)
class RoleTexts:
    """Prompts and schemas of the roles, as far as they could be read."""

    prompts: dict[str, str] = field(default_factory=dict)
    schemas: dict[str, Schema] = field(default_factory=dict)
    """A verifier without `output` has the default here."""
    unknown: set[str] = field(default_factory=set)
    """Roles whose schema could not be read."""


def read_texts(parts: Parts, folder: Path, report: Report) -> RoleTexts:
    """Read every prompt and schema that the valid roles name."""
    texts = RoleTexts()
    for name, role in parts.agents.items():
        if role is None:
            texts.unknown.add(name)
            continue
        if role.prompt is not None:
            _read_prompt(name, role.prompt, folder, texts, report)
        if role.output is not None:
            _read_output(name, role, folder, texts, report)
    for name in _verifiers(parts):
        role = parts.agents.get(name)
        if role is not None and role.output is None and role.type in ("llm", "human"):
            texts.schemas[name] = verdict_schema(reason_required=role.type == "llm")
    return texts


def _verifiers(parts: Parts) -> list[str]:
    return [
        edge.transition.verify
        for flow in parts.flows
        for edge in flow.edges
        if edge.transition is not None and edge.transition.verify is not None
    ]


def _read_prompt(
    name: str, prompt: str, folder: Path, texts: RoleTexts, report: Report
) -> None:
    path = ("agents", name, "prompt")
    if "\n" not in prompt:
        try:
            texts.prompts[name] = read_part(folder, prompt, "prompt")
        except PartProblem as problem:
            hint = problem.hint
            if " " in prompt.strip():
                hint = "a prompt written here needs a line break: `prompt: |`"
            report.error(path, problem.message, hint=hint)
    elif not prompt.strip():
        report.error(path, "the prompt is empty")
    elif len(prompt.encode()) > MAX_PART_BYTES:
        report.error(path, f"the prompt is larger than {MAX_PART_BYTES // 1024} KiB")
    else:
        texts.prompts[name] = prompt


def _read_output(
    name: str, role: Blueprint, folder: Path, texts: RoleTexts, report: Report
) -> None:
    def note(inner: tuple[Key, ...], message: str, hint: str | None) -> None:
        report.error(("agents", name, "output", *inner), message, hint=hint)

    schema = resolve_output(role.output or {}, folder, note)
    if schema is None:
        texts.unknown.add(name)
    else:
        texts.schemas[name] = schema


def allowed_tiers(role: Blueprint, parts: Parts) -> list[str]:
    """Return the tiers that a role may get, cheapest first; empty if not certain."""
    names = list(parts.tiers)
    policy = role.tier
    if policy.fixed is not None:
        return [policy.fixed] if policy.fixed in names else []
    if not {policy.min, policy.max} - {None} <= set(names):
        return []
    low = names.index(policy.min) if policy.min else 0
    high = names.index(policy.max) if policy.max else len(names) - 1
    return names[low : high + 1]


def check_roles(parts: Parts, report: Report) -> None:
    """Check what roles say of tiers and of keys that belong to other types."""
    for name, role in parts.agents.items():
        if name == CLASSIFIER_ROLE:
            report.error(
                ("agents", name),
                f"the role name {name!r} is reserved",
                hint="attempts of the LLM classifier bear it",
                at="key",
            )
        if role is None:
            continue
        _check_policy(name, role, parts, report)
        _check_reply_bound(name, role, parts, report)
        _check_caps(name, role, parts, report)
        for key, kind in _ONLY_FOR.items():
            if key in role.model_fields_set and role.type != kind:
                report.error(
                    ("agents", name, key), f"`{key}` belongs to type {kind}", at="key"
                )


def _check_policy(name: str, role: Blueprint, parts: Parts, report: Report) -> None:
    if "tiers" not in parts.has:
        return
    path = ("agents", name, "tier")
    for key in ("fixed", "min", "max"):
        tier = getattr(role.tier, key)
        if tier is not None and tier not in parts.tiers:
            hint = known_names(tier, [*parts.tiers, *(["auto"] * (key == "fixed"))])
            where = path if report.node((*path, key)) is None else (*path, key)
            report.error(where, f"unknown tier {tier!r}", hint=hint)
    low, high, order = role.tier.min, role.tier.max, list(parts.tiers)
    if low in order and high in order and order.index(low) > order.index(high):
        report.error(
            (*path, "min"),
            f"tier {low} is above max {high}",
            hint=f"cheapest first, the tiers are {', '.join(order)}",
        )


def _check_reply_bound(
    name: str, role: Blueprint, parts: Parts, report: Report
) -> None:
    """Refuse a bound that no tier grants; warn where only some do."""
    if role.max_output_tokens is None or role.type != "llm":
        return
    tiers: list[tuple[str, Tier]] = []
    for tier_name in allowed_tiers(role, parts):
        tier = parts.tiers[tier_name]
        if tier is None:
            return
        tiers.append((tier_name, tier))
    above = [
        f"{n} ({t.max_output_tokens})"
        for n, t in tiers
        if role.max_output_tokens > t.max_output_tokens
    ]
    path = ("agents", name, "max_output_tokens")
    if tiers and len(above) == len(tiers):
        report.error(
            path,
            f"above max_output_tokens of every tier of this role: {', '.join(above)}",
        )
    elif above:
        report.warning(path, f"bounded to less in tier {', '.join(above)}")


def _check_caps(name: str, role: Blueprint, parts: Parts, report: Report) -> None:
    wide = parts.max_concurrent
    if (
        wide is not None
        and role.max_instances is not None
        and role.max_instances > wide
    ):
        report.warning(
            ("agents", name, "max_instances"),
            f"{role.max_instances} is more than max_concurrent {wide}: never reached",
        )
