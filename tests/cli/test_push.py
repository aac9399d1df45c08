"""`autoprune push`: the folder that others get, and what the hub is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import autoprune
from autoprune.models.demo import load_demo


def test_a_folder_that_loads_anywhere(cli, demo_run, tmp_path: Path) -> None:
    done = cli("push", str(demo_run[0]), "me/small-demo", "--folder", "packed")
    assert (done.status, done.out, done.err) == (0, "packed\n", "")
    files = sorted(one.name for one in Path("packed").iterdir())
    assert files == ["README.md", "policy.json", "pruned.safetensors", "result.json"]
    network, own = (autoprune.load_pruned(load_demo(), one) for one in ("packed", demo_run[0]))
    images = torch.rand(4, 1, 32, 32)
    assert torch.equal(network(images), own(images))
    card = Path("packed/README.md").read_text()
    assert card.startswith("---\nlibrary_name: autoprune\n")
    assert "# small-demo\n" in card and 'snapshot_download("me/small-demo")' in card
    assert "| top-1 accuracy |" in card and "Asked for flops=0.5" in card
    assert cli("push", str(demo_run[0]), "me/small-demo", "--folder", "new/place").status == 0
    everything = "".join(one.read_text("latin-1") for one in Path("packed").iterdir())
    assert str(tmp_path) not in everything and str(demo_run[0]) not in everything


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "me/x"], "holds no run"),
        (["RUN", "small"], "'small' is not a repository: write USER/NAME"),
        (["RUN", "me/x y"], "is not a repository"),
        (["RUN", "me/x", "--folder", "."], "'.' is there already"),
        (["RUN"], "Missing argument 'USER/NAME'"),
    ],
)
def test_mistakes(cli, demo_run, words: list[str], message: str) -> None:
    done = cli("push", *(str(demo_run[0]) if one == "RUN" else one for one in words))
    assert done.status == 2 and message in done.err and "Traceback" not in done.err
    assert [one.name for one in Path().iterdir()] == ["small.toml"]


@pytest.mark.parametrize("name", ["pruned.safetensors", "finetuned.safetensors"])
def test_what_a_link_leads_to_is_not_published(cli, demo_run, name: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(demo_run[0], tmp_path / "theirs"))
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(Path("small.toml").absolute())
    done = cli("push", str(run), "me/x", "--folder", "packed")
    assert done.status == 2 and f"{name}' is a link: remove it" in done.err
    assert not Path("packed").exists()


def test_what_the_hub_is_told(cli, demo_run, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    told: dict[str, Any] = {}

    class Hub:
        def __init__(self, **options: Any) -> None: ...

        def create_repo(self, name: str, **options: Any) -> Any:
            told.update(options, name=name)
            return hub.RepoUrl(f"https://huggingface.co/{name}")

        def upload_folder(self, repo_id: str, folder_path: Path) -> None:
            told["files"] = sorted(one.name for one in folder_path.iterdir())
            told["version"] = json.loads((folder_path / "result.json").read_text())["version"]

    monkeypatch.setattr(hub, "HfApi", Hub)
    done = cli("push", str(demo_run[0]), "me/demo", "--private")
    assert (done.status, done.out) == (0, "https://huggingface.co/me/demo\n"), done.err
    assert told["files"] == ["README.md", "policy.json", "pruned.safetensors", "result.json"]
    assert (told["name"], told["private"], told["exist_ok"]) == ("me/demo", True, True)


@pytest.mark.parametrize("failure", [ConnectionError, ValueError, RuntimeError])
def test_a_hub_that_fails(cli, demo_run, monkeypatch, failure: type[Exception]) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fails(*arguments: Any, **options: Any) -> None:
        raise failure("no route to the hub")

    monkeypatch.setattr(hub.HfApi, "create_repo", fails)
    done = cli("push", str(demo_run[0]), "me/demo")
    assert done.status == 2 and done.err.startswith("Error: the hub does not take 'me/demo': ")
    assert "no route to the hub" in done.err and "hf auth login" in done.err
