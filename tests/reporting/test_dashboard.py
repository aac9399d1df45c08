"""The dashboard shows a checked copy: what is wrong is one line, and the run stays as it is."""

from __future__ import annotations

import builtins
import socket
from pathlib import Path
from typing import Any

import optuna
import pytest
from run_files import TRIALS, write_run

from autoprune.errors import RunError, UsageError
from autoprune.reporting.dashboard import memory_copy, serve
from autoprune.study.ledger import STUDY_NAME
from autoprune.study.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(write_run(tmp_path / "run"))


def test_the_copy_has_the_trials_and_not_what_others_put_there(run: RunDirectory) -> None:
    theirs = optuna.load_study(study_name=STUDY_NAME, storage=run.storage)
    theirs._storage.set_study_system_attr(theirs._study_id, "dashboard:note", "<script>")
    before = (run.path / "study.db").read_bytes()
    copy = memory_copy(run)
    study = optuna.load_study(study_name=STUDY_NAME, storage=copy)
    assert [trial.value for trial in study.trials] == [-kl for _, _, kl, _ in TRIALS]
    assert not copy.get_study_system_attrs(study._study_id)
    study.add_trial(optuna.create_trial(value=1.0))
    assert (run.path / "study.db").read_bytes() == before


def test_the_dashboard_is_given_the_copy(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard")
    given: list[Any] = []

    def interrupted(storage: Any, **place: Any) -> None:
        given.append((type(storage), place))
        raise KeyboardInterrupt

    monkeypatch.setattr(dashboard, "run_server", interrupted)
    said: list[str] = []
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    serve(run, port, said.append)
    place = {"host": "localhost", "port": port}
    assert given == [(optuna.storages.InMemoryStorage, place)]
    assert f"http://localhost:{port}/" in said[0]


def test_what_cannot_be_shown_is_one_line(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard")
    with pytest.raises(RunError, match="holds no run"):
        serve(RunDirectory(tmp_path / "nothing"), 8080, print)
    for port in (0, 99999):
        with pytest.raises(UsageError, match=f"port.* {port}|got {port}"):
            serve(run, port, print)
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"{port} cannot be listened to"):
            serve(run, port, print)
    (run.path / "study.db").write_bytes(b"no database, but long enough to be taken for one" * 50)
    with pytest.raises(RunError, match="cannot read study"):
        serve(run, 8080, print)


def test_a_missing_package_is_named(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *given: Any, **named: Any) -> Any:
        if name == "optuna_dashboard":
            raise ImportError(name)
        return imported(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'autoprune\[dashboard\]'"):
        serve(run, 8080, print)
