"""structlog set-up; called by the worker and the command line only.

Importing tierpool configures nothing: a library leaves logging to its user.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from temporalio import activity, workflow

__all__ = ["configure_logs"]


def configure_logs(
    *, level: int = logging.INFO, json: bool | None = None, stream: TextIO | None = None
) -> None:
    """Render structlog and standard logging alike, on standard error.

    Args:
        level: Least severity that is shown.
        json: One JSON object a line, or aligned text; default: text on a terminal.
        stream: Where to write; default: standard error.
    """
    out = stream or sys.stderr
    as_json = not out.isatty() if json is None else json
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                render,
            ],
        )
    )
    _route_standard_logging(handler, level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    workflow.logger.workflow_info_on_message = False  # IDs ride in `extra`
    activity.logger.activity_info_on_message = False


def _route_standard_logging(handler: logging.Handler, level: int) -> None:
    """Give standard logging this one handler, and quiet the HTTP clients."""
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpx2", "httpcore", "openai", "anthropic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
