from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from autoprune.core.files import BESIDES, check_writable
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.slices import Slice
from autoprune.errors import RunError
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.ledger import Ledger, read_trials
from autoprune.study.run_directory import RunDirectory, next_free
from autoprune.study.trial import Candidate, Trial

CONFIG: dict[str, Any] = {
    "budget": "flops=0.5",
    "seed": 3,
    "time": 0.5,
    "exclude": ["stem", "layer1.*"],
    "min_keep": {"*": 0.1, 'odd "name"\\': 0.25},
    "model": "größe",
    "versions": {"python": "3.12"},
}
SLICE = Slice("a.weight", 0, "producer", np.arange(4)[:, None])
POLICY = PruningPolicy({"a": GroupPolicy(4, (0, 2), (SLICE,))}, "0123")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "runs" / "one")
    directory.create(CONFIG)
    return directory


def test_a_name_that_was_drawn_goes_with_the_run(run: RunDirectory, tmp_path: Path) -> None:
    assert len(run.identity) == 12  # of an older version, by its place
    run.save_config({**CONFIG, "process": "c0ffee"})
    moved = run.path.rename(tmp_path / "moved")
    assert RunDirectory(moved).identity == "c0ffee"


def test_recovered_weights_stand_beside_those_before(run: RunDirectory) -> None:
    before, after = nn.Linear(3, 2), nn.Linear(3, 2)
    run.save_weights(before)
    assert not run.unrecovered_path.exists()
    run.save_recovered(after)
    assert torch.equal(run.load_weights()["weight"], after.weight)
    assert torch.equal(load_file(run.unrecovered_path)["weight"], before.weight)
    run.save_weights(before)  # another session, whose recovery is yet to come
    assert torch.equal(run.load_weights()["weight"], before.weight)
    assert not run.unrecovered_path.exists()


def test_everything_comes_back(run: RunDirectory) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).half()
    run.save_policy(POLICY)
    run.save_weights(model)
    run.save_result({"version": 1, "none": None})
    again = RunDirectory(str(run.path))
    assert again.load_config() == CONFIG
    assert again.load_policy().to_json() == POLICY.to_json()
    assert again.load_result() == {"version": 1, "none": None}
    weights = again.load_weights()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], t) for name, t in model.state_dict().items())
    assert sorted(p.name for p in run.path.iterdir()) == [
        "config.toml", "policy.json", "pruned.safetensors", "result.json",
    ]  # fmt: skip


class Versioned(nn.Linear):
    """Cannot be loaded without the version that it was saved by, as torchvision's MNASNet."""

    _version = 7
    seen: object = None

    def _load_from_state_dict(self, state: Any, prefix: str, notes: Any, *args: Any) -> None:
        self.seen = notes.get("version")
        super()._load_from_state_dict(state, prefix, notes, *args)


def test_what_modules_noted_comes_back(run: RunDirectory) -> None:
    saved = nn.Sequential(nn.BatchNorm1d(3), Versioned(3, 2))
    run.save_weights(saved)
    run.save_recovered(saved)
    run.weights_path.replace(run.path / "newest")
    for path in (run.path / "newest", run.unrecovered_path):
        path.replace(run.weights_path)
        state = run.load_weights()
        assert state._metadata == saved.state_dict()._metadata  # type: ignore[attr-defined]
        assert state.buffers == {"0.running_mean", "0.running_var", "0.num_batches_tracked"}
        other = nn.Sequential(nn.BatchNorm1d(3), Versioned(3, 2))
        other.load_state_dict(state)
        assert other[1].seen == 7


def test_plain_safetensors_take_the_versions_of_the_network(run: RunDirectory) -> None:
    model = Versioned(3, 2)
    save_file(model.state_dict(), run.weights_path)
    state = run.load_weights()
    assert state._metadata is None and not state.buffers
    model.load_state_dict(state.with_defaults(model.state_dict()))
    assert model.seen == 7


def masked(*values: float) -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor(values))
    return model


@pytest.mark.parametrize("is_plain", [True, False])
def test_masks_may_be_infinite(is_plain: bool, run: RunDirectory) -> None:
    model = masked(0.0, -float("inf"))
    run.save_weights(model)
    if is_plain:  # as versions before wrote it
        save_file(model.state_dict(), run.weights_path)
    assert torch.equal(run.load_weights(model.state_dict())["mask"], model.mask)
    with pytest.raises(RunError, match="NaN or infinity in 'mask'"):
        run.load_weights(masked(0.0, 0.0).state_dict())


def test_masks_that_a_forward_pass_makes_may_be_infinite_but_never_nan(run: RunDirectory) -> None:
    run.save_weights(masked(-float("inf")))
    assert run.load_weights(nn.Linear(2, 2).state_dict())["mask"].isinf().all()
    assert run.load_weights(masked(0.0, 1.0).state_dict())["mask"].isinf().all()  # it resizes it
    run.save_weights(masked(float("nan")))
    for own in (nn.Linear(2, 2), masked(-float("inf"))):
        with pytest.raises(RunError, match="NaN or infinity in 'mask'"):
            run.load_weights(own.state_dict())


def test_state_that_is_no_tensor_stays_the_networks_own(run: RunDirectory) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"classes": {1, 2}}

        def set_extra_state(self, state: Any) -> None:
            assert state == {"classes": {1, 2}}

    model = Extra(3, 2)
    run.save_weights(model)
    state = run.load_weights()
    assert state.keys() == {"weight", "bias"}
    model.load_state_dict(state.with_defaults(model.state_dict()))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[" * 100_000,
        "[]",
        "{}",
        '{"buffers": 3, "modules": {}}',
        '{"buffers": [[]], "modules": {}}',
        '{"buffers": [], "modules": []}',
        '{"buffers": [], "modules": {"": 3}}',
        '{"buffers": [], "modules": {"": {"version": [2]}}}',
    ],
    ids=lambda text: f"{text:.50}",
)
def test_an_altered_header_is_refused(header: str, run: RunDirectory) -> None:
    save_file({"a": torch.zeros(1)}, run.weights_path, {BESIDES: header})
    with pytest.raises(RunError, match=r"cannot read '.*pruned\.safetensors'"):
        run.load_weights()


def test_shared_and_sliced_tensors_are_written(run: RunDirectory) -> None:
    tied, sliced = nn.Linear(3, 3), nn.Linear(3, 3)
    sliced.weight = nn.Parameter(torch.randn(6, 6)[::2, ::2])
    model = nn.Sequential(tied, tied, sliced)
    run.save_weights(model)
    assert torch.equal(run.load_weights()["2.weight"], sliced.weight)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("policy.json", lambda run: run.save_policy(object())),
        ("result.json", lambda run: run.save_result({"bad": object()})),
        ("pruned.safetensors", lambda run: run.save_weights(nn.Linear(2, 2))),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_no_draft(
    name: str, save: Callable[[Any], None], run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr("autoprune.core.files.save_file", broken)
    (run.path / name).write_text("old")
    with pytest.raises((OSError, TypeError, AttributeError)):
        save(run)
    assert (run.path / name).read_text() == "old"
    assert sorted(path.name for path in run.path.iterdir()) == ["config.toml", name]


def test_only_a_free_directory_is_taken(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds another run; continue that with resume=True"):
        run.check_free()
    with pytest.raises(RunError, match="holds another run"):
        run.create(CONFIG)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with pytest.raises(RunError, match="exists and is no run"):
            RunDirectory(tmp_path / name).check_free()
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/deep"):
        RunDirectory(tmp_path / name).create(CONFIG)


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("config.toml", RunDirectory.load_config),
        ("policy.json", RunDirectory.load_policy),
        ("pruned.safetensors", RunDirectory.load_weights),
        ("result.json", RunDirectory.load_result),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"[1, 2]"])
def test_missing_and_damaged_files(
    name: str, load: Callable[[RunDirectory], Any], content: bytes | None, run: RunDirectory
) -> None:
    run.save_result({})  # finished, by its looks
    path = run.path / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    if name == "config.toml" and content in (b"", b"[]"):
        pytest.skip("empty TOML is valid, and [] is refused by its own message")
    with pytest.raises(RunError):
        load(run)


@pytest.mark.parametrize("name", ["plain", "with space", "ünï", "a%41b", "what?x=1", "a#b"])
def test_the_study_lies_in_the_directory(name: str, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / name)
    run.create(CONFIG)
    Ledger(SearchSpace(("a",), (4,), (1,)), run.storage)
    assert {path.name for path in run.path.iterdir()} == {"config.toml", "study.db"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_sweep_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").touch()
    with pytest.raises(RunError, match="holds a sweep: name one of the run directories in it"):
        RunDirectory(tmp_path).load_config()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes as files")
@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("run.log", os.mkfifo, "is no file: remove it, or put the file itself there"),
        ("study.db-journal", os.mkfifo, "is no file"),
        ("run.log", lambda path: path.symlink_to(path.parent / "gone"), "is a link"),
        ("study.db", lambda path: path.symlink_to("config.toml"), "is a link"),
        ("checkpoints", lambda path: path.symlink_to(path.parent.parent), "is a link: .* folder"),
        ("export", Path.touch, "is no folder"),
        ("agent", lambda path: path.symlink_to("agent"), "is a link"),
    ],
)
def test_nothing_is_written_through_links_or_into_pipes(
    name: str, make: Callable[[Path], None], told: str, run: RunDirectory
) -> None:
    make(run.path / name)
    with pytest.raises(RunError, match=rf"^'.*/{name}' {told}"), run.held():
        raise AssertionError
    (run.path / name).unlink()
    with run.held():
        assert run.load_config() == CONFIG


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes as files")
def test_a_journal_that_is_a_pipe_is_not_waited_for(run: RunDirectory) -> None:
    Ledger(SearchSpace(("a",), (4,), (1,)), run.storage)
    os.mkfifo(run.path / "study.db-journal")
    with pytest.raises(RunError, match=r"cannot open study .*: it is a device or a pipe"):
        run.stored_study().__enter__()


def test_a_study_in_whose_middle_a_process_was_killed_is_read(
    run: RunDirectory, tmp_path: Path
) -> None:
    Ledger(SearchSpace(("a",), (4,), (1,)), run.storage).record(Trial(Candidate((3,)), 0.5))
    killed = RunDirectory(tmp_path / "killed")
    killed.create(CONFIG)
    with closing(sqlite3.connect(run.path / "study.db", isolation_level=None)) as database:
        database.execute("pragma cache_size = 1")
        database.execute("begin")
        database.execute("update trials set state = 'FAIL'")
        database.execute("create table large (content blob)")
        database.executemany("insert into large values (?)", [(bytes(4096),)] * 100)
        for file in run.path.glob("study.db*"):
            shutil.copy(file, killed.path)
    before = {file.name: file.read_bytes() for file in killed.path.glob("study.db*")}
    assert len(before["study.db"]) > (run.path / "study.db").stat().st_size
    with killed.stored_study() as study:
        assert [trial.value for trial in read_trials(study)] == [0.5]
    assert {file.name: file.read_bytes() for file in killed.path.glob("study.db*")} == before


def test_next_free(tmp_path: Path) -> None:
    assert next_free(tmp_path, "net") == tmp_path / "net-1"
    (tmp_path / "net-1").mkdir()
    (tmp_path / "net-2").touch()
    (tmp_path / "net-4").mkdir()
    assert next_free(tmp_path, "net") == tmp_path / "net-3"


def test_files_are_plain_text(run: RunDirectory) -> None:
    run.save_result({"b": 1})
    assert json.loads(run.result_path.read_text(encoding="utf-8")) == {"b": 1}
    assert run.result_path.read_text().endswith("}\n")


@pytest.mark.skipif(os.name != "posix", reason="needs the permissions of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read(umask: int, mode: int, run: RunDirectory) -> None:
    before = os.umask(umask)
    try:
        run.save_weights(nn.Linear(3, 2))
        run.save_result({"b": 1})
    finally:
        os.umask(before)
    found = {path.stat().st_mode & 0o777 for path in (run.weights_path, run.result_path)}
    assert found == {mode}


def test_what_was_written_is_on_the_disk_when_its_name_is(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    whole = {"fsync": os.fsync, "replace": os.replace}
    for name, call in whole.items():
        monkeypatch.setattr(os, name, lambda *given, n=name, c=call: (done.append(n), c(*given)))
    run.save_result({"b": 1})
    assert done[:2] == ["fsync", "replace"]


@pytest.mark.parametrize("draft", [".config.toml.part", ".policy.json.part", ".lock"])
def test_what_a_killed_process_leaves_is_no_content(draft: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / draft).write_text("half")
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(RunError, match=r"holds no run: .*; begin again without resume=True"):
        run.load_config()
    run.create(CONFIG)
    assert run.load_config() == CONFIG


def test_a_place_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    check_writable(tmp_path / "a" / "b", "--output", is_folder=True)
    check_writable(tmp_path / "a" / "b", "--plot")
    check_writable(tmp_path / "file", "--plot")
    for path, is_folder, told in (
        (tmp_path / "file" / "a" / "b", False, "cannot be made: '.*/file' is not a directory"),
        (tmp_path / "file", True, "is a file: name a directory"),
        (tmp_path, False, "is a directory: name a file"),
    ):
        with pytest.raises(RunError, match=f"^--plot '.*' {told}"):
            check_writable(path, "--plot", is_folder)
    monkeypatch.setattr(os, "access", lambda *args: False)  # root may write everything
    with pytest.raises(RunError, match=r"no permission to write '.*', or its file system"):
        check_writable(tmp_path / "new", "--plot")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_how_to_resume_names_the_storage(run: RunDirectory) -> None:
    assert "storage" not in run.how_to_resume
    run.save_config({**CONFIG, "storage": "journal:///a b/log"})
    assert run.resume_command.endswith(" --storage 'journal:///a b/log'")
    assert "storage='journal:///a b/log', resume=True" in run.how_to_resume
