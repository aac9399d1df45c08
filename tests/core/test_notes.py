"""Log records of the package reach whoever shows progress, and a user's own handlers."""

from __future__ import annotations

import logging
import sys

import pytest
from searches import Notes

from autoprune.core.notes import forwarded_notes
from autoprune.core.progress import PlainProgress

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


def test_a_note_that_the_users_handler_shows_is_shown_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler, package = logging.StreamHandler(sys.stdout), logging.getLogger("autoprune")
    notes = Notes()
    package.addHandler(handler)
    try:
        with forwarded_notes(PlainProgress()), forwarded_notes(notes):
            log.info("seen")
            handler.setLevel(logging.WARNING)
            log.info("not by the handler")
    finally:
        package.removeHandler(handler)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("seen\n", "not by the handler\n")
    assert notes.notes == ["seen", "not by the handler"]  # it is no terminal
