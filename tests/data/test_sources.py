from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.data import load_splits
from autoprune.errors import AutopruneError, DataError, UsageError

FIRST_TEST_LABELS = [6, 9, 7, 5, 8, 2, 1, 4, 3, 0, 6, 7]


def write_npz(path: Path, n: int = 6, shape: tuple[int, ...] = (8, 8, 3), **changes: Any) -> Path:
    """Write an npz whose image i is filled with i; a change of None leaves the array out."""
    x = np.broadcast_to(np.arange(n, dtype=np.uint8).reshape(-1, *[1] * len(shape)), (n, *shape))
    arrays = {"x": x, "y": np.arange(n), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def write_records(path: Path, labels: list[int]) -> None:
    records = np.zeros((len(labels), 3073), dtype=np.uint8)
    records[:, 0] = labels
    records[:, 1 + 1024 + 2 * 32 + 5] = 255  # green plane, row 2, column 5
    records.tofile(path)


def labels_of(split: Any) -> list[int]:
    return [int(label) for batch in split.batches(64) for label in batch.targets]


class TestDigits:
    def test_sizes_range_and_balance(self) -> None:
        splits = load_splits("digits")
        assert splits.val is not None and splits.test is not None
        assert (len(splits.train), len(splits.val), len(splits.test)) == (1197, 300, 300)
        inputs = splits.train.take(range(1197)).inputs
        assert inputs.shape == (1197, 1, 8, 8)
        assert [inputs.min().item(), inputs.max().item()] == [0.0, 1.0]
        for split in (splits.val, splits.test):
            assert np.bincount(labels_of(split)).tolist() == [30] * 10

    def test_every_image_stands_in_one_split(self) -> None:
        from sklearn.datasets import load_digits

        splits = load_splits("digits")
        images = torch.cat(
            [s.take(range(len(s))).inputs for s in (splits.train, splits.val, splits.test) if s]
        )
        found = sorted(map(tuple, images.mul(16).round().flatten(1).tolist()))
        assert found == sorted(map(tuple, load_digits().data.tolist()))

    def test_split_is_the_one_that_the_demo_was_trained_on(self) -> None:
        assert labels_of(load_splits("digits").test)[:12] == FIRST_TEST_LABELS


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
        with pytest.raises(DataError, match="no npz file, or cut short"):
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
            ("", "lacks what follows the colon"),
        ],
    )
    def test_bad_argument(self, argument: str, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            load_splits(f"npz:{argument}")
        assert message in str(caught.value)


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
        with pytest.raises(DataError, match="3000 bytes are no whole number"):
            load_splits(f"cifar10:{tmp_path}")


class TestImageFolder:
    @staticmethod
    def write(folder: Path, *names: str) -> None:
        image = pytest.importorskip("PIL.Image")
        pytest.importorskip("torchvision")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image.new("RGB", (40, 30), (255, 0, 0)).save(folder / name)

    def test_splits_agree_on_labels(self, tmp_path: Path) -> None:
        self.write(tmp_path, "train/ant/1.png", "train/bee/1.png", "train/cow/1.png")
        self.write(tmp_path, "val/cow/1.png", "test/bee/1.png", "test/cow/2.png")
        splits = load_splits(f"imagefolder:{tmp_path}", "none")
        assert labels_of(splits.train) == [0, 1, 2]
        assert labels_of(splits.val) == [2]
        assert labels_of(splits.test) == [1, 2]
        inputs = splits.train.take([0]).inputs
        assert inputs.shape == (1, 3, 224, 224)
        assert inputs.mean(dim=(2, 3)).tolist() == [[1.0, 0.0, 0.0]]

    def test_labels_number_the_class_folders(self, tmp_path: Path) -> None:
        self.write(tmp_path, "train/ant/1.png", "train/bee/1.png", "val/cow/1.png")
        (tmp_path / "train" / ".cache").mkdir()
        splits = load_splits(f"imagefolder:{tmp_path}")
        assert splits.train.classes == 3 and splits.val is not None and splits.val.classes == 3

    @pytest.mark.parametrize(
        "lines",
        [
            "fly\ncow\nbee\nant",
            "\ufefffly a, b\ncow c\nbee, d\nant\n\n",
            "0 fly\ncow\tc\r\nbee\r\nant\r\n",
            "ant and bee\ncow\nbee\nant",
        ],
    )
    def test_a_file_says_which_output_a_folder_means(self, tmp_path: Path, lines: str) -> None:
        self.write(tmp_path / "data", "train/ant/1.png", "train/cow/1.png", "val/bee/1.png")
        (tmp_path / "names.txt").write_bytes(lines.encode())
        splits = load_splits(f"imagefolder:{tmp_path}/data", None, f"{tmp_path}/names.txt")
        assert labels_of(splits.train) == [3, 1] and labels_of(splits.val) == [2]
        assert splits.train.classes == 4

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"ant\nbees\n", "no line names the class folder 'bee'; did you mean 'bees'?"),
            (b"", "no line names the class folder 'ant'; write a class name per line"),
            (b"bee 1\nant\nbee 2\n", "lines 1 and 3 both name the class folder 'bee'"),
            (b"\xff\xfe\x00", "cannot be read"),
            (None, "no such classes file"),
        ],
    )
    def test_a_file_that_does_not_name_the_folders(
        self, tmp_path: Path, content: bytes | None, message: str
    ) -> None:
        self.write(tmp_path / "data", "ant/1.png", "bee/1.png")
        if content is not None:
            (tmp_path / "names.txt").write_bytes(content)
        with pytest.raises(UsageError) as caught:
            load_splits(f"imagefolder:{tmp_path}/data", None, f"{tmp_path}/names.txt")
        assert message in str(caught.value) and "\n" not in str(caught.value)

    def test_names_are_for_class_folders_alone(self, tmp_path: Path) -> None:
        names = tmp_path / "names.txt"
        names.write_text("ant\n")
        for spec in ("digits", "imagefolder"):
            with pytest.raises(UsageError, match="class folders"):
                load_splits(spec, None, str(names))
        self.write(tmp_path, "1.png")
        splits = load_splits(f"imagefolder:{tmp_path}", None, str(names))
        assert splits.train.take([0]).targets is None and splits.train.classes is None

    def test_images_in_no_class_folder_have_no_labels(self, tmp_path: Path) -> None:
        self.write(tmp_path, "train/2.png", "train/1.JPG", "val/ant/1.png")
        (tmp_path / "train" / "notes.txt").touch()
        splits = load_splits(f"imagefolder:{tmp_path}")
        samples = splits.train.take([0, 1])
        assert samples.inputs.shape == (2, 3, 224, 224) and samples.targets is None
        assert splits.train.classes is None and len(splits.train) == 2
        assert labels_of(splits.val) == [0]

    def test_class_folders_alone_are_train(self, tmp_path: Path) -> None:
        self.write(tmp_path, "ant/1.png", "bee/1.png")
        splits = load_splits(f"imagefolder:{tmp_path}")
        assert len(splits.train) == 2
        assert splits.val is None and splits.test is None

    def test_val_alone_serves_as_train(self, tmp_path: Path) -> None:
        self.write(tmp_path, "val/ant/1.png")
        splits = load_splits(f"imagefolder:{tmp_path}")
        assert len(splits.train) == 1 and splits.val is None

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no such folder"):
            load_splits(f"imagefolder:{tmp_path / 'none'}")
        with pytest.raises(DataError, match="no images in"):
            load_splits(f"imagefolder:{tmp_path}")
        (tmp_path / "ant").mkdir()
        with pytest.raises(DataError, match="no images in"):
            load_splits(f"imagefolder:{tmp_path}")
        self.write(tmp_path, "test/ant/1.png")
        with pytest.raises(UsageError, match="has test but neither train nor val"):
            load_splits(f"imagefolder:{tmp_path}")

    def test_unreadable_image(self, tmp_path: Path) -> None:
        self.write(tmp_path, "ant/1.png")
        (tmp_path / "ant" / "1.png").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"sample 0 .* cannot be read: .*identify image file"):
            load_splits(f"imagefolder:{tmp_path}").train.take([0])

    def test_without_torchvision(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ant").mkdir()
        real = builtins.__import__

        def without(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.startswith("torchvision"):
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(UsageError, match=r"pip install autoprune\[vision\]"):
            load_splits(f"imagefolder:{tmp_path}")


class TestFactory:
    SOURCE = """
import torch
from torch.utils.data import TensorDataset

def make():
    return {"train": TensorDataset(torch.zeros(4, 2), torch.arange(4))}

def broken():
    raise RuntimeError("no disk\\nmore")

number = 3
"""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "mydata.py"
        file.write_text(self.SOURCE)
        return file

    def test_factory(self, file: Path) -> None:
        assert labels_of(load_splits(f"{file}:make").train) == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("name", "normalize", "message"),
        [
            ("mak", None, "has no 'mak'; did you mean 'make'?"),
            ("number", None, "names no factory: int is not callable"),
            ("broken", None, "making it fails: RuntimeError: no disk"),
            ("make", "imagenet", "'imagenet' does not apply"),
        ],
    )
    def test_error(self, file: Path, name: str, normalize: str | None, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            load_splits(f"{file}:{name}", normalize)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "unknown data 'digit': did you mean 'digits'?"),
        ("cifar:data", "unknown data 'cifar:data': did you mean 'cifar10'?"),
        ("", "choose one of: cifar10, digits, imagefolder, npz"),
        ("digits:all", "digits takes no argument, but got 'all'"),
        ("cifar10", "lacks what follows the colon"),
        ("none.py:make", "no such file: 'none.py'"),
    ],
)
def test_unknown_form(spec: str, message: str) -> None:
    with pytest.raises(AutopruneError) as caught:
        load_splits(spec)
    assert message in str(caught.value)
