"""The `tierpool` command; one module per sub-command."""

from __future__ import annotations

import argparse
import sys

__all__ = ["entry", "parser"]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    from tierpool.cli.main import build_parser

    return build_parser()


def entry() -> None:
    """Entry point of the `tierpool` script; never returns."""
    from tierpool.cli.main import main
    from tierpool.worker import exit_now

    exit_now(main(sys.argv[1:]))
