"""A PostgreSQL server of the tests' own, where Debian's package is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of an empty database; skipped where there is no server or no driver."""
    pytest.importorskip("psycopg2", reason="needs psycopg2-binary")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    with tempfile.TemporaryDirectory() as temporary, socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        data, user = Path(temporary) / "data", None
        if os.getuid() == 0:  # the server refuses to run as root
            user = next((u for u in ("postgres", "nobody") if _is_user(u)), None)
            shutil.chown(temporary, user)
        control = [str(places[-1] / "pg_ctl"), "-D", str(data), "-s", "-w"]
        options = f"-p {port} -k {temporary} -c listen_addresses=localhost -c fsync=off"
        make = [str(places[-1] / "initdb"), "-A", "trust", "-U", "tester", "-D", str(data)]
        subprocess.run(make, check=True, capture_output=True, user=user, cwd=temporary)
        log = f"{temporary}/log"
        start = [*control, "-o", options, "-l", log, "start"]
        subprocess.run(start, check=True, user=user, cwd=temporary, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql://tester@localhost:{port}/postgres"
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, check=False, user=user, cwd=temporary, capture_output=True)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
