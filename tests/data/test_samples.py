"""Samples in memory: concatenation, batches, labels."""

from __future__ import annotations

import pytest
import torch

from autoprune.data import NO_LABEL, Samples
from autoprune.errors import DataError

A, B, LABELS = torch.rand(4, 2), torch.rand(4, 3), torch.arange(4)


def test_samples_batches_and_first() -> None:
    samples = Samples(torch.arange(5.0)[:, None], torch.arange(5))
    assert [len(batch) for batch in samples.batches(2)] == [2, 2, 1]
    assert len(samples.first(3)) == 3
    assert len(samples.first(99)) == 5
    assert samples.to("cpu").inputs.device.type == "cpu"


def test_samples_of_several_inputs() -> None:
    samples = Samples((A, {"b": B, "n": LABELS}), LABELS)
    assert len(samples) == 4 and samples.sample_bytes == 4 * 2 + 4 * 3 + 8
    assert samples.shape == "(2,), b (3,), n ()"
    part = samples[1:3]
    assert len(part) == 2 and torch.equal(part.inputs[1]["n"], LABELS[1:3])  # type: ignore[index]
    assert [len(batch) for batch in samples.batches(3)] == [3, 1]
    both = samples.with_unlabelled(samples.first(1))
    assert both.targets is not None and both.targets.tolist() == [0, 1, 2, 3, NO_LABEL]
    assert torch.equal(both.inputs[0][4], A[0])  # type: ignore[index]
    broken = Samples((A, torch.full((4, 1), torch.inf)), None)
    assert samples.finite().all() and not broken.finite().any()


def test_batches_are_limited_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten samples of 8 bytes: 5 per batch, or 3 where batches take 24 bytes at most."""
    samples = Samples(torch.zeros(10, 2), None)
    assert samples.batch_count(5) == 2
    monkeypatch.setattr("autoprune.data.samples.BATCH_BYTES", 24)
    assert [len(batch) for batch in samples.batches_within(5)] == [3, 3, 3, 1]
    assert samples.batch_count(5, at_once=3) == 10


def test_joined_samples_have_labels_only_if_all_parts_have() -> None:
    one, other = Samples(A, LABELS), Samples(A + 1, None)
    joined = Samples.join([one, one])
    assert joined.targets is not None and len(joined) == len(joined.targets) == 8
    assert Samples.join([one, other]).targets is None
    with pytest.raises(DataError, match=r"batches differ in shape: \(1, 2\) and \(1, 3\)"):
        Samples.join([one, Samples(B, LABELS)])


def test_annotations_go_with_their_samples() -> None:
    notes = tuple({"boxes": torch.full((1, 4), float(place))} for place in range(3))
    samples = Samples(torch.zeros(3, 2), None, notes)
    assert samples[1:].annotations == notes[1:]
    chosen = samples[[2, 0]].annotations
    assert chosen == (notes[2], notes[0])
    assert Samples.join([samples, samples[:1]]).annotations == (*notes, notes[0])
    assert Samples.join([samples, Samples(torch.zeros(1, 2), None)]).annotations is None
    moved = samples.to("meta").annotations
    assert moved is not None and moved[0]["boxes"].is_meta
