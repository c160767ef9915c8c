"""The two processes of a serving host: started, checked by a real request, and kept alive.

Neither needs the other: without an adapter the governors use their defaults, and without a server
the adapter waits for it.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Mapping, Sequence

import httpx

from foveate.errors import ServerError
from foveate_cli.host.supervised import Child
from foveate_cli.host.watchdog import Answer, Watchdog, infer, open_client

__all__ = ["AdapterProcess", "TritonProcess"]

_FAILED_MODEL = re.compile(r"failed to load '([^']+)' version \d+: (.+?)(?:\\n|\"?$)")
_NOISE = re.compile(r"^([IW]\d{4} |\+[-=]|\| )")  # Triton's information, warnings and tables


class TritonProcess:
    """Tritonserver. Restarted when it or a model process dies, or a model stops answering.

    If a restart does not last for a minute, the next one waits longer; after three such restarts
    we give up.
    """

    FIRST_START_S = 540.0  # it also exports and times every level
    START_S = 300.0
    DRAIN_S = 15.0
    WEDGED_S = 2.0  # a server with a dead model process does not end by itself
    MAX_RESTARTS, STABLE_AFTER_S = 3, 60.0
    PAUSE_S = 1.0

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        http: str,
        metrics: str,
        models: Sequence[str],
    ) -> None:
        self._command = command
        self._environment = environment
        self._http = http
        self._metrics = metrics
        self._models = models
        self._client = open_client()
        self._child: Child | None = None
        self._restarts = 0  # in a row

    def start(self, within_s: float = FIRST_START_S) -> None:
        """Return when every model has answered. Raises :class:`ServerError` with the reason."""
        self._child = child = Child("triton", self._command, self._environment)
        deadline = time.monotonic() + within_s
        for model in self._models:
            answer, reason = Answer.SILENT, ""
            while answer is not Answer.GOOD:
                if child.returncode is not None:
                    raise ServerError(_obituary("tritonserver", child))
                if answer is Answer.BAD:
                    raise ServerError(f"{model}: {reason}")
                if time.monotonic() > deadline:
                    raise ServerError(f"{model}: no answer in {within_s:g} s: {reason}")
                child.claim()
                time.sleep(0.1)
                answer, reason = infer(self._client, self._http, model)
        self._watchdog = Watchdog(self._client, self._http, self._metrics, self._models)
        self._well_since = time.monotonic()

    def keep(self) -> None:
        """Restart it if needed. Raises :class:`ServerError` if that happens too often."""
        assert self._child is not None
        if self._child.returncode is not None:
            reason: str | None = f"it died ({self._child.ending})"
        elif dead := self._child.dead_models():
            reason = f"model process {dead[0]} died"
        else:
            reason = self._watchdog.trouble()
        if reason is not None and time.monotonic() - self._well_since > self.STABLE_AFTER_S:
            self._restarts = 0
        while reason is not None:
            reason = self._restart(reason)

    def _restart(self, reason: str) -> str | None:
        """Why the restart failed; None if it succeeded."""
        assert self._child is not None
        if self._restarts == self.MAX_RESTARTS:
            raise ServerError(
                f"tritonserver failed again after {self.MAX_RESTARTS} restarts, none of which "
                f"lasted {self.STABLE_AFTER_S:g} s: {reason}"
            )
        _report(f"restarting tritonserver: {reason}")
        self._child.stop(self.WEDGED_S)
        time.sleep(self._restarts * self.PAUSE_S)
        self._restarts += 1
        try:
            self.start(self.START_S)
        except ServerError as error:
            return str(error)
        _report("tritonserver answers again")
        return None

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(self.DRAIN_S)


class AdapterProcess:
    """The adapter. Restarted whenever it dies, after a pause that grows while it keeps dying."""

    START_S = 30.0
    DRAIN_S = 5.0
    FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 10.0

    def __init__(self, environment: Mapping[str, str], url: str) -> None:
        self._environment = environment
        self._url = url
        self._child: Child | None = None
        self._pause_s = self.FIRST_PAUSE_S
        self._due_at: float | None = None

    def start(self) -> None:
        """Return when it reports ready. Raises :class:`ServerError` with the reason."""
        child = self._spawn()
        deadline = time.monotonic() + self.START_S
        while child.returncode is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self._url}/readyz", trust_env=False).is_success:
                    return
            time.sleep(0.1)
        raise ServerError(_obituary("the adapter", child))

    def keep(self) -> None:
        """Restart it if it died and its pause is over; serving continues without it."""
        assert self._child is not None
        if self._child.returncode is None:
            return
        now = time.monotonic()
        if self._due_at is None:
            lived_long = now - self._spawned_at > self.MAX_PAUSE_S
            pause = self.FIRST_PAUSE_S if lived_long else self._pause_s
            self._due_at = now + pause
            self._pause_s = min(2 * pause, self.MAX_PAUSE_S)
            _report(f"the adapter died ({self._child.ending}), restarting it in {pause:g} s")
        elif now >= self._due_at:
            self._spawn()

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(self.DRAIN_S)

    def _spawn(self) -> Child:
        command = [sys.executable, "-m", "foveate_adapter"]
        self._child = Child("adapter", command, self._environment)
        self._spawned_at = time.monotonic()
        self._due_at = None
        return self._child


def _obituary(name: str, child: Child) -> str:
    """How a child failed to start, with the relevant part of its output."""
    state = "does not answer" if child.returncode is None else f"ended with {child.ending}"
    output = child.output()
    models = [f"{match[1]}: {match[2]}" for line in output if (match := _FAILED_MODEL.search(line))]
    rest = [line for line in output if line.strip() and not _NOISE.match(line)]
    return "\n  ".join([f"{name} {state}", *(models or rest[-20:])])


def _report(text: str) -> None:
    print(f"foveate: {text}", file=sys.stderr, flush=True)
