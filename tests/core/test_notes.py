"""Log records of the package reach whoever shows progress, and a user's own handlers."""

from __future__ import annotations

import logging

import pytest
from searches import Notes

from autoprune.core.notes import forwarded_notes

log = logging.getLogger("autoprune.some.module")


def test_records_are_shown_while_somebody_listens() -> None:
    notes = Notes()
    log.info("before")
    with forwarded_notes(notes):
        log.info("%d of %d", 3, 4)
        log.debug("too fine")
        log.warning("100 %")
    log.info("after")
    assert notes.notes == ["3 of 4", "100 %"]


def test_levels_and_handlers_are_left_as_they_were() -> None:
    package = logging.getLogger("autoprune")
    before = package.level, list(package.handlers)
    with pytest.raises(KeyboardInterrupt), forwarded_notes(Notes()):
        raise KeyboardInterrupt
    assert (package.level, package.handlers) == before


def test_a_users_finer_level_stays(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "autoprune"), forwarded_notes(Notes()):
        log.debug("fine")
    assert "fine" in caplog.messages
