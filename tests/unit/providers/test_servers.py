"""The real Temporal servers of the test kit."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

from tierpool.errors import ServerError
from tierpool.telemetry import SEARCH_ATTRIBUTES
from tierpool.testing import dev_server, time_skipping_server
from tierpool.testing.servers import find_program


async def test_dev_server_knows_the_search_attributes():
    """Tierpool's search attributes are registered with their types."""
    async with dev_server() as environment:
        known = await environment.client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace="default")
        )

    types = {n: IndexedValueType.Name(t) for n, t in known.custom_attributes.items()}
    expected = {
        name: f"INDEXED_VALUE_TYPE_{kind.upper()}"
        for name, kind in SEARCH_ATTRIBUTES.items()
    }
    assert expected == {name: types[name] for name in expected}


async def test_time_skipping_server_skips_time():
    """A day passes on the server's clock within the test's time limit."""
    async with time_skipping_server() as environment:
        before = await environment.get_current_time()

        await environment.sleep(timedelta(days=1))

        after = await environment.get_current_time()

    assert environment.supports_time_skipping
    assert after - before >= timedelta(days=1)


def test_missing_program_names_its_package():
    """Nothing is downloaded: the error says what to install."""
    with pytest.raises(ServerError, match="some-bin"):
        find_program("no-such-program", "some-bin")
