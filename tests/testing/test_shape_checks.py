"""Signatures are checked under pytest: wrong shapes, wrong types, and no annotation unnoticed."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import shape_checks
import torch
from jaxtyping import TypeCheckError

from autoprune.importance.losses import _curve
from autoprune.reconstruction.ridge import RidgeToPrior
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.statistics.moments import Moments


def test_arguments_that_do_not_fit_together_are_refused() -> None:
    RidgeToPrior(torch.randn(9, 4), torch.randn(3, 4), True)
    with pytest.raises(TypeCheckError, match=r"(?s)'prior'.*f32\[3,5\].*outputs inputs"):
        RidgeToPrior(torch.randn(9, 4), torch.randn(3, 5), True)


def test_results_of_the_wrong_shape_are_refused() -> None:
    problem = RidgeToPrior(torch.randn(9, 4), torch.randn(3, 4), True)
    problem._inputs = problem._inputs[None]
    with pytest.raises(TypeCheckError, match=r"(?s)return value.*rows outputs"):
        problem.outputs()


def test_fields_of_dataclasses_are_checked() -> None:
    mean, covariance = torch.zeros(3).double(), torch.zeros(3, 3).double()
    assert Moments(1, mean, covariance).is_full
    for wrong in (torch.zeros(4, 4).double(), covariance.float()):
        with pytest.raises(TypeCheckError, match="'covariance'"):
            Moments(1, mean, wrong)


def test_arrays_are_checked_as_tensors_are() -> None:
    assert len(_curve(np.array([1, 2]), np.array([2.0, 1.0]), 3)) == 4
    with pytest.raises(TypeCheckError, match="'losses'"):
        _curve(np.array([1, 2]), np.array([3.0, 2.0, 1.0]), 3)


def test_only_signatures_of_plain_numbers_go_unchecked() -> None:
    space = SearchSpace(("a", "b"), (4, 4), (1, 1))
    for wrong in (np.ones((2, 2)), np.ones(2, int), (1.0, 2.0)):
        with pytest.raises(TypeCheckError, match="'wanted'"):
            space.round_down(wrong)
    assert space.contains([1, 2])  # a list for a tuple


def modules() -> Iterator[Any]:
    for package in map(importlib.import_module, shape_checks.PACKAGES):
        yield package
        for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(one.name)


def functions(module: Any) -> Iterator[Callable[..., Any]]:
    for one in vars(module).values():
        if getattr(one, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(one):
            yield one
        elif inspect.isclass(one):
            members = (getattr(m, "fget", m) for m in vars(one).values())
            yield from (m for m in members if inspect.isfunction(m))


def test_every_annotation_is_understood() -> None:
    """What cannot be evaluated would pass unchecked, e.g. a name that only mypy imports."""
    found = [one for module in modules() for one in functions(module)]
    assert len(found) > 200
    for one in found:
        typing.get_type_hints(inspect.unwrap(one))
