"""Contract suites without the tests of what a plug-in does not promise."""

from __future__ import annotations

from typing import Any, TypeVar

Suite = TypeVar("Suite", bound=type[Any])


def keeping(suite: Suite, **promised: bool) -> Suite:
    """Let pytest collect a test of a suite only if its fact is promised.

    Args:
        suite: a class of tests, not shared with other plug-ins.
        **promised: whether it is, by the name of the test.
    """
    for test, kept in promised.items():
        assert callable(getattr(suite, test)), f"there is no test {test!r}"
        if not kept:
            setattr(suite, test, None)
    return suite
