"""CIFAR-10 from its binary files or npz files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from split_labels import labels_of

from autoprune.data import load_splits
from autoprune.errors import DataError, UsageError


def write_records(path: Path, labels: list[int]) -> None:
    records = np.zeros((len(labels), 3073), dtype=np.uint8)
    records[:, 0] = labels
    records[:, 1 + 1024 + 2 * 32 + 5] = 255  # green plane, row 2, column 5
    records.tofile(path)


class TestCifar10:
    @pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
    def test_binary(self, tmp_path: Path, inside: str) -> None:
        folder = tmp_path / inside
        folder.mkdir(exist_ok=True)
        write_records(folder / "data_batch_1.bin", [3, 4])
        write_records(folder / "data_batch_2.bin", [5])
        write_records(folder / "test_batch.bin", [6, 7, 8, 9])
        splits = load_splits(f"cifar10:{tmp_path}", "none")
        assert labels_of(splits.train) == [3, 4, 5]
        assert labels_of(splits.val) == [6, 7]
        assert labels_of(splits.test) == [8, 9]
        image = splits.train.take([0]).inputs[0]
        assert image.nonzero().tolist() == [[1, 2, 5]]

    def test_npz_layout(self, shared: Path) -> None:
        splits = load_splits(f"cifar10:{shared / 'data'}")
        assert splits.val is not None and splits.test is not None
        assert (len(splits.train), len(splits.val), len(splits.test)) == (50_000, 2_000, 3_000)
        assert splits.train.take([0]).inputs.shape == (1, 3, 32, 32)

    def test_pickles_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "cifar-10-batches-py").mkdir()
        with pytest.raises(UsageError, match=r"pickle can run code: download cifar-10-binary"):
            load_splits(f"cifar10:{tmp_path}")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no CIFAR-10 in"):
            load_splits(f"cifar10:{tmp_path}")

    def test_missing_folder(self) -> None:
        with pytest.raises(UsageError, match="no such folder: 'nowhere'"):
            load_splits("cifar10:nowhere")

    def test_missing_test_batch(self, tmp_path: Path) -> None:
        write_records(tmp_path / "data_batch_1.bin", [1])
        with pytest.raises(UsageError, match=r"test_batch.bin is missing"):
            load_splits(f"cifar10:{tmp_path}")

    def test_damage(self, tmp_path: Path) -> None:
        write_records(tmp_path / "test_batch.bin", [1, 2])
        write_records(tmp_path / "data_batch_1.bin", [10])
        with pytest.raises(DataError, match="label 10 is not in 0 to 9"):
            load_splits(f"cifar10:{tmp_path}")
        (tmp_path / "data_batch_1.bin").write_bytes(b"x" * 3000)
        with pytest.raises(DataError, match="3000 bytes are not a whole number"):
            load_splits(f"cifar10:{tmp_path}")
