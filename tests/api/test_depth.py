"""A search that takes whole branches away, from end to end."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from one_candidate import OneCandidate
from residuals import IMAGES, basic
from searches import TINY, dataset
from torch import Tensor, nn

import autoprune
from autoprune.core.bypass import Bypass
from autoprune.core.policy import Widths
from autoprune.errors import UsageError
from autoprune.reporting.explanation import explain_groups
from autoprune.reporting.reasons import reasons
from autoprune.reporting.run_records import read_runs
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.trial import Trial


class Gone(OneCandidate):
    """One candidate: all branches that can go are gone."""

    name = "gone"

    def widths(self, space: SearchSpace) -> Widths:
        pairs = zip(space.lowest, space.sizes, strict=True)
        return tuple(0 if low == 0 else n for low, n in pairs)

    def tell(self, trial: Trial) -> None:
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> autoprune.Run:
    options = {**TINY, "strategy": Gone(), "budget": "flops=0.9", "recover": 1, "report": True}
    path = tmp_path_factory.mktemp("depth") / "run"
    return autoprune.search(
        basic(), data=dataset(), output=path, decide=["channels", "depth"], **options
    )


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(IMAGES)
    return out


def test_the_layers_are_gone(run: autoprune.Run) -> None:
    assert run.policy.bypasses == (
        Bypass("blocks.0"),
        Bypass("blocks.1", ("project", "relu")),
        Bypass("blocks.2"),
    )
    assert not any("conv" in name for name, _ in run.model.named_modules())
    counted = sum(p.numel() for p in run.model.parameters())
    assert run.result["costs"]["pruned"]["params"] == counted
    assert run.result["widths"]["blocks.0.conv1"] == [0, 7]


def test_it_is_loaded_into_a_fresh_network(run: autoprune.Run) -> None:
    small = autoprune.load_pruned(basic(), run.path)
    assert torch.equal(outputs(small), outputs(run.model.eval()))
    bare = autoprune.apply_policy(basic(), run.path / "policy.json")
    assert [n for n, _ in bare.named_parameters()] == [n for n, _ in small.named_parameters()]


def test_exported_files_lack_the_layers(run: autoprune.Run, tmp_path: Path) -> None:
    file = tmp_path / "small.onnx"
    autoprune.export(basic(), run.path, format="onnx", output=file, data=dataset())
    kinds = [node.op_type for node in onnx.load(str(file)).graph.node]
    assert kinds.count("Conv") == 2  # the stem and the projection
    assert "Add" not in kinds


def test_it_is_trained_further(run: autoprune.Run) -> None:
    tuned = autoprune.finetune(basic(), run.path, data=dataset(), epochs=1)
    assert not any("conv" in name for name, _ in tuned.model.named_modules())


def test_pages_and_explanations_say_that_it_is_gone(run: autoprune.Run) -> None:
    assert (run.path / "report.html").stat().st_size
    (record,) = read_runs([run.path])
    facts = explain_groups(record)
    text = next(iter(reasons(next(one for one in facts if one.name == "blocks.0.conv1"), facts)))
    assert text.startswith("blocks.0.conv1 is gone with all of its branch (7 units); ")


def test_no_method_aims_at_widths_without_a_branch(run: autoprune.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"removed branches \(blocks.0.* channels alone"):
        autoprune.train(
            basic(), data=dataset(), method="c_sgd", widths_from=run.path, output=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_other_decisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"decide 'layers' is nothing .* channels, depth, heads"):
        autoprune.search(basic(), data=dataset(), output=tmp_path, decide="channels,layers", **TINY)
    with pytest.raises(UsageError, match="must name channels"):
        autoprune.search(basic(), data=dataset(), output=tmp_path, decide="depth", **TINY)
