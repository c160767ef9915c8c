"""How many CPUs a process may use is what the kernel grants it, not what the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foveate.usable_cpus import cpu_quota, default_decoders, default_threads, usable_cpus

CPUS = len(os.sched_getaffinity(0))
OURS = "/pod/box"  # the group of the process

Host = Callable[..., Path]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """``host(version, {file: content}, path, root)``: a stand-in for ``/proc/self``.

    The process is in the group ``path`` of this version; the folder ``root`` of that hierarchy is
    mounted and holds the files.
    """

    def build(version: int, files: dict[str, str], path: str = OURS, root: str = "/") -> Path:
        groups = tmp_path / "cgroup"
        for name, content in files.items():
            (groups / name).parent.mkdir(parents=True, exist_ok=True)
            (groups / name).write_text(f"{content}\n")
        if version == 2:
            membership, mount = f"0::{path}", "cgroup2 cgroup2 rw,nsdelegate"
        else:
            membership, mount = f"4:cpu,cpuacct:{path}", "cgroup cgroup rw,cpu,cpuacct"
        process = tmp_path / "self"
        process.mkdir()
        (process / "cgroup").write_text(f"1:name=systemd:{path}\n{membership}\n")
        (process / "mountinfo").write_text(
            "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
            f"29 21 0:25 /elsewhere {tmp_path}/no rw - cgroup cgroup rw,memory\n"
            f"30 21 0:26 {root} {groups} rw,nosuid shared:4 - {mount}\n"
        )
        return process

    return build


@pytest.fixture
def pinned() -> Iterator[None]:
    """To one CPU of those that are ours."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"pod/box/cpu.max": "300000 100000"}, 3),
        ({"pod/box/cpu.max": "50000 20000"}, 2.5),
        ({"pod/box/cpu.max": "max 100000"}, math.inf),
        ({"pod/box/cpu.max": "max 100000", "pod/cpu.max": "400000 100000"}, 4),
        ({"pod/box/cpu.max": "800000 100000", "pod/cpu.max": "400000 100000"}, 4),
        ({"pod/box/cpu.max": "200000 100000", "pod/cpu.max": "400000 100000"}, 2),
        ({"pod/other/cpu.max": "100000 100000"}, math.inf),
        ({"pod/box/cpu.max": ""}, math.inf),
    ],
    ids=["own", "fraction", "max", "above", "less above", "more above", "a sibling's", "empty"],
)
def test_quota_of_version_2(host: Host, files: dict[str, str], cpus: float) -> None:
    assert cpu_quota(host(2, files)) == cpus


@pytest.mark.parametrize(
    ("own", "above", "cpus"),
    [
        (("300000", "100000"), ("-1", "100000"), 3),
        (("-1", "100000"), ("-1", "100000"), math.inf),
        (("400000", "100000"), ("75000", "50000"), 1.5),
    ],
)
def test_quota_of_version_1(
    host: Host, own: tuple[str, str], above: tuple[str, str], cpus: float
) -> None:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    files = {f"pod/box/{name}": text for name, text in zip(names, own, strict=True)}
    files |= {f"pod/{name}": text for name, text in zip(names, above, strict=True)}
    assert cpu_quota(host(1, files)) == cpus


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("path", "root"), [(OURS, OURS), ("/", "/"), ("/", "/../.."), ("/../sister", "/")]
)
def test_a_container_sees_its_own_group_at_the_mount(
    host: Host, version: int, path: str, root: str
) -> None:
    quota = {"cpu.max": "200000 100000"}
    if version == 1:
        quota = {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"}
    assert cpu_quota(host(version, quota, path, root)) == 2


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf
    assert usable_cpus(tmp_path) == CPUS


@pytest.mark.parametrize(("quota", "cpus"), [(10_000, 1), (190_000, 1), (100_000 * 2 * CPUS, CPUS)])
def test_a_quota_is_rounded_down_to_at_least_one(host: Host, quota: int, cpus: int) -> None:
    assert usable_cpus(host(2, {"pod/box/cpu.max": f"{quota} 100000"})) == cpus


@pytest.mark.usefixtures("pinned")
def test_affinity_counts_not_the_machine(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == 1


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (2, 1), (4, 3), (8, 7), (16, 14), (64, 56)])
def test_some_cpus_are_left_to_the_server(cpus: int, threads: int) -> None:
    assert default_threads(cpus) == threads


@pytest.mark.parametrize(
    ("cpus", "beside_cpu", "beside_gpu"),
    [(1, 1, 1), (2, 1, 1), (4, 1, 2), (16, 2, 14), (128, 16, 32)],
)
def test_decoders_take_what_the_model_leaves(cpus: int, beside_cpu: int, beside_gpu: int) -> None:
    assert default_decoders(cpus, on_gpu=False) == beside_cpu
    assert default_decoders(cpus, on_gpu=True) == beside_gpu
