"""What is fuzzed: everything that reads bytes somebody else wrote, and what such bytes look like.

A target takes any bytes and returns; an exception that is not the one promised for bad input is a
find. Checksums are mended first, where there are some: otherwise nothing behind them is reached.
"""

from __future__ import annotations

import hmac
import io
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from foveate.control import governor
from foveate.control.heartbeat import HEARTBEAT, Heartbeats
from foveate.control.policy import Policy, PolicyReader, PolicyWriter, policy_path
from foveate.control.sealed_policy import PolicyMessage, seal, unseal
from foveate.errors import BadImage, BadMessage, BadWish, LadderError
from foveate.images.decode import decode_image
from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable
from foveate_adapter.errors import ScrapeError
from foveate_adapter.observe import credible, observe, parse

__all__ = ["TARGETS", "Target"]

ROOT = Path(__file__).parents[3]
SECRET = b"a secret of the fuzzer"
LADDER = ROOT / "model_repository" / "digits" / "1" / "ladder.json"
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
POLICY = Policy(
    epoch=1,
    sequence=1,
    lease_expires_ns=2_000_000_000,
    slo_ns=200_000_000,
    quality_floor_level=2,
    margin=0.5,
    dearest=0,
    cheapest=2,
    queue_depth=3,
    queue_depth_at_ns=900_000_000,
)


@dataclass(frozen=True)
class Target:
    """``open()`` makes the function that takes inputs; ``share`` of all inputs are its."""

    open: Callable[[], Callable[[bytes], None]]
    seeds: Callable[[], list[bytes]]
    share: float
    longest: int = 4096  # bytes of an input


def decode(data: bytes) -> None:
    for file in (data, _mended_png(data)):
        with suppress(BadImage):
            pixels = decode_image(file, 32, 24)
            assert pixels.shape == (32, 24, 3)


def _mended_png(data: bytes) -> bytes:
    """With the checksums its chunks should have."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + data[at:])


def _images() -> list[bytes]:
    files = []
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"):
        kinds = {"CMYK": ("JPEG",), "RGB": ("PNG", "JPEG"), "L": ("PNG", "JPEG")}
        for kind in kinds.get(mode, ("PNG",)):
            options = ({}, {"progressive": True}) if kind == "JPEG" else ({},)
            for extra in options:
                buffer = io.BytesIO()
                Image.new(mode, (17, 11)).save(buffer, kind, **extra)
                files.append(buffer.getvalue())
    noisy = io.BytesIO()
    Image.effect_noise((40, 30), 90).save(noisy, "JPEG", exif=EXIF)
    return [*files, noisy.getvalue()]


def open_files() -> Callable[[bytes], None]:
    """Ladders and latency tables are read from files."""
    path = Path(tempfile.mkdtemp()) / "file.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(LadderError):
            ladder = Ladder.load(path)
            assert len(ladder.qualities) == len(ladder.levels) > 0
            assert ladder.digest
            with suppress(BadWish):
                ladder.index("dense")
            with suppress(BadWish):
                ladder.cheapest_at_least(0.9)
        with suppress(LadderError):
            table = LatencyTable.load(path)
            if table.seconds:
                assert table.batch_seconds(0, 3) > 0
            table.useful()

    return read


def _files() -> list[bytes]:
    ladder = json.loads(LADDER.read_text())
    ladder["levels"] = ladder["levels"][:2]
    seconds = [[0.01, 0.05], [0.005, 0.02]]
    table = {"schema": 1, "device": "cpu", "ladder": "0", "batches": [1, 8], "seconds": seconds}
    return [json.dumps(data).encode() for data in (ladder, table, {**table, "padded": True})]


def metrics(data: bytes) -> None:
    """Two scrapes, a second apart."""
    texts = data.decode(errors="replace").partition("\0")[::2]
    heartbeats, samples = Heartbeats(), []
    for at, text in enumerate(texts):
        heartbeats.see(text, float(at))
        with suppress(ScrapeError):
            samples.append(parse(text, "digits", float(at)))
    heartbeats.silent(10.0)
    for index, sample in enumerate(samples):
        credible(samples[:index], sample)
        observe(samples[0] if index else None, sample, 0.2)


def _metrics() -> list[bytes]:
    one = "".join(
        f'{name}{{model="digits"{labels}}} {value}\n'
        for name, labels, value in (
            ("nv_inference_request_success", ',version="1"', 9),
            ("nv_inference_request_failure", ',reason="OTHER",version="1"', 1),
            ("nv_inference_count", "", 9),
            ("nv_inference_pending_request_count", "", 2),
            ("nv_inference_first_response_histogram_ms_bucket", ',le="200"', 7),
            ("nv_inference_first_response_histogram_ms_count", "", 9),
            ("foveate_answers_total", ',level="0",slo="met"', 8),
            ("foveate_rejections_total", ',reason="deadline"', 1),
            ("foveate_age_seconds_bucket", ',le="0.001"', 3),
            ("foveate_age_seconds_bucket", ',le="+Inf"', 9),
            ("foveate_level", "", 1),
            ("foveate_heartbeats_total", "", 70),
            (HEARTBEAT, ',process="digits_0_0"', 1.8e9),
        )
    )
    return [one.encode(), f"{one}\0{one.replace(' 9', ' 12')}".encode()]


def open_word() -> Callable[[bytes], None]:
    """A policy word of any content, and the governor that obeys it."""
    path = policy_path(Path(tempfile.mkdtemp()), "digits")
    table = LatencyTable(
        device="", ladder="", batches=(1, 8), seconds=((0.01, 0.06), (0.006, 0.03), (0.004, 0.02))
    )
    config = governor.Config(
        latency=table, quality=(0.97, 0.96, 0.95), max_batch=8, slo_ns=200_000_000
    )
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def read(data: bytes) -> None:
        for word in (data, _mended_word(data)):
            os.ftruncate(handle, 0)
            os.pwrite(handle, word, 0)
            with PolicyReader(path) as reader:
                policy = reader.read()
            seen = governor.Observation(
                now_ns=1_000_000_000, wishes=(governor.PLAIN,) * 3, policy=policy
            )
            state, decision = governor.decide(config, governor.State(), seen)
            governor.settle(state, decision, 0.02)
            assert all(not isinstance(k, int) or 0 <= k <= 2 for k in decision.levels)

    return read


def _mended_word(data: bytes) -> bytes:
    """With the sequence number and the checksum that its current slot should have."""
    if len(data) < 384:
        return data
    (sequence,) = struct.unpack_from("<Q", data, 8)
    start = 128 * (1 + sequence % 2)
    fields = bytearray(data[start : start + 68])
    struct.pack_into("<Q", fields, 8, sequence)
    check = struct.pack("<I", zlib.crc32(fields))
    return b"FOVEATE1" + data[8:start] + fields + check + data[start + len(fields) + 4 :]


def _words() -> list[bytes]:
    path = policy_path(Path(tempfile.mkdtemp()), "digits")
    with PolicyWriter(path) as writer:
        writer.publish(POLICY)
    return [path.read_bytes().ljust(384, b"\0")]


def message(data: bytes) -> None:
    """What a remote adapter may send, under a right seal and under a wrong one."""
    _, genuine = seal(_message(), SECRET)
    with suppress(BadMessage):
        unseal(data, genuine.encode(), SECRET)
    with suppress(BadMessage):
        right = hmac.new(SECRET, data, "sha256").hexdigest()
        unseal(data, right.encode(), SECRET).policy(1_000_000_000)


def _message() -> PolicyMessage:
    return PolicyMessage.of(POLICY, model="digits", sequence=1, sent_at=1.8e9, now_ns=1_000_000_000)


def open_wishes() -> Callable[[bytes], None]:
    """Request parameters, which reach the plugin as JSON that the server wrote."""
    from foveate.backend.classifier import parse_wish  # takes torch, which the others do not need

    ladder = Ladder.load(LADDER)

    def read(data: bytes) -> None:
        try:
            parameters = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(parameters, dict):
            with suppress(BadWish):
                parse_wish(parameters, ladder)

    return read


def _wishes() -> list[bytes]:
    wishes = (
        {"level": "dense", "deadline_ms": 50},
        {"level": 2, "quality": "exact"},
        {"quality": 0.96, "other": True},
        {"deadline_ms": "1e3"},
    )
    return [json.dumps(item).encode() for item in wishes]


TARGETS = {
    "decode": Target(lambda: decode, _images, share=0.35),
    "files": Target(open_files, _files, share=0.15),
    "metrics": Target(lambda: metrics, _metrics, share=0.15),
    "policy": Target(open_word, _words, share=0.15, longest=512),
    "message": Target(lambda: message, lambda: [_message().model_dump_json().encode()], share=0.1),
    "wish": Target(open_wishes, _wishes, share=0.1),
}
