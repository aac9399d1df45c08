"""Custom strategies on the command line, on the demo."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from autoprune.core.records import tomllib


def test_the_documented_example(cli, root: Path) -> None:
    """Word for word, but on few images, with few trials and an option."""
    text = (root / "docs" / "strategies.md").read_text()
    codes = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    Path("climbing.py").write_text(next(code for code in codes if "class Climbing(" in code))
    small = Path("small.toml").read_text()
    Path("small.toml").write_text(f'{small}\n[strategy."climbing.py:Climbing"]\nstep = 0.2\n')
    words = command.replace("--trials 40", "--trials 4 --config small.toml").split()
    done = cli(*words[1:])
    assert done.status == 0, done.err
    result = json.loads(Path("runs/climbing/result.json").read_text())
    name = f"{Path('climbing.py').absolute()}:Climbing"
    assert result["searched_by"] == name and result["search"]["trials"] == 4
    stored = tomllib.loads(Path("runs/climbing/config.toml").read_text())
    assert (stored["strategy"], stored["strategy_config"]) == (name, {"step": 0.2})
    again = cli("search", "--resume", "--output", "runs/climbing", "--trials", "5", "--quiet")
    assert again.status == 0, again.err


WRONG = """
from autoprune.agents.base import Candidate, Strategy

class Stranger:
    def ask(self): return None
    def tell(self, trial): pass

class Deaf(Strategy):
    def ask(self): return None

class Silent(Deaf):
    def tell(self, trial): pass

class Wide(Silent):
    def ask(self): return Candidate(self.problem.space.sizes)

class Raising(Silent):
    def ask(self): return Candidate(self.problem.group)

class Leaving(Silent):
    def start(self, problem): raise SystemExit

class Fraction(Silent):
    def ask(self): return Candidate((0.5,) * len(self.problem.space))

class Bare(Silent):
    def ask(self): return self.problem.space.lowest
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Stranger", "gives a Stranger: it must be a subclass of autoprune.agents.base.Strategy"),
        ("Deaf", "making it fails: TypeError: Can't instantiate abstract class Deaf"),
        ("Silnt", "has no 'Silnt'; did you mean 'Silent'?"),
    ],
)
def test_what_is_no_strategy_is_refused_at_once(search, name: str, message: str) -> None:
    Path("wrong.py").write_text(WRONG)
    done = search("--strategy", f"wrong.py:{name}")
    assert done.status == 2 and done.out == "" and not Path("out").exists()
    assert len(done.err.splitlines()) == 1
    assert f"strategy 'wrong.py:{name}'" in done.err and message in done.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Wide", "wrong.py:Wide proposed widths over the budget"),
        (
            "Raising",
            "wrong.py:Raising' failed in ask(): AttributeError: 'SearchProblem' object has",
        ),
        ("Leaving", "wrong.py:Leaving' failed in start(): SystemExit"),
        ("Silent", "wrong.py:Silent' proposed nothing: no trial was made"),
    ],
)
def test_a_strategy_that_fails_ends_the_search_in_one_line(search, name: str, message: str) -> None:
    Path("wrong.py").write_text(WRONG)
    done = search("--strategy", f"wrong.py:{name}", "--quiet")
    assert done.status == 2 and "Traceback" not in done.err
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and message in errors[0]
    # Trials are kept, to be resumed; without any, nothing is.
    assert Path("out").exists() == (name == "Wide") and not Path("out/result.json").exists()
