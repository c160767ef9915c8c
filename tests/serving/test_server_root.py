"""How the embedded server is found, laid out and told what to do."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from foveate.errors import ServerError
from foveate_cli.host.tritonserver import (
    Ports,
    check_host,
    embedded_server,
    find_libpython,
    find_wheel,
    installed_server,
    server_command,
    server_environment,
)

PORTS = Ports(http=1, grpc=2, metrics=3)


def test_missing_libpython_names_the_package() -> None:
    with pytest.raises(ServerError, match=r"apt install libpython3\.\d+"):
        find_libpython([])


def test_libpython_is_found_where_told(tmp_path: Path) -> None:
    library = tmp_path / f"libpython3.{sys.version_info.minor}.so.1.0"
    library.touch()
    assert find_libpython([tmp_path / "nowhere", tmp_path]) == library


@pytest.mark.parametrize(
    ("name", "result"), [("libc_ver", ("", "")), ("machine", "aarch64")], ids=["musl", "arm"]
)
def test_machine_without_a_wheel_is_sent_elsewhere(
    monkeypatch: pytest.MonkeyPatch, name: str, result: object
) -> None:
    monkeypatch.setattr(platform, name, lambda: result)
    with pytest.raises(ServerError, match="container"):
        find_wheel()


def test_missing_wheel_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ServerError, match=r"foveate\[embedded\]"):
        find_wheel()


def test_root_is_laid_out_once_and_complete(tmp_path: Path) -> None:
    server = embedded_server(tmp_path)
    root = server.binary.parents[3]
    assert not server.binary.is_symlink()
    assert all(link.exists() for link in root.rglob("*"))
    made = server.binary.stat().st_ctime_ns
    assert embedded_server(tmp_path) == server
    assert server.binary.stat().st_ctime_ns == made
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    state = tmp_path / "file"
    state.touch()
    with pytest.raises(ServerError, match=str(state)):
        embedded_server(state)


def test_installed_server_is_used_without_writing_to_it(tmp_path: Path) -> None:
    binary = tmp_path / "triton" / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    binary.touch(mode=0o755)
    python = tmp_path / "triton" / "backends" / "python"
    python.mkdir(parents=True)
    server = installed_server(binary, tmp_path / "state")
    assert (server.backends / "python").resolve() == python
    assert (server.backends / "foveate" / "model.py").is_file()
    assert [path.name for path in python.parent.iterdir()] == ["python"]


def test_installed_server_must_exist_and_have_a_python_backend(tmp_path: Path) -> None:
    binary = tmp_path / "bin" / "tritonserver"
    with pytest.raises(ServerError, match="not an executable"):
        installed_server(binary, tmp_path)
    binary.parent.mkdir()
    binary.touch(mode=0o755)
    with pytest.raises(ServerError, match="no Python backend"):
        installed_server(binary, tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3"])
def test_only_an_installed_server_leaves_loopback(tmp_path: Path, host: str) -> None:
    embedded = embedded_server(tmp_path)
    with pytest.raises(ServerError, match="CVE"):
        check_host(embedded, host)
    installed = installed_server(embedded.binary, tmp_path)
    assert check_host(installed, host) == host
    assert f"--http-address={host}" in server_command(installed, [tmp_path], host, PORTS, "key")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_what_changes_a_server_needs_the_admin_key(tmp_path: Path, host: str) -> None:
    command = server_command(embedded_server(tmp_path), [tmp_path], host, PORTS, "key")
    for option in ("--http-restricted-api=", "--grpc-restricted-protocol="):
        (value,) = [word for word in command if word.startswith(option)]
        assert value.endswith(":foveate-admin-key=key")
        for interface in ("model-repository", "shared-memory", "logging", "trace"):
            assert interface in value


@pytest.mark.parametrize("host", ["example.org", "::1", ""])
def test_host_must_be_an_address(tmp_path: Path, host: str) -> None:
    with pytest.raises(ServerError, match="IPv4"):
        check_host(embedded_server(tmp_path), host)


def test_localhost_is_loopback(tmp_path: Path) -> None:
    assert check_host(embedded_server(tmp_path), "localhost") == "127.0.0.1"


def test_environment_carries_settings_and_no_secrets(tmp_path: Path) -> None:
    embedded = embedded_server(tmp_path)
    installed = installed_server(embedded.binary, tmp_path)
    caller = {
        "PATH": "/opt/bin",
        "LD_LIBRARY_PATH": "/opt/lib",
        "FOVEATE_ADAPTER_TOKEN": "secret",
        "HOME": "/home/me",
    }
    settings = {"FOVEATE_RUN_DIR": "/run/foveate"}
    for server in (embedded, installed):
        environment = server_environment(server, 2, settings, caller)
        assert environment["FOVEATE_RUN_DIR"] == "/run/foveate"
        assert environment["OMP_NUM_THREADS"] == "2"
        assert environment["HOME"] == "/home/me"
        assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
        assert "FOVEATE_ADAPTER_TOKEN" not in environment
        assert ("LD_LIBRARY_PATH" in environment) == (server is installed)
