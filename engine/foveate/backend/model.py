"""The Triton plugin: a Python-based backend that translates between the server and Foveate.

Copied or linked to ``<backends>/foveate/model.py``. Every model with ``backend: "foveate"`` in its
``config.pbtxt`` runs it; the parameter ``component`` selects the part: ``decode``, ``classify``, or
``control``, through which a remote adapter publishes policies.

Numeric tensors cross by DLPack: numpy 2 silently corrupts them with servers before 24.11.
"""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import from_dlpack, to_dlpack  # type: ignore[attr-defined]

from foveate.backend.classifier import (
    Classifier,
    Failure,
    Outcome,
    Refusal,
    Request,
    parse_wish,
)
from foveate.backend.finisher import Finisher
from foveate.backend.selftest import check_batches, check_instances, check_tensors
from foveate.backend.telemetry import COUNTERS, GAUGES, Telemetry
from foveate.control.governor import Wish
from foveate.control.policy_receiver import Control
from foveate.errors import PolicyError, RequestError
from foveate.images.decode import Pixels
from foveate.images.decoders import Decoder, choose_decoder
from foveate.inference.allocator import tune_allocator
from foveate.repository import CONTROL_SUFFIX
from foveate.settings import ModelSettings

# Images a request from which on it is worth sending each response by itself, which takes the server
# a message of its own: for a request of one image, about as long as all else here.
LARGE = 4

Answerer = Callable[[list[Any]], list[Any] | None]


class TritonPythonModel:
    """What the server calls."""

    def initialize(self, args: Mapping[str, str]) -> None:
        tune_allocator()
        check_tensors(pb_utils)
        config = json.loads(args["model_config"])
        component = config["parameters"]["component"]["string_value"]
        name, folder = args["model_name"], Path(args["model_repository"]) / args["model_version"]
        if component == "decode":
            telemetry = self._telemetry = open_telemetry(args)
            count_bad([], telemetry)
            height, width, _ = config["output"][0]["dims"]
            texts = {key: value["string_value"] for key, value in config["parameters"].items()}
            to_pixels = choose_decoder(texts, height, width, device_of(args))
            self._answer: Answerer = partial(decode, to_pixels=to_pixels, telemetry=telemetry)
            return
        stated = config["parameters"].get("precision")
        settings = ModelSettings.read(precision=stated and stated["string_value"])
        check_instances(config)
        if component == "control":
            self._control = Control(name.removesuffix(CONTROL_SUFFIX), settings)
            self._telemetry = open_telemetry(args)
            self._answer = partial(publish, control=self._control)
            return
        check_batches(config)
        telemetry = open_telemetry(args)
        self._classifier = Classifier(
            name,
            folder,
            config["max_batch_size"],
            settings,
            telemetry,
            device_of(args),
            log_progress,
        )
        if self._classifier.overlaps:
            self._finisher = Finisher()
            self._answer = partial(
                begin, classifier=self._classifier, telemetry=telemetry, finisher=self._finisher
            )
        else:
            self._answer = partial(classify, classifier=self._classifier, telemetry=telemetry)
        gc.freeze()  # nothing created so far is garbage: keeps collections short

    def execute(self, requests: list[Any]) -> list[Any] | None:
        return self._answer(requests)

    def finalize(self) -> None:
        if hasattr(self, "_finisher"):
            self._finisher.close()
        if hasattr(self, "_classifier"):
            self._classifier.close()
        if hasattr(self, "_control"):
            self._control.close()
        if hasattr(self, "_telemetry"):
            self._telemetry.close()


def device_of(args: Mapping[str, str]) -> torch.device:
    on_gpu = args["model_instance_kind"] == "GPU"
    return torch.device(f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu")


def log_progress(stage: str, done: int, total: int) -> None:
    pb_utils.Logger.log_info(f"{stage}: {done} of {total}")


def open_telemetry(args: Mapping[str, str]) -> Telemetry:
    return Telemetry(metric_factory(), args["model_name"], args["model_instance_name"])


def decode(requests: list[Any], to_pixels: Decoder, telemetry: Telemetry) -> list[Any]:
    """IMAGE (bytes) -> PIXELS; a bad image fails alone."""
    parsed = [guard(files_of, request) for request in requests]
    good = [files for files in parsed if isinstance(files, list)]
    pixels = iter(to_pixels([*chain.from_iterable(good)]))
    answers = [
        guard(encode_pixels, [*islice(pixels, len(files))]) if isinstance(files, list) else files
        for files in parsed
    ]
    count_bad([answer for answer in answers if answer.has_error()], telemetry)
    return answers


def count_bad(answers: Sequence[Any], telemetry: Telemetry) -> None:
    """Count error responses as invalid requests or as internal failures."""
    internal = sum(answer.error().code() == pb_utils.TritonError.INTERNAL for answer in answers)
    telemetry.count("foveate_errors_total", len(answers) - internal)
    telemetry.count("foveate_failures_total", internal)


def files_of(request: Any) -> list[bytes]:
    return [*pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1)]


def encode_pixels(images: Sequence[Pixels | Exception]) -> Any:
    for error in (image for image in images if isinstance(image, Exception)):
        raise error
    good = [image for image in images if not isinstance(image, Exception)]
    return respond({"PIXELS": torch.from_numpy(np.stack(good))})


def publish(requests: list[Any], control: Control) -> list[Any]:
    """POLICY, MAC -> SEQUENCE, LATENCY; an empty POLICY publishes nothing."""
    return [guard(publish_one, request, control) for request in requests]


def publish_one(request: Any, control: Control) -> Any:
    body, mac = (
        pb_utils.get_input_tensor_by_name(request, name).as_numpy().item()
        for name in ("POLICY", "MAC")
    )
    if body:
        sequence = control.publish(body, mac, wall_s=time.time(), now_ns=time.monotonic_ns())
    else:
        sequence = control.sequence()
    wanted = request.requested_output_names()
    tensors = [pb_utils.Tensor.from_dlpack("SEQUENCE", torch.tensor([sequence]))]
    if "LATENCY" in wanted:
        text = np.array([control.latency().encode()], dtype=np.object_)
        tensors.append(pb_utils.Tensor("LATENCY", text))
    return pb_utils.InferenceResponse([tensor for tensor in tensors if tensor.name() in wanted])


def classify(requests: list[Any], classifier: Classifier, telemetry: Telemetry) -> list[Any]:
    """PIXELS -> SCORES, LEVEL, TOKEN_MAP; a bad request fails alone."""
    parsed = parse_all(requests, classifier, telemetry)
    good = [own.request for own in parsed if isinstance(own, Parsed)]
    return encode_all(parsed, guard(classifier.answer, good) if good else [])


def begin(
    requests: list[Any], classifier: Classifier, telemetry: Telemetry, finisher: Finisher
) -> list[Any] | None:
    """The same; answers to large requests are sent when they are there, and the next batch may
    begin before that."""
    parsed = parse_all(requests, classifier, telemetry)
    good = [own.request for own in parsed if isinstance(own, Parsed)]
    if sum(len(own.pixels) for own in good) < LARGE * len(requests):
        finisher.drain()
        return encode_all(parsed, guard(classifier.answer, good) if good else [])
    senders = [request.get_response_sender() for request in requests]
    final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    wait = guard(classifier.launch, good)

    def finish() -> None:
        outcomes = guard(wait) if callable(wait) else wait
        for sender, response in zip(senders, encode_all(parsed, outcomes), strict=True):
            # Whoever cannot be answered must not leave those behind without an answer.
            guard(partial(sender.send, response, flags=final))

    finisher.add(finish)
    return None


class Parsed(NamedTuple):
    """A request, and the outputs it asks for."""

    request: Request
    wanted: Collection[str]


def parse_all(requests: list[Any], classifier: Classifier, telemetry: Telemetry) -> list[Any]:
    """A :class:`Parsed` of each, or the error response to a bad one."""
    parsed = [guard(parse, request, classifier) for request in requests]
    bad = [item for item in parsed if not isinstance(item, Parsed)]
    if bad:
        count_bad(bad, telemetry)
    return parsed


def parse(request: Any, classifier: Classifier) -> Parsed:
    pixels = from_dlpack(pb_utils.get_input_tensor_by_name(request, "PIXELS").to_dlpack())
    parameters = request.parameters()
    wish = Wish(images=len(pixels))
    if len(parameters) > len("{}"):  # most requests have no wish
        wish = parse_wish(json.loads(parameters), classifier.ladder, len(pixels))
    wanted = request.requested_output_names()
    return Parsed(Request(pixels, wish, token_map="TOKEN_MAP" in wanted), wanted)


def encode_all(parsed: list[Any], outcomes: Any) -> list[Any]:
    """Responses in order: ``outcomes`` of the good requests, or what came instead of all."""
    if not isinstance(outcomes, list):  # the whole batch failed
        internal = pb_utils.TritonError.INTERNAL
        return [
            refuse("internal error", internal) if isinstance(item, Parsed) else item
            for item in parsed
        ]
    rest = iter(outcomes)
    return [
        guard(encode, next(rest), item.wanted) if isinstance(item, Parsed) else item
        for item in parsed
    ]


def encode(outcome: Outcome, wanted: Collection[str]) -> Any:
    if isinstance(outcome, Refusal):
        message = f"{outcome.reason}: overloaded, retry after {outcome.retry_after_ms} ms"
        return refuse(message, pb_utils.TritonError.UNAVAILABLE)
    if isinstance(outcome, Failure):
        return refuse(f"internal error: {outcome.reason}", pb_utils.TritonError.INTERNAL)
    tensors = {
        "SCORES": outcome.scores,
        "LEVEL": torch.tensor([[outcome.level]] * len(outcome.scores), dtype=torch.int32),
        "TOKEN_MAP": outcome.token_map,
    }
    return respond({name: t for name, t in tensors.items() if t is not None and name in wanted})


def guard(step: Callable[..., Any], *args: Any) -> Any:
    """Run one request's step; an exception becomes that request's error response."""
    try:
        return step(*args)
    except RequestError as error:
        return refuse(str(error), pb_utils.TritonError.INVALID_ARG)
    except PolicyError as error:
        return refuse(str(error), pb_utils.TritonError.UNAVAILABLE)
    except Exception as error:  # the server would fail the whole batch and send the traceback
        pb_utils.Logger.log_error(traceback.format_exc())
        return refuse(f"internal error: {type(error).__name__}", pb_utils.TritonError.INTERNAL)


def respond(tensors: Mapping[str, torch.Tensor]) -> Any:
    """A response of CPU tensors.

    Passed as capsules, which takes half the time of passing the tensor. A CUDA tensor would have to
    be passed itself, or nothing would wait for its stream.
    """
    capsules = {name: to_dlpack(tensor.contiguous()) for name, tensor in tensors.items()}
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor.from_dlpack(name, capsule) for name, capsule in capsules.items()]
    )


def refuse(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def metric_factory() -> Callable[[str, Mapping[str, str]], Any]:
    """``create(name, labels)`` for the server's own metrics endpoint."""
    counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
    families = {
        name: pb_utils.MetricFamily(name=name, description=text, kind=kind)
        for kind, group in ((counter, COUNTERS), (gauge, GAUGES))
        for name, text in group.items()
    }

    def create(name: str, labels: Mapping[str, str]) -> Any:
        return families[name].Metric(labels=dict(labels))

    return create
