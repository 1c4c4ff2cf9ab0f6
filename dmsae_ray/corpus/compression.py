"""Compressed files, read so that all that is whole is given before an error is raised."""

import logging
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

log = logging.getLogger(__name__)

_PIECE = 1 << 16
_MOST = 1 << 20  # bytes that one call decompresses to: a small file may hold gigabytes
_GZIP = 16 + zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"
_NO_FRAME = "Unknown frame descriptor"
"""What zstd says where no frame begins: behind a whole one, these are other bytes."""


def gzip_pieces(raw: Any, name: str) -> Iterator[bytes]:
    """Yield the content of a gzip file, member by member; what stands behind the last one is a warning.

    Args:
        raw: the open file.
        name: its name, for the warning.

    Raises:
        EOFError: the file is cut off.
        zlib.error: it is damaged, or is no gzip file.
    """
    member = zlib.decompressobj(_GZIP)
    begun, waiting = False, b""
    while piece := waiting + raw.read(_PIECE):
        waiting = b""
        if member.eof:
            piece = piece.lstrip(b"\0")  # padding, as on tapes
            if len(piece) < len(_MAGIC):
                more = raw.read(_PIECE)
                if not more:
                    break
                waiting = piece + more
                continue
            if not piece.startswith(_MAGIC):
                break
            member = zlib.decompressobj(_GZIP)
        begun = True
        yield from _member_pieces(member, piece)
        waiting = member.unused_data
    if begun and not member.eof:
        raise EOFError("the file ends in the middle of a gzip member")
    if piece:
        log.warning("corpus file %s: bytes behind the end of the gzip data are passed over", name)


def _member_pieces(member: Any, piece: bytes) -> Iterator[bytes]:
    while piece and not member.eof:
        before = member.copy()
        try:
            content = member.decompress(piece, _MOST)
        except zlib.error:
            # The call gives nothing of what stands before the damage.
            for byte in piece:
                yield before.decompress(bytes([byte]))
            raise
        yield content
        piece = member.unconsumed_tail


def zstd_pieces(open_raw: Callable[[], Any], name: str) -> Iterator[bytes]:
    """Yield the content of a zstd file; what stands behind the last frame is a warning.

    Args:
        open_raw: opens the file.
        name: its name, for the warning.

    Raises:
        OSError: the file is cut off, damaged, or no zstd file.
    """
    given = 0
    try:
        for content in _read(open_raw, _PIECE):
            given += len(content)
            yield content
    except OSError:
        # The call that failed gave nothing of what stands before the damage: go there again, byte by byte.
        behind = given
        try:
            for content in _read(open_raw, 1, behind):
                given += 1
                yield content
        except OSError as error:
            if _NO_FRAME not in str(error) or not given:
                raise
            log.warning("corpus file %s: bytes behind the end of the zstd data are passed over", name)


def _read(open_raw: Callable[[], Any], size: int, behind: int = 0) -> Iterator[bytes]:
    with open_raw() as raw, pa.CompressedInputStream(raw, "zstd") as stream:
        while behind > 0:
            behind -= len(stream.read(min(behind, _PIECE)))
        while content := stream.read(size):
            yield bytes(content)


def lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines of a text that comes in pieces; before an error, those that are whole."""
    parts: list[bytes] = []
    for piece in pieces:
        *whole, rest = piece.split(b"\n")
        if whole:
            yield b"".join([*parts, whole[0]])
            yield from whole[1:]
            parts = []
        parts.append(rest)
    if any(parts):
        yield b"".join(parts)
