"""Compression of payloads: `ZlibCodec`, the codec of a client with the plugin.

The format is that of the Go SDK's `converter.NewZlibCodec`: a payload of the
encoding `binary/zlib` whose data is the original payload, serialized and
compressed. Where clients get the codec is `plugin`'s business; the server that
decodes for the Web UI is in `devserver.codec_server`.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from tierpool.errors import PayloadTooLarge, TierpoolError

__all__ = ["ENCODING", "MAX_DECODED_BYTES", "MIN_BYTES", "ZlibCodec"]

ENCODING = b"binary/zlib"
"""What compressed payloads say in their metadata's `encoding`."""

MIN_BYTES = 256
"""Smaller data stays as it is: compressing it gains next to nothing."""

MAX_DECODED_BYTES = 64 * 1024 * 1024
"""Largest payload that is decoded, and so the largest that is encoded."""

_LEVEL = 6
_MEMORY = 5
_WINDOW_BITS = (9, 15)
_LABEL_BYTES = 402
"""Largest summary that Temporal takes, with its two quotation marks."""

_IN_THREAD_BYTES = 128 * 1024
"""Compressing this much would hold the event loop up for about 5 ms."""


class ZlibCodec(PayloadCodec):
    """Compresses payloads where that makes them smaller; stateless.

    Left as they are, and so readable without a codec: data below 256 bytes,
    what zlib cannot make smaller, summaries, and what a workflow tells
    Temporal about itself for the Web UI (the current details).

    Args:
        compress: False to decode only: what was compressed before stays
            readable.
        max_decoded_bytes: Bound of one payload after decoding.
    """

    def __init__(
        self, *, compress: bool = True, max_decoded_bytes: int = MAX_DECODED_BYTES
    ) -> None:
        self.compress = compress
        self.max_decoded_bytes = max_decoded_bytes

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Compress the payloads for which it pays; equal input, equal output."""
        if not self.compress:
            return list(payloads)
        return [
            await _off_loop(_compressed, p) if self._is_worth_it(p) else p
            for p in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Expand what this codec compressed; pass everything else through.

        Raises:
            PayloadTooLarge: if a payload would be larger than the bound.
            TierpoolError: if a payload is damaged.
        """
        return [
            await _off_loop(self._expanded, p)
            if p.metadata.get("encoding") == ENCODING
            else p
            for p in payloads
        ]

    def _is_worth_it(self, payload: Payload) -> bool:
        size = len(payload.data)
        return (
            size >= MIN_BYTES
            and payload.ByteSize() <= self.max_decoded_bytes
            and payload.metadata.get("encoding") != ENCODING
            and not _is_for_people(payload)
        )

    def _expanded(self, payload: Payload) -> Payload:
        inflater = zlib.decompressobj()
        try:
            data = inflater.decompress(payload.data, self.max_decoded_bytes + 1)
            if len(data) > self.max_decoded_bytes:
                raise PayloadTooLarge(
                    f"a compressed payload of {len(payload.data):,} bytes would take "
                    f"more than {self.max_decoded_bytes:,} bytes; it was not expanded"
                )
            if not inflater.eof:
                raise TierpoolError(_damaged(payload, "its end is missing"))
            return Payload.FromString(data)
        except zlib.error as error:
            raise TierpoolError(_damaged(payload, str(error))) from error
        except DecodeError as error:
            raise TierpoolError(_damaged(payload, "no payload is in it")) from error


def _compressed(payload: Payload) -> Payload:
    # A map's fields have no order of their own in a serialized message.
    plain = payload.SerializeToString(deterministic=True)
    packed = Payload(metadata={"encoding": ENCODING}, data=_deflated(plain))
    return packed if packed.ByteSize() < len(plain) else payload


def _deflated(plain: bytes) -> bytes:
    """Compress, with no more memory than the data calls for.

    Clearing zlib's default quarter of a megabyte takes five times as long as
    compressing a payload of the usual kilobyte.
    """
    least, most = _WINDOW_BITS
    bits = min(most, max(least, len(plain).bit_length()))
    memory = _MEMORY if bits < most else zlib.DEF_MEM_LEVEL
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, bits, memory)
    return deflater.compress(plain) + deflater.flush()


def _is_for_people(payload: Payload) -> bool:
    """Tell what the Web UI and the CLI show where no codec server is at hand."""
    if payload.metadata.get("messageType", b"").startswith(b"temporal.api."):
        return True
    return len(payload.data) <= _LABEL_BYTES and payload.data.startswith(b'"')


def _damaged(payload: Payload, how: str) -> str:
    return (
        f"a payload of {len(payload.data):,} bytes says that it is "
        f"{ENCODING.decode()}, but it is damaged: {how}"
    )


async def _off_loop(change: Callable[[Payload], Payload], payload: Payload) -> Payload:
    if len(payload.data) < _IN_THREAD_BYTES:
        return change(payload)
    return await asyncio.to_thread(change, payload)
