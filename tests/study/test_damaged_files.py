"""Whatever becomes of a run's files, what reads them succeeds or says in one line what is wrong.

The file is long since one finished run, which takes a moment to make, serves all of them.
"""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import make_finished, make_tuning
from mutants import forged_policy, kinds
from run_readers import KINDS, Reader, apply, evaluate, go_on, load, resume, status
from safetensors.torch import load_file, save_file
from torch import Tensor

import autoprune
from autoprune.data import load_splits
from autoprune.errors import AutopruneError, ModelError, RunError
from autoprune.models.demo import load_demo
from autoprune.models.weights import load_weights

Probe = Reader

FILES = {one.name: one.readers for one in KINDS if one.made == "a" and one.readers}
"""What reads each file of a finished search."""
TIMES = {"config.toml": 15, "study.db": 8, "result.json": 20}
"""How often a file is damaged here, where it is not so often as others."""

UNREAD = ("run.log", "history.jsonl")
"""Files that are never refused: nobody reads the one, and what is left of the other is kept."""

# Whole commands: a few of each here, many where there is time.
COMMANDS: dict[str, tuple[int, tuple[Probe, ...]]] = {
    "policy.json": (2, (evaluate,)),
    "pruned.safetensors": (2, (evaluate,)),
    "result.json": (3, (evaluate, resume)),
    "config.toml": (4, (evaluate,)),
    "study.db": (1, (go_on,)),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished search, with an unfinished fine-tuning; not to be changed."""
    run = make_finished(tmp_path_factory.mktemp("finished"))
    make_tuning(run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def copies(finished: Path, folder: Path, name: str, content: bytes) -> Iterator[Path]:
    """Yield a run of which one file is another."""
    run = folder / "copy"
    shutil.copytree(finished, run)
    (run / name).write_bytes(content)
    yield run
    shutil.rmtree(run)


def outcome(probe: Probe, run: Path) -> str:
    """Return "read" or "refused"; anything else is raised."""
    try:
        probe(run)
    except AutopruneError as error:
        assert len(str(error)) < 500 and str(error).isprintable()
        return "refused"
    return "read"


def damage(
    finished: Path,
    folder: Path,
    name: str,
    probes: tuple[Probe, ...],
    count: int,
    seed: str = "",
    kind: Callable[[bytes, Random], bytes] | None = None,
) -> set[str]:
    """Return what came of files damaged in many ways."""
    random, content = Random(name + seed), (finished / name).read_bytes()
    change = kind or kinds(folder)[Path(name).suffix]
    return {
        outcome(probe, run)
        for mutant in (change(content, random) for _ in range(count))
        for probe in probes
        for run in copies(finished, folder, name, mutant)
    }


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_read_or_refused(name: str, finished: Path, tmp_path: Path) -> None:
    found = damage(finished, tmp_path, name, FILES[name], TIMES.get(name, 25))
    assert name in UNREAD or "refused" in found


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_on_damaged_files(name: str, finished: Path, tmp_path: Path) -> None:
    count, probes = COMMANDS[name]
    damage(finished, tmp_path, name, probes, count)


def test_forged_policies(finished: Path, tmp_path: Path) -> None:
    assert "refused" in damage(
        finished, tmp_path, "policy.json", (load, apply), 50, kind=forged_policy
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", FILES)
def test_files_damaged_in_thousands_of_ways(
    name: str, seed: int, finished: Path, tmp_path: Path
) -> None:
    damage(finished, tmp_path, name, FILES[name], 240, str(seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_on_files_damaged_in_many_ways(name: str, finished: Path, tmp_path: Path) -> None:
    count, probes = COMMANDS[name]
    damage(finished, tmp_path, name, probes, 25 * count, "many")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_policies_forged_in_many_ways(seed: int, finished: Path, tmp_path: Path) -> None:
    name = "policy.json"
    damage(finished, tmp_path, name, (load, apply), 250, str(seed), forged_policy)


def as_directory(path: Path) -> None:
    path.mkdir()


def as_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_loop(path: Path) -> None:
    path.symlink_to(path.name)


def as_nothing(path: Path) -> None:
    assert not path.exists()


STRANGE = (as_directory, as_zeros, as_pipe, as_loop, as_nothing)
READERS = {
    name: tuple(one for one in readers if one is not status)
    for name, readers in FILES.items()
    if name not in {*UNREAD, "groups.json", "finetune.toml", "checkpoints/finetune.pt"}
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and devices as files")
@pytest.mark.parametrize("make", STRANGE)
@pytest.mark.parametrize("name", [name for name in READERS if not name.startswith("own")])
def test_what_is_no_file_is_refused_at_once(
    name: str, make: Callable[[Path], None], run: Path
) -> None:
    (run / name).unlink()
    make(run / name)
    if (name, make) == ("study.db", as_nothing):
        pytest.skip("a study that is not there is begun")
    assert {outcome(probe, run) for probe in READERS[name]} == {"refused"}


@pytest.mark.parametrize("make", STRANGE)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "images.npz"])
def test_what_is_no_file_in_the_users_run(
    name: str, make: Callable[[Path], None], run: Path
) -> None:
    path = run / "own" / name
    path.unlink()
    make(path)
    with pytest.raises(AutopruneError) as refused:
        if name == "images.npz":
            load_splits(f"npz:{path}")
        else:
            load_weights(load_demo(), str(path))
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["stem.0.weight", "stem.1.running_var"])
def test_weights_that_are_not_finite_are_named(name: str, value: float, run: Path) -> None:
    path = run / "pruned.safetensors"
    tensors = load_file(path)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path)
    with pytest.raises(RunError, match=f"NaN or infinity in '{name}'"):
        autoprune.load_pruned(load_demo(), run)


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "whole numbers": (lambda t: t.to(torch.int32), r"whole, model \(\d+,\)\)"),
    "complex numbers": (lambda t: t.to(torch.complex64), r"complex, model \(\d+,\)\)"),
    "another shape": (lambda t: t[:-1].clone(), r"file \(\d+,\), model \(\d+,\)\)"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_tensors_of_another_kind(change: Callable[[Any], Any], words: str, run: Path) -> None:
    path = run / "pruned.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "stem.1.bias": change(tensors["stem.1.bias"])}, path)
    with pytest.raises(ModelError, match=f"stem.1.bias .*{words}"):
        autoprune.load_pruned(load_demo(), run)
    dense = load_demo().state_dict()
    save_file({**dense, "stem.1.bias": change(dense["stem.1.bias"])}, run / "w.safetensors")
    with pytest.raises(ModelError, match=f"another shape or type: stem.1.bias .*{words}"):
        load_weights(load_demo(), str(run / "w.safetensors"))


@pytest.mark.parametrize("change", [Tensor.to_sparse, lambda t: t.to("meta")])
def test_tensors_that_hold_no_numbers(change: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    dense = load_demo().state_dict()
    torch.save({**dense, "stem.1.bias": change(dense["stem.1.bias"])}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"stem.1.bias .*sparse or without data"):
        load_weights(load_demo(), str(tmp_path / "w.pt"))


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "w.pt")
    with pytest.raises(AutopruneError, match="do not hold a state dict: 'model' is a dict"):
        load_weights(load_demo(), str(tmp_path / "w.pt"))


@pytest.mark.parametrize("lacks", [True, False])
def test_tensors_that_are_missing_or_too_many(lacks: bool, run: Path) -> None:
    path = run / "pruned.safetensors"
    tensors = load_file(path)
    bias = tensors.pop("stem.1.bias")
    save_file(tensors if lacks else {**tensors, "stem.1.bias": bias, "strange": bias.clone()}, path)
    with pytest.raises(ModelError, match="stem.1.bias" if lacks else "strange"):
        autoprune.load_pruned(load_demo(), run)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_numbers_of_any_width_are_read(dtype: torch.dtype, run: Path) -> None:
    path = run / "pruned.safetensors"
    before = load_file(path)
    halved = {k: v.to(dtype) if v.is_floating_point() else v for k, v in before.items()}
    save_file(halved, path)
    found = autoprune.load_pruned(load_demo(), run).state_dict()
    assert all(torch.allclose(found[k], v, rtol=1e-2, atol=1e-3) for k, v in before.items())


def test_an_array_that_claims_to_be_large_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, x=np.zeros((9, 4, 4, 1), np.uint8), y=np.arange(9))
    small, large = b"(9, 4, 4, 1)", b"(99999999, )"
    path.write_bytes(path.read_bytes().replace(small, large))
    tracemalloc.start()
    with pytest.raises(AutopruneError, match="cannot be read"):
        load_splits(f"npz:{path}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


@pytest.mark.parametrize("x", [np.array([{}, None], dtype=object), "text"])
def test_arrays_of_objects_and_what_is_none(x: Any, tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, x=x, y=np.arange(2))
    with pytest.raises(AutopruneError):
        load_splits(f"npz:{path}")


def test_members_that_are_no_arrays(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "images.npz"
    for name in ("x", "x.npy"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"no array")
            archive.writestr("y.npy", b"nor this")
        with pytest.raises(AutopruneError, match="y cannot be read"):
            load_splits(f"npz:{path}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("data = 3.5", "data must be a text, but got 3.5"),
        ("model = [1]", r"model must be a text, but got \[1\]"),
        ("seed = '7'", "seed must be a whole number, but got '7'"),
        (f"seed = {'9' * 3000}", "seed must be a whole number"),
        ("trials = 1e400", "trials must be a whole number, but got inf"),
        ("time = 'soon'", "time 'soon' is not a duration"),
        (f"exclude = {'[' * 60}{']' * 60}", "nested too deeply"),
        (f"exclude = {'[' * 5000}{']' * 5000}", "nested too deeply"),
    ],
)
@pytest.mark.parametrize("probe", [evaluate, resume])
def test_evaluate_reads_a_configuration_as_search_does(
    line: str, words: str, probe: Probe, run: Path
) -> None:
    path = run / "config.toml"
    key = line.partition(" ")[0]
    lines = [one for one in path.read_text().splitlines() if not one.startswith(f"{key} =")]
    path.write_text("\n".join([line, *lines]))
    with pytest.raises(AutopruneError, match=words) as refused:
        probe(run)
    assert "config.toml" in str(refused.value)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_names_that_no_file_can_have(name: str) -> None:
    for read in (
        lambda: autoprune.load_pruned(load_demo(), name),
        lambda: autoprune.apply_policy(load_demo(), name),
        lambda: load_weights(load_demo(), name),
        lambda: load_splits(f"npz:{name}"),
    ):
        with pytest.raises(AutopruneError) as refused:
            read()
        assert len(str(refused.value)) < 500
