"""Images in npz files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from split_labels import labels_of

from autoprune.data import load_splits
from autoprune.errors import DataError, UsageError


def write_npz(path: Path, n: int = 6, shape: tuple[int, ...] = (8, 8, 3), **changes: Any) -> Path:
    """Write an npz whose image i is filled with i; a change of None leaves the array out."""
    x = np.broadcast_to(np.arange(n, dtype=np.uint8).reshape(-1, *[1] * len(shape)), (n, *shape))
    arrays = {"x": x, "y": np.arange(n), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


class TestNpz:
    def test_files_in_order(self, tmp_path: Path) -> None:
        files = [write_npz(tmp_path / f"{i}.npz", n=3 + i) for i in range(3)]
        train, val, test = files
        splits = load_splits(f"npz:{train},{test},{val};val={val}", "none")
        assert splits.val is not None and len(splits.val) == 4
        samples = splits.train.take(range(12))
        expected = [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3]
        assert samples.inputs[:, 0, 0, 0].mul(255).round().tolist() == expected
        assert labels_of(splits.train) == expected
        assert splits.notes == (
            f"train and val share the file '{val}': candidates are scored on images they are "
            "fitted to",
        )

    def test_a_file_of_the_test_split_belongs_to_no_other(self, tmp_path: Path) -> None:
        file, other = (write_npz(tmp_path / name) for name in ("a.npz", "b.npz"))
        (tmp_path / "link.npz").symlink_to(file)
        for argument in (f"{file};test={file}", f"{other};val={file};test={tmp_path}/link.npz"):
            with pytest.raises(DataError, match=r"share the file .*a.npz': the final figure"):
                load_splits(f"npz:{argument}")

    def test_gray_is_only_scaled_by_default(self, tmp_path: Path) -> None:
        file = write_npz(tmp_path / "a.npz", shape=(4, 4, 1))
        inputs = load_splits(f"npz:{file}").train.take([3]).inputs
        assert torch.allclose(inputs, torch.full((1, 1, 4, 4), 3 / 255))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"y": None}, "array 'y' is missing; it holds x"),
            ({"x": None}, "array 'x' is missing; it holds y"),
            ({"x": np.zeros((6, 8, 8, 3))}, "x must be uint8 images of shape"),
            ({"x": np.zeros((6, 8, 8), np.uint8)}, "but got uint8 of shape (6, 8, 8)"),
            ({"x": np.zeros((6, 3, 8, 8), np.uint8)}, "channels first"),
            ({"x": np.zeros((5, 8, 8, 3), np.uint8)}, "x has 5 images but y has 6 labels"),
            ({"y": np.zeros(6)}, "y must be whole-number labels of shape (n,), but got float64"),
            ({"y": np.zeros((6, 1), int)}, "but got int64 of shape (6, 1)"),
            ({"y": np.array([{}] * 6)}, "allow_pickle"),
            (
                {"x": np.zeros((0, 8, 8, 3), np.uint8), "y": np.zeros(0, int)},
                "train split is empty",
            ),
        ],
    )
    def test_bad_arrays(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        file = write_npz(tmp_path / "a.npz", **changes)
        with pytest.raises(DataError) as caught:
            load_splits(f"npz:{file}")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("keep", [0, 10, 700])
    def test_damaged_file(self, tmp_path: Path, keep: int) -> None:
        file = write_npz(tmp_path / "a.npz")
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(DataError, match="not an npz file, or truncated"):
            load_splits(f"npz:{file}")

    def test_corrupt_content(self, tmp_path: Path) -> None:
        file = write_npz(tmp_path / "a.npz")
        data = bytearray(file.read_bytes())
        data[300:340] = b"?" * 40
        file.write_bytes(data)
        with pytest.raises(DataError, match="cannot be read"):
            load_splits(f"npz:{file}")

    def test_images_of_different_sizes(self, tmp_path: Path) -> None:
        a, b = write_npz(tmp_path / "a.npz"), write_npz(tmp_path / "b.npz", shape=(4, 4, 3))
        with pytest.raises(DataError, match="4x4x3 but those of the file before are 8x8x3"):
            load_splits(f"npz:{a},{b}")
        with pytest.raises(DataError, match="val images are 4x4x3 but train images are 8x8x3"):
            load_splits(f"npz:{a};val={b}")

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("none.npz", "no such file: 'none.npz'"),
            (
                "a.npz;vall=b.npz",
                "unknown split 'vall' in npz:a.npz;vall=b.npz: did you mean 'val'",
            ),
            ("a.npz;b.npz", "unknown split 'b.npz'"),
            ("a.npz,,b.npz", "a file name is missing"),
            ("a.npz;val=", "a file name is missing"),
            ("a.npz;val=b.npz;val=c.npz", "val= is given twice"),
            ("", "lacks its argument after the colon"),
        ],
    )
    def test_bad_argument(self, argument: str, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            load_splits(f"npz:{argument}")
        assert message in str(caught.value)
