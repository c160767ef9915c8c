"""Publish policies to another host, as sealed messages to its server's ``control`` model.

The control loop never waits for the network: it hands over a policy, and a thread sends the newest
one as soon as the previous one is answered. After a refusal or a missing answer, the thread first
asks the server for its current sequence number.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from foveate.atomic_file import replacing
from foveate.control.policy import Policy, PolicyWriter, policy_path
from foveate.control.sealed_policy import PolicyMessage, read_secret, seal
from foveate.errors import PolicyError
from foveate_adapter.actuate import Writer
from foveate_adapter.address import shown
from foveate_adapter.errors import RemoteError
from foveate_adapter.settings import Settings

__all__ = ["RemoteWriter", "open_writer"]

TIMEOUT_S = 0.5


def open_writer(settings: Settings, model: str, table_path: Path) -> Writer:
    """The policy word of ``model``, where the settings say.

    Raises :class:`PolicyTaken` if another adapter on this host holds it, :class:`PolicyError` if it
    cannot be created, :class:`FoveateError` for an unusable secret.
    """
    if settings.publish == "local":
        return PolicyWriter(policy_path(settings.run_dir, model))
    assert settings.control_secret_file is not None
    secret = read_secret(settings.control_secret_file)
    return RemoteWriter(settings.publish, model, secret, table_path)


class RemoteWriter:
    """The policy word of ``model`` on the host of ``url``, written through its server.

    ``sequence`` counts what was handed over here. The latency table of that host is saved at
    ``table_path``.
    """

    def __init__(self, url: str, model: str, secret: bytes, table_path: Path) -> None:
        self.sequence = 0
        self._problem: str | None = None  # why the last message has no effect
        self._url = f"{url.rstrip('/')}/v2/models/{model}_control/infer"
        self._model = model
        self._secret = secret
        self._table_path = table_path
        # No keep-alive: open connections delay the server's shutdown.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(trust_env=False, timeout=TIMEOUT_S, limits=limits)
        self._number: int | None = None  # of the last message accepted there; None: ask
        self._newest: Policy | None = None
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"publish-{model}", daemon=True)
        self._thread.start()

    def publish(self, policy: Policy) -> None:
        """Send ``policy`` soon, unless a newer one comes first. Does not block.

        Raises :class:`PolicyError` while messages are refused or not answered.
        """
        self.sequence = policy.sequence
        self._newest = policy
        self._wake.set()
        if self._problem is not None:
            raise PolicyError(self._problem)

    def close(self) -> None:
        """End the thread; the last policy's lease expires on the other host."""
        self._closed = True
        self._wake.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._closed:
                return
            assert self._newest is not None
            try:
                self._send(self._newest)
                self._problem = None
            except RemoteError as error:
                self._number = None
                self._problem = f"{shown(self._url)}: {error}"

    def _send(self, policy: Policy) -> None:
        if self._number is None:
            number, table = self._infer("", "", ("SEQUENCE", "LATENCY"))
            self._number = int(number)
            _save(self._table_path, str(table))
        now_ns = time.monotonic_ns()
        if policy.lease_expires_ns <= now_ns:
            raise RemoteError("its last answer took longer than the lease")
        message = PolicyMessage.of(
            policy,
            model=self._model,
            sequence=self._number + 1,
            sent_at=time.time(),
            now_ns=now_ns,
        )
        (number,) = self._infer(*seal(message, self._secret), ("SEQUENCE",))
        self._number = int(number)

    def _infer(self, body: str, mac: str, outputs: Sequence[str]) -> list[str | int]:
        """First element of each output. Raises :class:`RemoteError` with the server's reason."""
        request = {
            "inputs": [
                {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}
                for name, text in (("POLICY", body), ("MAC", mac))
            ],
            "outputs": [{"name": name} for name in outputs],
        }
        try:
            response = self._client.post(self._url, json=request)
            if response.is_success:
                found = {tensor["name"]: tensor["data"][0] for tensor in response.json()["outputs"]}
                return [found[name] for name in outputs]
            reason = response.json()["error"]
        except httpx.HTTPError as error:
            raise RemoteError(f"{type(error).__name__}: {error}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise RemoteError(f"HTTP {response.status_code}, not a Triton server") from error
        raise RemoteError(reason)


def _save(path: Path, text: str) -> None:
    """Replace the file atomically. Raises :class:`RemoteError` naming it on failure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(path) as scratch:
            scratch.write_text(text)
    except OSError as error:
        raise RemoteError(f"{path}: cannot save its latency table: {error}") from error
