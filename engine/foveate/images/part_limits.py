"""The parts of a JPEG or PNG file, counted before anything decodes them.

A small file can ask for hours of work without a large picture: a progressive JPEG may refine the
same pixels in scan after scan of a few bytes each, and both formats may hold millions of parts that
are looked at one by one. No camera or encoder makes such files.
"""

from __future__ import annotations

import re

from foveate.errors import BadImage

__all__ = ["MAX_PARTS", "MAX_SCANS", "check_parts"]

MAX_SCANS = 32  # usual are 1, progressive files have about 10
MAX_PARTS = 20_000  # a PNG of 16 MiB in chunks of 1 KiB has 16,384

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # those that a length follows, and the end
_SCAN, _END = b"\xda", b"\xd9"


def check_parts(data: bytes) -> None:
    """Raise :class:`BadImage` for a file of too many parts; whether it is well formed is not asked.

    Takes as many steps as there are parts, up to the limit.
    """
    if data.startswith(_JPEG):
        _check_jpeg(data)
    elif data.startswith(_PNG):
        _check_png(data)


def _check_jpeg(data: bytes) -> None:
    parts = scans = 0
    at = len(_JPEG)
    # As libjpeg does: what is no marker is skipped, within a scan as elsewhere.
    while (marker := _MARKER.search(data, at)) and marker[1] != _END:
        parts += 1
        scans += marker[1] == _SCAN
        if scans > MAX_SCANS:
            raise BadImage(f"IMAGE: more than {MAX_SCANS} scans in a JPEG file")
        if parts > MAX_PARTS:
            raise BadImage(f"IMAGE: more than {MAX_PARTS} segments in a JPEG file")
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        at = marker.end() + max(2, length)


def _check_png(data: bytes) -> None:
    parts, at = 0, len(_PNG)
    while at < len(data):
        parts += 1
        if parts > MAX_PARTS:
            raise BadImage(f"IMAGE: more than {MAX_PARTS} chunks in a PNG file")
        at += 12 + int.from_bytes(data[at : at + 4], "big")  # length, kind, data, checksum
