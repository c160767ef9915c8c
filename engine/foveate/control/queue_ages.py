"""Ages and queue depth without time stamps: one cumulative curve of arrivals.

The queue is first in, first out. With D(t) requests taken and Q(t) waiting, arrivals are
A = D + Q, and the head of the queue arrived at A^-1(D). Q is sampled now and then and known a
little later. Pure: a :class:`Curve` is never changed, times are nanoseconds of a monotonic clock.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Curve", "is_full"]

_LENGTH = 64  # samples, and batches, remembered
_RATE_OVER = 8  # samples
_STALE_NS = 200_000_000  # older samples say nothing about now: four missed scrapes

Point = tuple[int, int]  # time, requests so far


def is_full(requests: int, images: int, max_batch: int) -> bool:
    """Whether a batch has no room for one more request like those in it."""
    return images * (requests + 1) > max_batch * requests


class Curve(NamedTuple):
    """What is known of the arrivals before the next batch."""

    taken: int = 0  # D: requests taken so far
    batches: tuple[Point, ...] = ()  # (time, taken before), newest last
    points: tuple[Point, ...] = ()  # (time, arrived), newest last, never falling
    full_batches: int = 0  # consecutive
    emptied_at_ns: int | None = None  # when a batch last took all that waited
    largest: int = 1  # images of the largest request of late
    since_largest: int = 0  # batches

    def sampled(self, depth: int, at_ns: int, now_ns: int) -> Curve:
        """With ``depth`` requests seen waiting at ``at_ns``; unchanged if that is no news."""
        newest = self.points[-1][0] if self.points else 0
        if depth < 0 or not (newest < at_ns <= now_ns and now_ns - at_ns <= _STALE_NS):
            return self
        taken = self.taken
        for time, before in reversed(self.batches):
            if time <= at_ns:
                break
            taken = before
        arrived = taken + depth
        # What has arrived by now bounds what had arrived before: a wrong point lasts until the
        # next.
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
        """After a batch was taken, whose largest request held ``largest`` images."""
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
        """Images behind a batch that is being taken, if requests there are as large as in it."""
        if images <= max_batch - self.largest:
            return 0  # one more would have been taken too
        if not self.fresh(now_ns):
            # Blind: every full batch in a row is evidence of one more behind it.
            return max_batch * self.full_batches if is_full(requests, images, max_batch) else 0
        at, arrived = self.points[-1]
        expected = arrived + self._rate() * (now_ns - at)
        return max(0, int(expected) - self.taken - requests) * images // requests

    def ages(self, requests: int, now_ns: int) -> list[int]:
        """Nanoseconds since the next ``requests`` arrived, oldest first.

        Never more than the time since a batch last emptied the queue: what is here arrived later.
        Unknown (0) without recent points: an old rate says nothing about the requests of now.
        """
        points = self.points
        if len(points) < 2 or not self.fresh(now_ns):
            return [0] * requests
        most = now_ns if self.emptied_at_ns is None else now_ns - self.emptied_at_ns
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
            ages.append(0 if age < 0 else most if age > most else age)
        ages.reverse()
        return ages

    def fresh(self, now_ns: int) -> bool:
        """Whether the queue was seen lately."""
        return bool(self.points) and now_ns - self.points[-1][0] <= _STALE_NS

    def _rate(self) -> float:
        """Arrivals per nanosecond over the last points."""
        (t0, a0), (t1, a1) = self.points[max(-len(self.points), -_RATE_OVER)], self.points[-1]
        return (a1 - a0) / (t1 - t0) if t1 > t0 else 0.0
