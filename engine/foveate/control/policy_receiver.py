"""The receiving end of a remote adapter: sealed messages in, the policy word out. Server-agnostic.

The policy word is its only memory: a message must carry the next sequence number, so no restart, of
this process or of the server, makes an old message valid again. One adapter publishes at a time:
another one, identified by its epoch, is refused until the first one's lease has expired.
"""

from __future__ import annotations

import contextlib

from foveate.control.policy import PolicyReader, PolicyWriter, policy_path
from foveate.control.sealed_policy import read_secret, unseal
from foveate.errors import BadMessage, FoveateError, PolicyTaken
from foveate.settings import ModelSettings

__all__ = ["Control"]

_MAX_CLOCK_SKEW_S = 5.0  # between the two hosts' clocks, including the message's transit time
_MAX_BODY_BYTES = 4096  # bytes


class Control:
    """The policy word of one model, published by an adapter on another host."""

    def __init__(self, model: str, settings: ModelSettings) -> None:
        """Raises :class:`FoveateError` without a usable secret, :class:`PolicyError` without a
        usable policy word. While a local adapter holds the word, every message tries again.
        """
        if settings.control_secret_file is None:
            raise FoveateError(
                f"{model}_control: FOVEATE_CONTROL_SECRET_FILE must name a file with the secret "
                "shared with the adapter"
            )
        self._model = model
        self._secret = read_secret(settings.control_secret_file)
        self._path = policy_path(settings.run_dir, model)
        self._table_path = settings.run_dir / f"{model}.latency.json"
        self._reader = PolicyReader(self._path)
        self._writer: PolicyWriter | None = None
        with contextlib.suppress(PolicyTaken):
            self._own()

    def sequence(self) -> int:
        """Number of the last message; the next one must carry one more."""
        return self._own().sequence

    def latency(self) -> str:
        """The latency table of the model on this host, as JSON; empty until it is measured."""
        try:
            return self._table_path.read_text()
        except OSError:
            return ""

    def publish(self, body: bytes, mac: bytes, *, wall_s: float, now_ns: int) -> int:
        """Publish a message's policy and return its number.

        ``wall_s`` is seconds since 1970, ``now_ns`` monotonic time. Raises :class:`BadMessage` for
        a message that is forged, malformed, for another model, stale or out of sequence, and
        :class:`PolicyTaken` while another adapter publishes.
        """
        if len(body) > _MAX_BODY_BYTES:
            raise BadMessage(f"POLICY has {len(body)} bytes, expected at most {_MAX_BODY_BYTES}")
        message = unseal(body, mac, self._secret)
        if message.model != self._model:
            raise BadMessage(f"model={message.model!r}: expected {self._model!r}")
        if abs(message.sent_at - wall_s) > _MAX_CLOCK_SKEW_S:
            raise BadMessage(
                f"sent_at={message.sent_at:.3f}: {wall_s - message.sent_at:+.1f} s from the clock "
                f"of this host, expected at most {_MAX_CLOCK_SKEW_S:g}"
            )
        writer, current = self._own(), self._reader.read()
        if current is not None and current.live(now_ns) and current.epoch != message.epoch:
            raise PolicyTaken(
                f"epoch={message.epoch}: another adapter (epoch {current.epoch}) publishes this "
                "policy, and its lease has not expired"
            )
        if message.sequence != writer.sequence + 1:
            raise BadMessage(f"sequence={message.sequence}: expected {writer.sequence + 1}")
        writer.publish(message.policy(now_ns))
        return writer.sequence

    def close(self) -> None:
        self._reader.close()
        if self._writer is not None:
            self._writer.close()

    def _own(self) -> PolicyWriter:
        """The policy word, acquired as soon as no one else holds it."""
        if self._writer is None:
            self._writer = PolicyWriter(self._path)
        return self._writer
