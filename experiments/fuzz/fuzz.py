"""Damages every kind of file that autoprune reads, thousands of times, and watches what reads it.

    OMP_NUM_THREADS=1 python experiments/fuzz/fuzz.py --quick 400 --whole 40

For every file (`tests/helpers/run_readers.py`) so many damaged copies are read by functions, and so
many by whole commands, all in this process. What reads one must succeed, or refuse it in one line;
it may start no process, run no code that the file names, write nothing outside the scratch folder,
and stay within a minute and half a gigabyte. Other ends are findings: each kind is printed once,
and its file kept.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/helpers"))

from guard import Guard, Misdeed  # noqa: E402
from made_runs import CANARY, MAKERS, make_tuning  # noqa: E402
from mutants import kinds  # noqa: E402
from run_readers import KINDS, FileKind, Reader  # noqa: E402

from autoprune.engine.trust import STATE_FOLDER  # noqa: E402
from autoprune.errors import AutopruneError  # noqa: E402

SECONDS, MEGABYTES = 60.0, 512.0


class Fuzzer:
    """A scratch folder with runs in it, and what was found."""

    def __init__(self, scratch: Path, kept: Path) -> None:
        """Make the runs; files that lead to findings are kept in a folder."""
        self._made, self._kept = scratch / "made", kept
        self._place, self._state = scratch / "place", scratch / "state"
        for folder in (self._made, self._state, kept):
            folder.mkdir(parents=True, exist_ok=True)
        os.environ[STATE_FOLDER] = str(scratch / "maker's state")  # what was made is strange here
        for make in MAKERS.values():
            run = make(self._made)
            if run.name == "a":
                make_tuning(run)
        os.environ[STATE_FOLDER] = str(self._state)
        self._change = kinds(scratch)
        self._guard = Guard(self._place, Path(tempfile.gettempdir()) / "torchinductor_root")
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.findings: dict[str, str] = {}

    def damage(self, kind: FileKind, readers: tuple[Reader, ...], seed: str, count: int) -> None:
        """Let readers read damaged copies of a file, each by one of them in turn."""
        content = (self._made / kind.made / kind.name).read_bytes()
        random = Random(f"{kind.made}/{kind.name}/{seed}")
        for number in range(count if readers else 0):
            mutant = self._change[Path(kind.name).suffix](content, random)
            self._read(kind, readers[number % len(readers)], mutant)

    def _read(self, kind: FileKind, reader: Reader, mutant: bytes) -> None:
        shutil.rmtree(self._place, ignore_errors=True)
        run = self._place / kind.made
        shutil.copytree(self._made / kind.made, run)
        (run / kind.name).write_bytes(mutant)
        (self._place / "canary.py").write_text(CANARY)
        os.chdir(self._place)
        try:
            with self._guard.watching(SECONDS, MEGABYTES):
                outcome, fault = _outcome(reader, run)
        except Misdeed as error:
            outcome, fault = "finding", f"{error}"
        finally:
            os.chdir(ROOT)
        if (self._place / "canary-ran").exists() or any(self._state.rglob("*.json")):
            outcome, fault = "finding", "code of the file was run, or is trusted"
            shutil.rmtree(self._state)
        self.outcomes[f"{kind.made}/{kind.name}", outcome] += 1
        if outcome == "finding":
            self._find(f"{reader.__name__} of {kind.made}/{kind.name}: {fault}", kind, mutant)

    def _find(self, what: str, kind: FileKind, mutant: bytes) -> None:
        key = re.sub(r"\d+|'[^']*'", "…", what)[:200]
        if key not in self.findings:
            name = f"{len(self.findings):03}-{kind.made}-{kind.name.replace('/', '-')}"
            (self._kept / name).write_bytes(mutant)
            self.findings[key] = name
            print(f"FINDING {name}: {what}", flush=True)


def _outcome(reader: Reader, run: Path) -> tuple[str, str]:
    """Return "read", "refused" or "finding", and the fault of a finding."""
    try:
        reader(run)
    except AutopruneError as error:
        text = str(error)
        is_one_line = len(text) < 600 and text.isprintable()
        return ("refused", "") if is_one_line else ("finding", f"no clear line: {text[:300]!r}")
    except Misdeed:
        raise
    except BaseException as error:
        own = [f for f in traceback.extract_tb(error.__traceback__) if "/autoprune/" in f.filename]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else "?"
        return "finding", f"{type(error).__name__}: {str(error)[:150]!r} in {place}"
    return "read", ""


def main() -> None:
    """Damage, read, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", type=int, default=400, help="mutations of a file for functions")
    parser.add_argument("--whole", type=int, default=40, help="mutations of a file for commands")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--only", default="", help="a part of the file's name")
    parser.add_argument("--kept", type=Path, default=Path("runs/fuzz"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    kept, began = given.kept.resolve(), time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        fuzzer = Fuzzer(Path(temporary), kept)
        for kind in KINDS:
            if given.only not in f"{kind.made}/{kind.name}":
                continue
            start = time.process_time()
            fuzzer.damage(kind, kind.readers, given.seed, given.quick)
            fuzzer.damage(kind, kind.commands, f"{given.seed} commands", given.whole)
            name = f"{kind.made}/{kind.name}"
            counts = {how: fuzzer.outcomes[name, how] for how in ("read", "refused", "finding")}
            print(f"{name}: {counts}, {time.process_time() - start:.0f} s", flush=True)
    total, found = fuzzer.outcomes.total(), len(fuzzer.findings)
    seconds = time.process_time() - began
    print(f"{len(KINDS)} files, {total} mutations, {found} kinds of findings, {seconds:.0f} s")


if __name__ == "__main__":
    main()
