"""The names that `autoprune.data` offers."""

from autoprune.data.class_labels import check_classes, check_labels, with_class_labels
from autoprune.data.normalization import Normalization, parse_normalization
from autoprune.data.partitioning import (
    MAX_BYTES,
    Partition,
    SplitSizes,
    check_samples,
    mixed_pairs,
    partition,
)
from autoprune.data.samples import NO_LABEL, Samples
from autoprune.data.sources import absolute_data, has_photos, load_splits
from autoprune.data.splits import ArraySplit, DatasetSplit, Split, Splits
from autoprune.data.user import as_splits

__all__ = [
    "MAX_BYTES",
    "NO_LABEL",
    "ArraySplit",
    "DatasetSplit",
    "Normalization",
    "Partition",
    "Samples",
    "Split",
    "SplitSizes",
    "Splits",
    "absolute_data",
    "as_splits",
    "check_classes",
    "check_labels",
    "check_samples",
    "has_photos",
    "load_splits",
    "mixed_pairs",
    "parse_normalization",
    "partition",
    "with_class_labels",
]
