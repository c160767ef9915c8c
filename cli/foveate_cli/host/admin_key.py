"""The admin key: what opens the interfaces of the server that change it or read its memory.

Triton takes such keys on its command line only, so whoever may list the processes of this machine
can read it; SECURITY.md says what that means.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from foveate.errors import ServerError

__all__ = ["ADMIN_HEADER", "RESTRICTED", "admin_key", "admin_key_path"]

ADMIN_HEADER = "foveate-admin-key"  # over gRPC Triton prefixes it: triton-grpc-protocol-
# What changes the server, its log, or maps memory into it. Metadata, configuration and statistics
# stay open: stock clients ask for them before they send anything.
RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")


def admin_key_path(state_dir: Path) -> Path:
    return state_dir / "admin-key"


def admin_key(state_dir: Path) -> str:
    """The key of this state folder, made when first asked for; its file is for the owner only.

    Raises :class:`ServerError` naming the file if it cannot be made, read, or kept private.
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
        raise ServerError(f"{path}: cannot keep the admin key: {error.strerror}") from error
    if len(key) < 32 or not key.isalnum():
        raise ServerError(f"{path}: {len(key)} characters, expected 32 letters and digits or more")
    return key
