"""What a report says of a run whose figures are known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as replace_struct
from plotly import graph_objects
from run_files import RESULT

from autoprune.errors import RunError, UsageError
from autoprune.evaluation.measurement import Scores
from autoprune.reporting import panels
from autoprune.reporting.blocks import Code, Figure, Section, Table, Text
from autoprune.reporting.page import render
from autoprune.reporting.panels import headline, repeat_command
from autoprune.reporting.report import MOST_RUNS, page, report, sections
from autoprune.reporting.run_records import Export, RunRecord, read_runs
from autoprune.study.group_records import FrozenRecord, GroupRecords
from autoprune.study.trial import Candidate, Trial

LARGEST_PAGE = 6_000_000


def changed(run_path: Path, **changes: Any) -> RunRecord:
    """Return a run with some keys of its result replaced."""
    (run_path / "result.json").write_text(json.dumps({**RESULT, **changes}))
    return read_runs([run_path])[0]


def section(runs: Sequence[RunRecord], title: str) -> Section:
    return next(one for one in sections(runs) if one.title == title)


def table(runs: Sequence[RunRecord], title: str) -> dict[str, list[str]]:
    """Return the rows of a section's table by their first cell."""
    (found,) = [one for one in section(runs, title).blocks if isinstance(one, Table)]
    return {str(row[0]): [str(cell) for cell in row[1:]] for row in found.rows}


def figures(runs: Sequence[RunRecord]) -> dict[str, Figure]:
    return {
        one.title: block
        for one in sections(runs)
        for block in one.blocks
        if isinstance(block, Figure)
    }


def test_the_headline_says_what_was_asked_and_gained(run: RunRecord, run_path: Path) -> None:
    assert headline(run) == (
        "Asked for flops=0.7: net.py:net keeps 70.0 % of the MACs and 60.0 % of the params, "
        "1.25 times as fast, at top-1 93.00 % (recovered); dense has 95.00 % (-2.00 points)."
    )
    score = {**RESULT["score"], "metric": "custom", "recovered": None}
    costs = {"dense": {"flops": 200}, "pruned": {"flops": 140}}
    assert headline(changed(run_path, score=score, costs=costs, budget=None)) == (
        "Asked for no budget: net.py:net keeps 70.0 % of the MACs, at score 0.9; dense has 0.95 "
        "(-0.05)."
    )


def test_dense_beside_every_stage(run: RunRecord, run_path: Path) -> None:
    rows = table([run], "Dense and pruned")
    assert rows == {
        "top-1 accuracy": ["95.00 %", "90.00 %", "93.00 %", "-2.00 points"],
        "KL to dense, nats": ["–", "0.2", "0.1", ""],
        "MACs": ["200", "140", "140", "70.00 % of dense"],
        "params": ["100", "60", "60", "60.00 % of dense"],
        "memory": ["1kB", "700B", "700B", "70.00 % of dense"],
        "latency, measured": ["2.000 ms", "1.600 ms", "1.600 ms", "1.25 times as fast"],
        "weights file": ["–", "500B", "600B", ""],
    }
    latency = {**RESULT["costs"]["latency"], "predicted_ms": 1.5, "predicted_dense_ms": 3.0}
    costs = {**RESULT["costs"], "latency": latency}
    score = {**RESULT["score"], "finetuned": 0.96}
    rows = table([changed(run_path, costs=costs, score=score)], "Dense and pruned")
    assert rows["latency, predicted"] == ["3.000 ms", *["1.500 ms"] * 3, "2.00 times as fast"]
    assert rows["top-1 accuracy"] == ["95.00 %", "90.00 %", "93.00 %", "96.00 %", "+1.00 points"]
    run = changed(run_path, score={**score, "from_scratch": 0.91})
    control = Text("The same widths, trained from scratch: 91.00 %.")
    assert control in section([run], "Dense and pruned").blocks


def test_latency_names_backend_device_and_threads(run: RunRecord) -> None:
    (found,) = section([run], "Dense and pruned").blocks
    assert isinstance(found, Table)
    assert found.caption == (
        "test split, 300 samples; latency measured with torch on cpu (2 threads), batch 1"
    )


def test_candidates_with_the_frontier_and_the_winner(run: RunRecord) -> None:
    figure = figures([run])["Candidates"]
    assert [view.label for view in figure.views] == [
        f"{score} against {cost}"
        for score in ("KL to the dense network", "top-1 accuracy")
        for cost in ("MACs", "params", "memory")
    ]
    drawn = {one["name"]: (one["x"], one["y"]) for one in figure.views[0].data}
    assert drawn == {
        "candidates": ([60.0, 70.0, 65.0, 65.0], [0.4, 0.2, 0.3, 0.25]),
        "probes of the strategy": ([100.0], [0.0]),
        "frontier": ([60.0, 65.0, 70.0, 100.0], [0.4, 0.25, 0.2, 0.0]),
        "winner": ([70.0], [0.2]),
    }
    accuracy = {one["name"]: (one["x"], one["y"]) for one in figure.views[3].data}
    assert accuracy["frontier"] == ([60.0, 65.0, 100.0], [80.0, 91.0, 95.0])


def test_axes_have_titles_and_units(run: RunRecord) -> None:
    drawn = figures([run])
    layouts = [drawn[title].views[0].layout for title in ("Candidates", "Best so far")]
    assert [one["xaxis"]["title"]["text"] for one in layouts] == [
        "MACs, % of dense",
        "evaluations",
    ]
    assert {one["yaxis"]["title"]["text"] for one in layouts} == {"KL to the dense network, nats"}


def test_plotly_knows_every_property(run: RunRecord) -> None:
    """Figures are plain values, which nothing checks before a browser draws them."""
    for figure in figures([run]).values():
        for view in figure.views:
            data = json.loads(json.dumps(view.data).replace('"color": "text"', '"color": "red"'))
            graph_objects.Figure(data=data, layout=view.layout)
            assert figure.caption and figure.summary


def test_every_layer_beside_its_cost_and_its_sensitivity(run: RunRecord) -> None:
    rows = table([run], "Why each layer was kept or cut")
    assert rows == {
        "stem": ["6 / 8", "75 %", "80.0 %", "0.4", "10.00 %", "+0.1", "0.01"],
        "body": ["2 / 4", "50 %", "20.0 %", "0.8", "5.00 %", "+0.4", "0.08"],
    }
    kept, share = figures([run])["Keep ratios"].views[0].data
    assert (kept["x"], kept["y"]) == (["1. stem", "2. body"], [75.0, 50.0])
    assert share["y"] == [80.0, 20.0]


def test_where_the_time_went(run: RunRecord) -> None:
    assert table([run], "Where the time went") == {
        "scoring": ["6.0 s", "60.0 %"],
        "structure": ["1.0 s", "10.0 %"],
        "rest": ["3.0 s", "30.0 %"],
    }


def test_what_was_frozen_and_why(run: RunRecord, run_path: Path) -> None:
    assert table([run], "What was frozen") == {"head": ["the network's output", "1"]}
    (run_path / "groups.json").unlink()
    blocks = section(read_runs([run_path]), "What was frozen").blocks
    assert blocks == [Text("The run does not say: an older version made it.")]


def test_exports_and_fine_tuning_where_there_are(run: RunRecord, run_path: Path) -> None:
    assert "Exported files" not in [one.title for one in sections([run])]
    export = {"format": "onnx", "file": "export/a.onnx", "bytes": 2_000_000}
    tuned = {"epochs": 10, "seconds": 3600.0, "best_epoch": 8}
    run = changed(run_path, export=[{**export, "max_error": 1e-6}], finetune=tuned)
    assert table([run], "Exported files") == {"onnx": ["export/a.onnx", "2MB", "1e-06", "–", "–"]}
    with_dense = {"int8": True, "latency_ms": 1.5, "dense_latency_ms": 3.0}
    measured = {"backend": "onnxruntime", "device": "cpu", "threads": 2}
    other = changed(run_path, export=[{**export, **with_dense, **measured, "dense_bytes": 8000000}])
    (row,) = table([other], "Exported files").values()
    assert (row[1], row[3]) == ("2MB (8MB)", "1.500 ms (3.000 ms)")
    assert row[4] == "onnxruntime on cpu (2 threads), batch 1"
    blocks = section([run], "Where the time went").blocks
    assert Text("Fine-tuning took 60 min 0 s for 10 epochs; the best was epoch 8.") in blocks


def test_the_command_that_repeats_a_run(run: RunRecord, tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert repeat_command(run) == (
        f"autoprune search --config {path}/config.toml --output {path}-again"
    )
    (path / "config.toml").write_text('budget = "flops=0.7"\nseed = 3\nworkers = 1\n')
    (run,) = read_runs([path])
    assert repeat_command(run) == "autoprune.search(model, data=data, budget='flops=0.7', seed=3)"
    codes = [one for one in section([run], "How to repeat it").blocks if isinstance(one, Code)]
    assert codes[1].text == 'budget = "flops=0.7"\nseed = 3\nworkers = 1\n'


def test_several_runs_are_overlaid(run: RunRecord, made_run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(made_run, tmp_path / "b"))
    runs = [run, changed(other, widths={"stem": [4, 8], "body": [4, 4]})]
    rows = table(runs, "Runs compared")
    assert rows["b"][:2] == ["flops=0.7", "95.00 %"]
    drawn = figures(runs)
    assert [one["name"] for one in drawn["Best so far"].views[0].data] == ["a", "b"]
    bars = [one["y"] for one in drawn["Keep ratios"].views[0].data if one["type"] == "bar"]
    assert bars == [[75.0, 50.0], [50.0, 100.0]]
    assert [one.link for one in sections(runs) if one.link][-2:] == ["a", "b"]


def test_networks_that_differ_are_drawn_apart(
    run: RunRecord, made_run: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(made_run, tmp_path / "b"))
    dense = {**RESULT["costs"]["dense"], "flops": 400}
    runs = [run, changed(other, costs={**RESULT["costs"], "dense": dense})]
    notes = [one.text for one in section(runs, "Runs compared").blocks if isinstance(one, Text)]
    assert notes and "different networks" in notes[0]
    assert len([one for one in section(runs, "Keep ratios").blocks if isinstance(one, Figure)]) == 2


def test_a_page_is_one_file_of_bounded_size(run: RunRecord, run_path: Path) -> None:
    path = report(run_path)
    assert path == run_path / "report.html"
    assert 4_000_000 < path.stat().st_size < LARGEST_PAGE
    assert report(run_path) == path  # a run's own report is replaced


def test_the_largest_page_keeps_within_its_bound(run: RunRecord) -> None:
    """As many runs as a page shows, with more trials, groups and letters than it draws."""
    long = "<&" * 140
    names = [f"{long}{place}" for place in range(450)]
    widths = tuple(range(1, 451))
    measured = run.trials[0].measurement
    assert measured is not None and run.groups is not None
    trials = [
        Trial(
            Candidate(widths),
            1.0,
            replace_struct(
                measured, scores=Scores(kl=1.0 / place, top1=place / 4000, custom=1.0 * place)
            ),
        )
        for place in range(1, 1500)
    ]
    known = [replace_struct(run.groups.groups[0], name=name) for name in names]
    frozen = [FrozenRecord(name, 5, f"{long}{place}") for place, name in enumerate(names)]
    result = replace_struct(
        run.result,
        strategy=long,
        budget=None,
        widths={name: (place, 2000) for place, name in enumerate(names, 1)},
        seconds={f"{long}{place}": 1.0 for place in range(500)},
        export=[Export(long, long * 3) for _ in range(500)],
    )
    runs = [
        replace(
            run,
            label=f"{long}{place}",
            config={"model": long, "note": long * 2000},
            result=result,
            trials=trials,
            groups=GroupRecords(known, frozen),
        )
        for place in range(MOST_RUNS)
    ]
    assert len(render(page(runs)).encode()) < LARGEST_PAGE
    assert len(render(page(runs[:1])).encode()) < LARGEST_PAGE


def test_a_page_has_no_markup_of_a_run(run_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    score = {**RESULT["score"], "split": evil}
    (run_path / "groups.json").unlink()
    changed(run_path, score=score, budget="flops=0.7", strategy=evil, searched_by=evil)
    text = report(run_path).read_text()
    assert evil not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_nothing_is_overwritten_but_a_runs_own_report(run_path: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.html"
    taken.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        report(run_path, output=taken)
    assert taken.read_text() == "mine"
    with pytest.raises(RunError, match="is a directory: name a file"):
        report(run_path, output=tmp_path)
    with pytest.raises(RunError, match="cannot be made"):
        report(run_path, output=taken / "in" / "file.html")


def test_too_few_and_too_many_runs() -> None:
    with pytest.raises(UsageError, match="1 to 10 runs, but got 0"):
        report()
    with pytest.raises(UsageError, match="1 to 10 runs, but got 11"):
        report(*"abcdefghijk")


def test_every_panel_is_shown_once(run: RunRecord) -> None:
    titles = [one.title for one in sections([run])]
    known = [title for title, _ in (*panels.OF_ALL, *panels.OF_EACH)]
    assert set(titles) <= set(known) and len(titles) == len(set(titles))
