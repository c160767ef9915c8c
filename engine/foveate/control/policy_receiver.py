"""The receiving end of a remote adapter: sealed messages in, the policy word out. Knows no server.

The word is its memory: a message must carry the number that follows the word's, so neither a
restart of this process nor of the server makes an old message good again. One adapter publishes at
a time: another one, known by its epoch, is refused until the lease of the first has run out.
"""

from __future__ import annotations

import contextlib

from foveate.control.policy import PolicyReader, PolicyWriter, policy_path
from foveate.control.sealed_policy import read_secret, unseal
from foveate.errors import BadMessage, FoveateError, PolicyTaken
from foveate.settings import ModelSettings

__all__ = ["Control"]

_MOST_SKEW_S = 5.0  # between the clocks of the two hosts, and the longest way of a message
_LONGEST_BODY = 4096  # bytes


class Control:
    """The policy word of one model, published by an adapter on another host."""

    def __init__(self, model: str, settings: ModelSettings) -> None:
        """Raises :class:`FoveateError` without a usable secret, :class:`PolicyError` without a
        usable word. A word that a local adapter holds is asked for again with every message.
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
        """The number of the last message; the next must carry one more."""
        return self._own().sequence

    def latency(self) -> str:
        """The latency table of the model on this host, as JSON; empty until it is measured."""
        try:
            return self._table_path.read_text()
        except OSError:
            return ""

    def publish(self, body: bytes, mac: bytes, *, wall_s: float, now_ns: int) -> int:
        """Put a message in force and return its number.

        ``wall_s`` is seconds since 1970, ``now_ns`` monotonic time. Raises :class:`BadMessage` for
        a message that is not genuine, not well formed, of another model, out of date or out of
        turn, and :class:`PolicyTaken` while another adapter publishes.
        """
        if len(body) > _LONGEST_BODY:
            raise BadMessage(f"POLICY has {len(body)} bytes, expected at most {_LONGEST_BODY}")
        message = unseal(body, mac, self._secret)
        if message.model != self._model:
            raise BadMessage(f"model={message.model!r}: this is {self._model!r}")
        if abs(message.sent_at - wall_s) > _MOST_SKEW_S:
            raise BadMessage(
                f"sent_at={message.sent_at:.3f}: {wall_s - message.sent_at:+.1f} s from the clock "
                f"of this host, expected at most {_MOST_SKEW_S:g}"
            )
        writer, current = self._own(), self._reader.read()
        if current is not None and current.live(now_ns) and current.epoch != message.epoch:
            raise PolicyTaken(
                f"epoch={message.epoch}: another adapter (epoch {current.epoch}) publishes this "
                "policy, and its lease has not run out"
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
        """The word, ours as soon as nobody else has it."""
        if self._writer is None:
            self._writer = PolicyWriter(self._path)
        return self._writer
