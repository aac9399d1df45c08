"""The project's words: retired ones stay out of names, and odd phrases out of prose.

docs/glossary.md has the words that are used instead. Names are those of modules, classes,
functions, parameters and annotated fields of classes, split at underscores and capitals, so that
`benchmark` is no `bench`. Keys in files (`judge` in config.toml) are neither.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CODE = ("agents", "autoprune", "search_spaces")
PROSE = (*CODE, "docs", "experiments", "tests", "CONTRIBUTING.md", "README.md")

RETIRED = {
    "arena": "arenas?",
    "bench": "bench(es)?",
    "contest": "contests?",
    "course": "courses?",
    "descent": "(?<!gradient )descents?",
    "elsewhere": "elsewhere",
    "foretold": "foretold|foretells?",
    "hold": "^hold$",  # a bound holds, a folder holds files
    "judge": "judge[sd]?|judging",
    "jury": "jury|juries",
    "lane": "lanes?",
    "lattice": "lattices?",
    "leader": "leaders?",
    "lesson": "lessons?",
    "pace": "paces?",
    "pose": "pose[sd]?",
    "races": "races",
    "readings": "readings",
    "rival": "rivals?",
    "run-off": "run offs?|runoffs?",
    "sheet": "sheets?",
    "sift": "sift(s|ed|ing)?",
    "traffic": "(?<!memory )traffic",
    "trait": "traits?",
    "wall": "walls?(?! (clock|time|seconds))",
}
"""Pattern of every word that no name may hold, on its lower-case parts between single spaces.

`steps` and `nodes` are retired in one sense only (a preferred multiple, the points of a curve).
Training steps and nodes of a graph are ordinary, and no pattern can tell them apart.
"""

ODD = {
    "anew": "anew",
    "by heart": "by heart",
    "foretold": "foretold",
    "is no number": "(is|are) no numbers?",
    "of one's own": "of one[’']s own",
}
"""Pattern of every phrase that no docstring, comment, message or page may hold."""


def matches(patterns: dict[str, str], text: str) -> set[str]:
    """Return the words of which a text holds a form."""
    return {word for word, p in patterns.items() if re.search(rf"\b(?:{p})\b", text)}


def spaced(name: str) -> str:
    """Return the parts of a name in snake_case or CamelCase, lower case, between spaces."""
    capitals = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return capitals.replace("_", " ").strip().lower()


def names(path: Path) -> Iterator[str]:
    """Yield the names that a module defines, its own and its folder's among them."""
    yield from path.with_suffix("").parts[-2:]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.arg):
            yield node.arg
        if isinstance(node, ast.ClassDef):
            fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
            yield from (one.target.id for one in fields if isinstance(one.target, ast.Name))


def prose(text: str) -> str:
    """Return a text in one line; comments and messages go on over the ends of lines."""
    return re.sub(r"""\s*["']?\s*\n\s*(?:#+\s*|>\s*|[rf]{0,2}["'](?!["']))?""", " ", text).lower()


def files(root: Path, places: tuple[str, ...]) -> Iterator[Path]:
    """Yield the Python files and pages of some folders, but for this one."""
    for place in places:
        found = [root / place] if (root / place).is_file() else sorted((root / place).rglob("*"))
        yield from (
            path for path in found if path.suffix in (".py", ".md") and path.name != "test_words.py"
        )


def standing(root: Path) -> set[tuple[str, str]]:
    """Return (file, word) of every retired word in a name and every odd phrase in prose."""
    found = set()
    for path in files(root, CODE):
        words = set().union(*(matches(RETIRED, spaced(name)) for name in names(path)))
        found |= {(path.relative_to(root).as_posix(), word) for word in words}
    for path in files(root, PROSE):
        words = matches(ODD, prose(path.read_text(encoding="utf-8")))
        found |= {(path.relative_to(root).as_posix(), word) for word in words}
    return found


def test_no_retired_word_comes_back(root: Path) -> None:
    assert not sorted(standing(root)), "docs/glossary.md has the word to use"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BenchJudge", {"bench", "judge"}),
        ("run_off", {"run-off"}),
        ("_judged_by", {"judge"}),
        ("KLTraits", {"trait"}),
        ("benchmark_threshold", set()),
        ("memory_traffic", set()),
        ("traffic", {"traffic"}),
        ("wall_clock_seconds", set()),
        ("steps_per_node", set()),
    ],
)
def test_names_are_read_word_by_word(name: str, words: set[str]) -> None:
    assert matches(RETIRED, spaced(name)) == words


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("# A value that is no\n# number counts as least.", "is no number"),
        ('raise UsageError(\n    f"{value} is no "\n    "number."\n)', "is no number"),
        ("Images that are learnt by\nheart.", "by heart"),
        ("> a backend of one’s\n> own", "of one's own"),
        ("Begun\n    anew.", "anew"),
    ],
)
def test_phrases_are_seen_across_lines(text: str, word: str) -> None:
    assert matches(ODD, prose(text)) == {word}
    assert not matches(ODD, prose("A renewed number; one owns it."))


def test_planted_names_and_phrases_are_seen(tmp_path: Path) -> None:
    (tmp_path / "agents" / "arena").mkdir(parents=True)
    planted = 'def ask(pace: int) -> None:\n    """Begin anew."""\n'
    (tmp_path / "agents" / "arena" / "uniform.py").write_text(planted)
    assert standing(tmp_path) == {
        ("agents/arena/uniform.py", word) for word in ("anew", "arena", "pace")
    }
