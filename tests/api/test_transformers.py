"""Searches over channels, heads and depth of a transformer, from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from one_candidate import OneCandidate
from searches import TINY, dataset
from torch import Tensor, nn

import autoprune
from autoprune.core.policy import Widths
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.trial import Trial

IMAGES = torch.stack([dataset()[i][0] for i in range(6)])
DECIDE = ["channels", "depth", "heads"]


def vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3}
    model: nn.Module = timm.models.VisionTransformer(**sizes, num_classes=4)
    return model.eval()


class Mixed(OneCandidate):
    """One candidate: the first block loses its MLP, the second its attention, and all get thin."""

    name = "mixed"

    def widths(self, space: SearchSpace) -> Widths:
        gone = ("blocks.0.mlp.fc1", "blocks.1.attn.qkv#heads")
        widths = zip(space.names, space.sizes, strict=True)
        return tuple(0 if name in gone else max(1, n * 2 // 3) for name, n in widths)

    def tell(self, trial: Trial) -> None:
        pass


STRATEGIES: dict[str, Any] = {"mixed": Mixed, "netadapt": lambda: "netadapt"}


@pytest.fixture(scope="module", params=STRATEGIES)
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> autoprune.Run:
    options = {**TINY, "strategy": STRATEGIES[request.param](), "budget": "flops=0.5", "trials": 3}
    path = tmp_path_factory.mktemp("transformer") / "run"
    return autoprune.search(vit(), data=dataset(), output=path, decide=DECIDE, **options)


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(IMAGES)
    return out


def test_what_is_found_costs_what_was_predicted(run: autoprune.Run) -> None:
    costs = run.result["costs"]["pruned"]
    assert costs["params"] == sum(p.numel() for p in run.model.parameters())
    assert costs["flops"] <= 0.5 * run.result["costs"]["dense"]["flops"]


def test_it_is_loaded_into_a_fresh_network(run: autoprune.Run) -> None:
    small = autoprune.load_pruned(vit(), run.path)
    assert torch.equal(outputs(small), outputs(run.model))


def test_exported_files_compute_the_same(run: autoprune.Run, tmp_path: Path) -> None:
    file = tmp_path / "small.onnx"
    autoprune.export(vit(), run.path, format="onnx", output=file, data=dataset())
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), outputs(run.model), atol=1e-5, rtol=1e-4)


def test_branches_that_are_gone_give_zeros(run: autoprune.Run) -> None:
    gone = [bypass.module for bypass in run.policy.bypasses]
    if run.result["widths"]["blocks.0.mlp.fc1"][0] == 0:
        assert {"blocks.0.norm2", "blocks.0.mlp"} <= {*gone}
    assert not any(
        name.startswith(f"{module}.") for module in gone for name in run.model.state_dict()
    )
