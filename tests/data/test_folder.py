"""Image folders, and the labels of their class folders."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from split_labels import labels_of

from autoprune.data import load_splits
from autoprune.errors import DataError, UsageError


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

    def test_the_size_is_given(self, tmp_path: Path) -> None:
        """The shorter side is 8/7 of the square before the centre is cut out."""
        image = pytest.importorskip("PIL.Image")
        self.write(tmp_path, "ant/1.png")
        split_size = 70
        photo = image.new("RGB", (80, 160), (0, 0, 0))
        photo.paste((255, 255, 255), (0, 40, 80, 120))  # its central square
        photo.save(tmp_path / "ant" / "1.png")
        splits = load_splits(f"imagefolder:{tmp_path}", "none", image_size=split_size)
        inputs = splits.train.take([0]).inputs
        assert inputs.shape == (1, 3, 70, 70) and inputs.mean() == 1.0
        assert splits.train.pictures.size == (70, 70)
        with pytest.raises(UsageError, match="image-size is for photos"):
            load_splits("digits", image_size=split_size)

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
