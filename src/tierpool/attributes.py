"""The search attributes of work items, registered where a server lacks them."""

from __future__ import annotations

from collections.abc import Mapping

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from tierpool.errors import ServerError
from tierpool.telemetry import SEARCH_ATTRIBUTES

__all__ = ["ensure_search_attributes"]


async def ensure_search_attributes(client: Client) -> None:
    """Register tierpool's search attributes where the server lacks them.

    Raises:
        ServerError: if one exists with another type, or the server refuses.
    """
    try:
        missing = _missing_attributes(await _known_attributes(client))
        if missing:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(
                    namespace=client.namespace, search_attributes=missing
                )
            )
    except RPCError as error:
        if error.status is RPCStatusCode.ALREADY_EXISTS:
            return  # another worker was quicker
        raise ServerError(
            f"search attributes cannot be registered: {error.message}; register "
            f"{', '.join(f'{n} ({k})' for n, k in SEARCH_ATTRIBUTES.items())} by hand"
        ) from error


async def _known_attributes(
    client: Client,
) -> Mapping[str, IndexedValueType.ValueType]:
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError as error:
        if error.status is RPCStatusCode.UNIMPLEMENTED:
            return {}  # Temporal's time-skipping test server adds but cannot list
        raise
    return known.custom_attributes


def _missing_attributes(
    known: Mapping[str, IndexedValueType.ValueType],
) -> dict[str, IndexedValueType.ValueType]:
    missing = {}
    for name, kind in SEARCH_ATTRIBUTES.items():
        wanted = IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{kind.upper()}")
        found = known.get(name)
        if found is None:
            missing[name] = wanted
        elif found != wanted:
            raise ServerError(
                f"the search attribute {name} exists with the type "
                f"{IndexedValueType.Name(found)}; tierpool needs {kind}"
            )
    return missing
