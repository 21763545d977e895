"""Other people's budgets in the same race: their environments, runs and rows.

Each peer gets an environment of its own below a cache folder and talks over
HTTP to a scripted provider in another process, whose books are what counts. A
peer that cannot be installed or has changed is a row that says so. The programs
that use the peers are in `peers/`; our own side of the race is not here.

`python benchmarks/_peers.py` runs the peers alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from _judge import AskedCall, BilledCall, Judged, judge
from _processes import clean_env, python
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["PEERS", "Peer", "PeerRow", "Terms", "peer_table", "race_peers"]

HERE = Path(__file__).parent
INSTALL_WITHIN_S = 400
RUN_WITHIN_S = 300
LABEL = r"RACE-\d+-\d+-\d+\."


@dataclass(frozen=True, slots=True)
class Peer:
    """A program in `peers/` and what it needs."""

    name: str
    program: str
    requirements: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""
    """Of peers that share one; by default the program's name."""

    @property
    def folder(self) -> str:
        """Name of the environment's folder."""
        return self.environment or self.program


_AGENTBUDGET = ("agentbudget==0.4.*", "openai>=2,<4")
PEERS = (
    Peer(
        "LiteLLM session budget",
        "litellm_session",
        # these two releases were not the maintainers' (BerriAI/litellm#24518)
        ("litellm[proxy]>=1.106,<2,!=1.82.7,!=1.82.8",),
    ),
    Peer(
        "agentbudget",
        "agentbudget_session",
        _AGENTBUDGET,
        {"ask_first": False},
    ),
    Peer(
        "agentbudget, would_exceed",
        "agentbudget_session",
        _AGENTBUDGET,
        {"ask_first": True},
    ),
    Peer(
        "pydantic-ai cost_limit",
        "pydantic_ai_limit",
        ("pydantic-ai-slim[openai]>=2.68,<3",),
    ),
)


@dataclass(frozen=True, slots=True)
class Terms:
    """The race: prices and sizes are such that every peer knows them by itself."""

    model: str = "gpt-4o"
    input_usd_per_mtok: Decimal = Decimal("2.5")
    output_usd_per_mtok: Decimal = Decimal(10)
    input_tokens: int = 1000
    max_output_tokens: int = 1000
    output_tokens: tuple[int, ...] = (1000, 400, 700)
    """Of the replies, in turn."""
    paid_calls: int = 4
    """The cap pays for so many calls at their worst."""
    calls: int = 8
    """Calls that each caller wants."""
    delay_s: float = 0.3
    """Time that the provider takes for a reply."""

    @property
    def worst_usd(self) -> Decimal:
        """Return what a call costs at most."""
        micro = (
            self.input_tokens * self.input_usd_per_mtok
            + self.max_output_tokens * self.output_usd_per_mtok
        )
        return micro / 1_000_000

    @property
    def cap_usd(self) -> Decimal:
        """Return the budget that all callers share."""
        return self.paid_calls * self.worst_usd

    def provider_arguments(self) -> list[str]:
        """Return the provider's command line; it counts 4 bytes as a token."""
        steps = [
            {"step": "Reply", "text": "x" * 4 * tokens, "delay": self.delay_s}
            for tokens in self.output_tokens
        ]
        price = f"{self.model}={self.input_usd_per_mtok}:{self.output_usd_per_mtok}"
        return [
            *("--port", "0", "--steps", json.dumps(steps)),
            *("--price", price, "--label", LABEL),
        ]


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One race of one peer, or why there was none."""

    peer: str
    version: str = ""
    callers: int = 0
    judged: Judged | None = None
    thinks_usd: str | None = None
    """What the peer itself says was spent."""
    absent: str = ""


class _Absent(Exception):
    """A peer that cannot take part; says why."""


async def race_peers(
    cache: Path,
    callers: Sequence[int] = (1, 8, 32, 128),
    *,
    peers: Sequence[Peer] = PEERS,
    terms: Terms | None = None,
) -> list[PeerRow]:
    """Run every peer's races, one peer after the other.

    Args:
        cache: Folder of the peers' environments; made if need be, kept.
        callers: A race is run for each of these numbers of callers.
        peers: Who takes part.
        terms: Prices and sizes.
    """
    rows: list[PeerRow] = []
    for peer in peers:
        print(f"peer: {peer.name}", file=sys.stderr, flush=True)
        try:
            program = await asyncio.to_thread(_environment, cache, peer)
            rows += await _race(peer, program, list(callers), terms or Terms())
        except _Absent as why:
            rows.append(PeerRow(peer.name, absent=str(why)))
    return rows


def _environment(cache: Path, peer: Peer) -> str:
    """Make the peer's environment unless it is there; return its Python."""
    folder = cache.absolute() / peer.folder
    binary = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / "requirements.stamp"
    wanted = "\n".join(peer.requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return str(binary)
    _command(sys.executable, "-m", "venv", "--clear", str(folder))
    _command(
        str(binary),
        *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *peer.requirements,
    )
    stamp.write_text(wanted)
    return str(binary)


def _command(*command: str) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_WITHIN_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        raise _Absent(f"not installed: {_last_line(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Absent(f"not installed: {error}") from error


async def _race(
    peer: Peer, program: str, callers: list[int], terms: Terms
) -> list[PeerRow]:
    """Run the peer's program against a provider of its own, and judge it."""
    with tempfile.TemporaryDirectory(prefix="tierpool-peer-") as name:
        folder = Path(name)
        arguments = terms.provider_arguments()
        log = folder / "provider.log"
        async with (
            python("-m", "tierpool.testing.provider", *arguments, log=log) as provider,
            aiohttp.ClientSession(provider.said["base_url"]) as http,
        ):
            order = {
                "base_url": provider.said["base_url"],
                "folder": name,
                "model": terms.model,
                "cap_usd": str(terms.cap_usd),
                "worst_usd": str(terms.worst_usd),
                "max_output_tokens": terms.max_output_tokens,
                "input_bytes": 4 * terms.input_tokens,
                "calls": terms.calls,
                "callers": callers,
                "options": dict(peer.options),
            }
            said = await _run(peer, program, order)
            async with http.get("/_calls") as answer:
                billed = [BilledCall.of(call) for call in await answer.json()]
    return [_row(peer, said["version"], race, billed, terms) for race in said["races"]]


async def _run(peer: Peer, program: str, order: Mapping[str, Any]) -> Any:
    """Run the peer's program; return what it says."""
    process = await asyncio.create_subprocess_exec(
        *(program, str(HERE / "peers" / f"{peer.program}.py"), json.dumps(order)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_env({"PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}),
        start_new_session=True,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), RUN_WITHIN_S)
    except TimeoutError:
        raise _Absent(f"did not end within {RUN_WITHIN_S} s") from None
    finally:
        if process.returncode is None:
            process.terminate()  # a peer's program stops what it has started
            await process.wait()
    try:
        return json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        why = _last_line(errors.decode(errors="replace"))
        raise _Absent(f"failed with status {process.returncode}: {why}") from None


def _row(
    peer: Peer,
    version: str,
    race: Mapping[str, Any],
    billed: Sequence[BilledCall],
    terms: Terms,
) -> PeerRow:
    callers = race["callers"]
    errors = [one["words"] for one in race["asked"] if one["outcome"] == "error"]
    if len(errors) == len(race["asked"]):
        why = f"every call of {callers} callers failed: {errors[0]}"
        return PeerRow(peer.name, version, callers, absent=why)
    if errors:
        print(f"{peer.name}: {errors[0]}", file=sys.stderr, flush=True)
    asked = [
        AskedCall(one["label"], one["asked"], one["ended"], one["outcome"])
        for one in race["asked"]
    ]
    prefix = f"RACE-{callers}-"
    mine = [call for call in billed if call.label.startswith(prefix)]
    judged = judge(asked, mine, cap_usd=terms.cap_usd, worst_usd=terms.worst_usd)
    return PeerRow(peer.name, version, callers, judged, race["spent"])


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"


def peer_table(rows: Sequence[PeerRow]) -> Table:
    """Make the table: one row for each race; absent peers are named below it."""
    table = Table(
        title="Peers: one cap for all callers", title_justify="left", box=None
    )
    table.add_column("peer")
    for name in (
        *("version", "callers", "calls paid", "dollars / cap", "it counted"),
        *("paid, then refused", "wrongful refusals", "unused", "errors"),
    ):
        table.add_column(name, justify="right")
    for row in rows:
        found = row.judged
        if found is None:
            continue
        unused = found.unused_usd
        table.add_row(
            *(row.peer, row.version, str(row.callers), str(found.paid_calls)),
            f"{found.ratio:.2f}",
            "-" if row.thinks_usd in (None, "None") else f"{float(row.thinks_usd):.4f}",
            *(str(found.refused_after_paying), str(found.wrongful)),
            "-" if unused is None else f"{unused:.4f}",
            str(found.errors),
        )
    absent = [f"{row.peer} is absent: {row.absent}" for row in rows if row.absent]
    table.caption = escape("\n".join(absent)) or None
    table.caption_justify = "left"
    return table


def main() -> None:
    """Run the peers alone."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-cache", type=Path, help="folder of environments")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 32, 128])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tierpool-peers-") as folder:
        cache = args.peer_cache or Path(folder)
        rows = asyncio.run(race_peers(cache, args.callers))
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(peer_table(rows))


if __name__ == "__main__":
    main()
