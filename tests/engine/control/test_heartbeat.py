"""A process is silent when its heartbeat stops moving, whatever its clock says."""

from __future__ import annotations

from foveate.control.heartbeat import HEARTBEAT, Heartbeats


def text(*beats: tuple[str, float]) -> str:
    lines = [f'{HEARTBEAT}{{model="m",process="{process}"}} {value}' for process, value in beats]
    return "\n".join(["# TYPE other gauge", 'other{model="m"} 1', *lines, ""])


def silent(heartbeats: Heartbeats, at: float) -> list[str]:
    return [silence.process for silence in heartbeats.silent(at)]


def test_only_a_heartbeat_that_does_not_move_is_silence() -> None:
    heartbeats = Heartbeats()
    for at in range(10):
        heartbeats.see(text(("m_0_0", 1e9 - at), ("m_0_1", 5.0)), at)
        assert silent(heartbeats, at) == (["m_0_1"] if at >= 2 else [])
    (silence,) = heartbeats.silent(9)
    assert str(silence) == "no heartbeat of m_0_1 for 9.0 s"
    assert silence.model == "m"


def test_a_restarted_server_starts_without_silence() -> None:
    heartbeats = Heartbeats()
    heartbeats.see(text(("m_0_0", 1.0)), 0.0)
    assert silent(heartbeats, 5.0) == ["m_0_0"]
    heartbeats.see(text(), 6.0)
    assert silent(heartbeats, 60.0) == []
    heartbeats.see(text(("m_0_0", 1.0)), 7.0)
    assert silent(heartbeats, 8.0) == []
