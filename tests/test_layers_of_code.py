"""The floors of the house: a module imports from its own floor or below, never in a circle."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

FLOORS = (
    {"errors", "version"},
    {"core"},
    {"data"},
    {"structure"},
    {"statistics", "cost", "models"},
    {"reconstruction", "recovery", "training"},
    {"sparsity"},
    {"importance", "profiling"},
    {"evaluation"},
    {"exporters"},
    {"search_spaces"},
    {"study"},
    {"agents", "methods", "options"},
    {"reporting"},
    {"engine"},
    {"api"},
    {"cli"},
    {"testing"},
)
ENGINE_FLOORS = (
    {"executors", "ray_cluster"},
    {"clock", "latency_bound", "latency_table", "limits", "search_images", "trust", "validation"},
    {"context", "ray_executor", "ray_profiling", "winner_kit", "export"},
    {"problem", "training_task", "own_code", "tracked"},
    {"builder", "training_choices"},
    {"evaluators", "group_facts"},
    {"search_problem", "finalists", "loop", "fingerprint", "known_scores"},
    {"round_progress"},
    {"rounds", "recover", "warm_start"},
    {"max_drop"},
    {"summary", "begin"},
    {"pipeline", "finetune"},
    {"repeat"},
    {"search_task", "push"},
    {"sweep", "train_context"},
    {"train"},
)
"""The stages of a search: each is made of those before it."""

STRANGERS = ({"cost", "reconstruction"},)
"""Packages that never import each other, in whichever order they stand."""

TWICE = {
    "base", "config",  # the contract of a kind of plug-in
    "registry",  # plug-ins of a kind by name
    "public",  # the names that a package offers
    "model",  # a cost model, and that of latency
    # a command, and its subject
    "evaluate", "export", "finetune", "inspect", "profile", "push", "report", "search",
    "status", "train", "dashboard", "sparsify",
    "executorch", "litert", "onnx", "openvino",  # a runtime: what runs in it, and its files
    "progress",  # the names of a kind of component
    "choices",  # what an option may be, by name
    "obs",  # optimal brain surgeon, on channels and on single weights
}  # fmt: skip
"""Names that two modules share since they mean the same thing."""

FOLDERS = {"agents": "agents", "search_spaces": "search_spaces"}
"""Packages that stand at the top level, but are installed inside `autoprune`."""

HEAVY = [
    "torch",
    "jaxtyping",
    "beartype",
    "pytest",
    "torchvision",
    "click",
    "rich",
    "plotly",
    "jinja2",
    "optuna",
    "sklearn",
    "timm",
    "onnx",
    "ray",
    "torch_pruning",
]


def sources(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (dotted name inside autoprune, file) of every module."""
    folders = {"": root / "autoprune", **{name: root / path for name, path in FOLDERS.items()}}
    for prefix, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [*filter(None, [prefix]), *path.relative_to(folder).with_suffix("").parts]
            yield ".".join(part for part in parts if part != "__init__"), path


def imports(path: Path) -> Iterator[str]:
    """Yield what a module imports from autoprune, dotted, types-only imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(names: Iterator[str]) -> set[str]:
    """Return the first part behind `autoprune.` of every import from it."""
    return {name.split(".")[1] for name in names if name.startswith("autoprune.")}


def graph(root: Path) -> Mapping[str, set[str]]:
    """Return, for every package or top module, the others that it imports."""
    found: dict[str, set[str]] = {}
    for name, path in sources(root):
        if name:
            package = name.split(".")[0]
            found.setdefault(package, set()).update(inside(imports(path)) - {package})
    return found


def floor_of(package: str, floors: Sequence[set[str]] = FLOORS) -> int:
    return next(i for i, floor in enumerate(floors) if package in floor)


def engine_graph(root: Path) -> Mapping[str, set[str]]:
    """Return, for every module of the engine, the others of it that it imports."""
    found: dict[str, set[str]] = {}
    for name, path in sources(root):
        if name.startswith("engine."):
            parts = (other.split(".") for other in imports(path))
            inner = {p[2] for p in parts if p[:2] == ["autoprune", "engine"] and len(p) > 2}
            found[name.removeprefix("engine.")] = inner
    return found


def test_stages_import_earlier_stages_only(root: Path) -> None:
    modules = engine_graph(root)
    assert modules.keys() == set().union(*ENGINE_FLOORS)
    upward = [
        f"{module} imports {other}"
        for module, others in modules.items()
        for other in others
        if floor_of(other, ENGINE_FLOORS) >= floor_of(module, ENGINE_FLOORS)
    ]
    assert not upward


def test_no_two_modules_share_a_name(root: Path) -> None:
    """Wherever a reader meets a module's name, it means one thing."""
    modules = (name.split(".") for name, path in sources(root) if name)
    names = Counter(parts[-1] for parts in modules if parts[-1] != [*parts[-2:-1], ""][0])
    assert {name for name, count in names.items() if count > 1} <= TWICE


def test_every_module_has_a_floor(root: Path) -> None:
    assert graph(root).keys() <= set().union(*FLOORS)


def test_no_import_runs_up(root: Path) -> None:
    upward = [
        f"{package} imports {other}"
        for package, others in graph(root).items()
        for other in others & set().union(*FLOORS)
        if floor_of(other) > floor_of(package)
    ]
    assert not upward


def test_no_circles(root: Path) -> None:
    tuple(graphlib.TopologicalSorter(graph(root)).static_order())


def test_strangers_never_meet(root: Path) -> None:
    for pair in STRANGERS:
        assert not any(graph(root)[package] & pair for package in pair)


def test_top_level_folders_are_named_as_installed(root: Path) -> None:
    named = {name for _, path in sources(root) for name in imports(path)}
    assert not [name for name in named if name.split(".")[0] in FOLDERS]


def test_a_planted_upward_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "autoprune" / "cost").mkdir(parents=True)
    planted = "from autoprune.agents.uniform import UniformStrategy\n"
    (tmp_path / "autoprune" / "cost" / "model.py").write_text(planted)
    with pytest.raises(AssertionError, match="cost imports agents"):
        test_no_import_runs_up(tmp_path)


def test_importing_autoprune_is_light() -> None:
    script = (
        "import sys, autoprune\n"
        "assert autoprune.__all__\n"
        f"print(*sorted(set({HEAVY}) & set(sys.modules)), *(m for m in sys.modules if '.cli' in m))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
