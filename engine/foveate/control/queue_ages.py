"""Estimate ages and queue depth without time stamps, from one cumulative curve of arrivals.

The queue is first in, first out. With D(t) requests taken and Q(t) waiting, arrivals are
A = D + Q, and the head of the queue arrived at A^-1(D). Q is sampled now and then and known a
little later. Pure: a :class:`Curve` is immutable, times are nanoseconds of a monotonic clock.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Curve", "is_full"]

_LENGTH = 64  # samples, and batches, remembered
_RATE_OVER = 8  # samples
_STALE_NS = 200_000_000  # older samples are outdated: four missed scrapes

Point = tuple[int, int]  # time, requests so far


def is_full(requests: int, images: int, max_batch: int) -> bool:
    """Whether a batch has no room for one more request of the mean size in it."""
    return images * (requests + 1) > max_batch * requests


class Curve(NamedTuple):
    """What is known about arrivals before the next batch."""

    taken: int = 0  # D: requests taken so far
    batches: tuple[Point, ...] = ()  # (time, taken before), newest last
    points: tuple[Point, ...] = ()  # (time, arrived), newest last, never decreasing
    full_batches: int = 0  # consecutive
    emptied_at_ns: int | None = None  # when a batch last took the whole queue
    largest: int = 1  # images of the largest recent request
    since_largest: int = 0  # batches since the largest request

    def sampled(self, depth: int, at_ns: int, now_ns: int) -> Curve:
        """The curve with ``depth`` requests waiting at ``at_ns``; unchanged if that is not new."""
        newest = self.points[-1][0] if self.points else 0
        if depth < 0 or not (newest < at_ns <= now_ns and now_ns - at_ns <= _STALE_NS):
            return self
        taken = self.taken
        for time, before in reversed(self.batches):
            if time <= at_ns:
                break
            taken = before
        arrived = taken + depth
        # Current arrivals are an upper bound for earlier ones, so a wrong point lasts only until
        # the next.
        points = self.points[1 - _LENGTH :]
        if points and points[-1][1] > arrived:
            points = tuple((time, min(count, arrived)) for time, count in points)
        return Curve(
            self.taken,
            self.batches,
            (*points, (at_ns, arrived)),
            self.full_batches,
            self.emptied_at_ns,
            self.largest,
            self.since_largest,
        )

    def took(self, now_ns: int, requests: int, images: int, largest: int, max_batch: int) -> Curve:
        """The curve after taking a batch whose largest request held ``largest`` images."""
        since = self.since_largest + 1
        if largest >= self.largest or since > _LENGTH:
            since = 0
        else:
            largest = self.largest
        emptied = images <= max_batch - largest  # one more request would have fitted
        return Curve(
            taken=self.taken + requests,
            batches=(*self.batches[1 - _LENGTH :], (now_ns, self.taken)),
            points=self.points,
            full_batches=min(self.full_batches + 1, _LENGTH)
            if is_full(requests, images, max_batch)
            else 0,
            emptied_at_ns=now_ns if emptied else self.emptied_at_ns,
            largest=largest,
            since_largest=since,
        )

    def waiting(self, requests: int, images: int, max_batch: int, now_ns: int) -> int:
        """Images queued behind the batch being taken, assuming requests of its mean size."""
        if images <= max_batch - self.largest:
            return 0  # another request would have been in the batch
        if not self.fresh(now_ns):
            # Without samples: every consecutive full batch is evidence of one more behind it.
            return max_batch * self.full_batches if is_full(requests, images, max_batch) else 0
        at, arrived = self.points[-1]
        expected = arrived + self._rate() * (now_ns - at)
        return max(0, int(expected) - self.taken - requests) * images // requests

    def ages(self, requests: int, now_ns: int) -> list[int]:
        """Nanoseconds since the next ``requests`` arrived, oldest first.

        At most the time since a batch last emptied the queue, because these arrived later. Unknown
        (0) without recent points: an old rate says nothing about current requests.
        """
        points = self.points
        if len(points) < 2 or not self.fresh(now_ns):
            return [0] * requests
        limit = now_ns if self.emptied_at_ns is None else now_ns - self.emptied_at_ns
        newest, arrived = points[-1]
        rate, right, ages = self._rate(), len(points) - 1, []
        for number in range(self.taken + requests - 1, self.taken - 1, -1):
            # A request arrived when the curve reached its number + 1 (the first is number 0).
            if number >= arrived:
                arrival = newest + int((number + 1 - arrived) / rate) if rate > 0 else newest
            else:
                while right and points[right - 1][1] > number:
                    right -= 1
                if right:
                    (t0, a0), (t1, a1) = points[right - 1], points[right]
                    arrival = t0 + (t1 - t0) * (number + 1 - a0) // (a1 - a0)
                else:
                    arrival = points[0][0]
            age = now_ns - arrival
            ages.append(0 if age < 0 else limit if age > limit else age)
        ages.reverse()
        return ages

    def fresh(self, now_ns: int) -> bool:
        """Whether the queue depth was sampled recently."""
        return bool(self.points) and now_ns - self.points[-1][0] <= _STALE_NS

    def _rate(self) -> float:
        """Arrivals per nanosecond over the last points."""
        (t0, a0), (t1, a1) = self.points[max(-len(self.points), -_RATE_OVER)], self.points[-1]
        return (a1 - a0) / (t1 - t0) if t1 > t0 else 0.0
