"""The admin key, which unlocks the server's interfaces that change it or read its memory.

Triton accepts such keys only on its command line, so anyone who can list this machine's processes
can read it; SECURITY.md explains the consequences.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from foveate.errors import ServerError

__all__ = ["ADMIN_HEADER", "RESTRICTED", "admin_key", "admin_key_path"]

ADMIN_HEADER = "foveate-admin-key"  # over gRPC Triton prefixes it: triton-grpc-protocol-
# Interfaces that change the server or its log, or map memory into it. Metadata, configuration and
# statistics stay open: stock clients read them before they send anything.
RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")


def admin_key_path(state_dir: Path) -> Path:
    return state_dir / "admin-key"


def admin_key(state_dir: Path) -> str:
    """The key of this state folder, created on first use; only the owner can read its file.

    Raises :class:`ServerError` naming the file if it cannot be created, read, or kept private.
    """
    path = admin_key_path(state_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(made, "w") as file:
                file.write(secrets.token_hex() + "\n")
        path.chmod(0o600)
        key = path.read_text().strip()
    except OSError as error:
        raise ServerError(f"{path}: cannot store the admin key: {error.strerror}") from error
    if len(key) < 32 or not key.isalnum():
        raise ServerError(f"{path}: {len(key)} characters, expected at least 32 letters and digits")
    return key
