from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoprune.errors import UsageError
from autoprune.training.loggers import Log, make_loggers

ROW = {"step": 4, "epoch": 0.5, "train_loss": None, "top1": 0.75}


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_history_is_one_object_per_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    log = Log(path)
    log.write(ROW)
    log.write({**ROW, "step": 8})
    assert rows(path) == [ROW, {**ROW, "step": 8}]


def test_rows_after_the_checkpoint_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps({**ROW, "step": step}) + "\n" for step in (0, 4, 8)) + '{"s')
    log = Log(path)
    log.resume(4)
    log.write({**ROW, "step": 6})
    assert [row["step"] for row in rows(path)] == [0, 4, 6]


def test_trackers_are_told_what_is_known(tmp_path: Path) -> None:
    told, closed = [], []
    tracker = SimpleNamespace(
        log=lambda step, figures: told.append((step, figures)), close=lambda: closed.append(1)
    )
    log = Log(None, [tracker])
    log.write(ROW)
    log.close()
    assert told == [(4, {"epoch": 0.5, "top1": 0.75})] and closed == [1]


def test_a_logger_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, folder, config):\n"
        "        self.file = folder / f\"mine-{config['seed']}.txt\"\n"
        "    def log(self, step, figures):\n"
        "        self.file.write_text(f'{step} {figures}')\n"
        "    def close(self):\n"
        "        pass\n"
    )
    (mine,) = make_loggers([f"{tmp_path}/mine.py:Mine"], tmp_path, {"seed": 3})
    mine.log(2, {"top1": 0.5})
    assert (tmp_path / "mine-3.txt").read_text() == "2 {'top1': 0.5}"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_with_the_interface_of_wandb(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    package = SimpleNamespace(
        init=lambda **options: calls.append(options),
        log=lambda figures, step: calls.append((step, figures)),
        finish=lambda: calls.append("end"),
    )
    monkeypatch.setitem(sys.modules, name, package)
    (tracker,) = make_loggers([name], tmp_path, {"training": "finetune", "seed": 3})
    tracker.log(2, {"top1": 0.5})
    tracker.close()
    assert calls == [
        {
            "project": "autoprune",
            "name": f"{tmp_path.name}-finetune",
            "config": {"training": "finetune", "seed": 3},
        },
        (2, {"top1": 0.5}),
        "end",
    ]


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    package = SimpleNamespace(
        start_run=lambda run_name: calls.append(run_name),
        log_params=lambda config: calls.append(config),
        log_metrics=lambda figures, step: calls.append((step, figures)),
        end_run=lambda: calls.append("end"),
    )
    monkeypatch.setitem(sys.modules, "mlflow", package)
    (tracker,) = make_loggers(["mlflow"], tmp_path, {"training": "train", "seed": 3})
    tracker.log(2, {"top1": 0.5})
    tracker.close()
    given = {"training": "train", "seed": 3}
    assert calls == [f"{tmp_path.name}-train", given, (2, {"top1": 0.5}), "end"]


def test_tensorboard_writes_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    (tracker,) = make_loggers(["tensorboard"], tmp_path, {"training": "finetune"})
    tracker.log(2, {"top1": 0.5})
    tracker.close()
    assert list((tmp_path / "tensorboard" / "finetune").glob("events.*"))


def test_trackers_that_have_begun_are_closed_where_another_cannot_begin(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class First:\n"
        "    def __init__(self, folder, config): self.folder = folder\n"
        "    def close(self): (self.folder / 'closed').touch()\n"
        "def second(folder, config): raise OSError('no key')\n"
    )
    names = [f"{tmp_path}/mine.py:First", f"{tmp_path}/mine.py:second"]
    with pytest.raises(UsageError, match="second' cannot begin: OSError: no key"):
        make_loggers(names, tmp_path, {})
    assert (tmp_path / "closed").exists()


def test_what_is_not_installed_or_unknown_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"logger 'mlflow' needs .* pip install mlflow"):
        make_loggers(["mlflow"], tmp_path, {})
    with pytest.raises(UsageError, match=r"unknown logger 'wandbb'; did you mean 'wandb'\?"):
        make_loggers(["wandbb"], tmp_path, {})


@pytest.mark.parametrize(
    ("content", "kept", "told"),
    [
        (b'{"step": 1\n{"step": }\n{"step": 2}\n', [2], "2 lines cannot be read"),
        (b"\xff\xfe{}", [], "begins again"),
        (b'{"step": "one"}\n{"epoch": 1.0}\n{"step": 9}\n', [], "2 lines cannot be read"),
    ],
)
def test_a_damaged_history_is_named_and_its_sound_rows_stay(
    content: bytes, kept: list[int], told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, rows = tmp_path / "history.jsonl", Log(tmp_path / "history.jsonl")
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "autoprune"):
        rows.resume(4)  # the checkpoint is of step 4
    assert rows.rows == [{"step": step} for step in kept]
    assert path.read_text() == "".join(f'{{"step": {step}}}\n' for step in kept)
    assert "history.jsonl" in caplog.text and "is damaged" in caplog.text and told in caplog.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes as files")
def test_a_history_that_is_a_pipe_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.jsonl"
    os.mkfifo(path)
    with caplog.at_level(logging.WARNING, "autoprune"):
        Log(path).resume(4)
    assert path.is_file() and "it is a device or a pipe" in caplog.text
