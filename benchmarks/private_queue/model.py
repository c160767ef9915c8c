"""The plugin with a queue of its own instead of Triton's: a variant to measure, not to serve with.

``execute`` takes requests at once and answers later, through their response senders. So arrivals
are known exactly, and the dead are dropped when their turn comes, without taking room in a batch.
Governor, engine and telemetry are the plugin's. Put into the version folder of a model whose
``backend`` is ``python``; ``benchmarks/private_queue.py`` does.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

from foveate import governor
from foveate.allocator import tune_allocator
from foveate.backend import model as plugin
from foveate.classifier import Classifier, Request
from foveate.governor import Observation, Rejection
from foveate.settings import ModelSettings
from foveate.telemetry import Telemetry


@dataclass(frozen=True)
class Waiting:
    """One request in the queue."""

    arrived_ns: int
    parsed: Request
    request: Any
    sender: Any

    def send(self, response: Any) -> None:
        self.sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class ExactClassifier(Classifier):
    """Its governor is told when every waiting request came, and how many wait."""

    def tell(self, arrived: Sequence[int], waiting: int) -> None:
        """``arrived``: of the next requests, oldest first, nanoseconds; ``waiting``: of all."""
        now, curve = time.monotonic_ns(), self._state.curve
        exact = ((at, curve.taken + count) for count, at in enumerate(arrived, start=1))
        points = ((arrived[0] - 1, curve.taken), *exact, (now, curve.taken + waiting))
        # A batch of the dead looks as if it had emptied the queue.
        curve = curve._replace(points=points, emptied_at_ns=None)
        self._state = self._state._replace(curve=curve)

    def dead(self, requests: Sequence[Request]) -> int:
        """How many of the oldest ``requests`` cannot be in time any more."""
        wishes = tuple(request.wish for request in requests)
        look = Observation(now_ns=time.monotonic_ns(), wishes=wishes, policy=self._policy.read())
        _, decision = governor.decide(self._config, self._state, look)
        late = [level is Rejection.DEADLINE for level in decision.levels]
        return late.index(False) if False in late else len(late)


class TritonPythonModel:
    """What the server calls."""

    def initialize(self, args: Mapping[str, str]) -> None:
        tune_allocator()
        config = json.loads(args["model_config"])
        name, folder = args["model_name"], Path(args["model_repository"]) / args["model_version"]
        self._max_batch = int(config["max_batch_size"])
        self._classifier = ExactClassifier(
            name,
            folder,
            self._max_batch,
            ModelSettings.read(),
            Telemetry(plugin.metric_factory(), name, args["model_instance_name"]),
            torch.device("cpu"),
        )
        self._queue: deque[Waiting] = deque()
        self._arrival = threading.Condition()
        self._ending = False
        self._worker = threading.Thread(target=self._serve)
        self._worker.start()

    def execute(self, requests: list[Any]) -> None:
        now = time.monotonic_ns()
        for request in requests:
            sender = request.get_response_sender()
            parsed = plugin.guard(plugin.parse, request, self._classifier)
            if not isinstance(parsed, Request):
                sender.send(parsed, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            # The server takes its memory back when we return.
            parsed = replace(parsed, pixels=parsed.pixels.clone())
            with self._arrival:
                self._queue.append(Waiting(now, parsed, request, sender))
                self._arrival.notify()

    def finalize(self) -> None:
        with self._arrival:
            self._ending = True
            self._arrival.notify()
        self._worker.join()
        self._classifier.close()

    def _serve(self) -> None:
        """Answer until the end, and then everything that still waits."""
        while True:
            with self._arrival:
                self._arrival.wait_for(lambda: self._queue or self._ending)
                if not self._queue:
                    return
                head = list(islice(self._queue, self._max_batch))
                waiting = len(self._queue)
            self._classifier.tell([item.arrived_ns for item in head], waiting)
            batch = head[: self._classifier.dead([item.parsed for item in head])] or head
            with self._arrival:
                for _ in batch:
                    self._queue.popleft()
            requests = [item.parsed for item in batch]
            answers = plugin.guard(self._classifier.answer, requests)
            failed = not isinstance(answers, list)
            for index, item in enumerate(batch):
                item.send(
                    answers if failed else plugin.guard(plugin.encode, item.request, answers[index])
                )
