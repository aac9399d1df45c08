"""Damage of every kind to the files of a run, drawn from a seeded generator."""

from __future__ import annotations

import copy
import io
import json
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import tomli_w
import torch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Place = tuple[Any, Any]
"""A dict or list, and a key or index in it."""

NUMBERS = [
    0, 1, -1, 2, 255, 4 * 10**7, 2**31, 2**63, -(2**63), 10**400, 10**4200,
    0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
OTHERS = [
    None, True, False, "", "x", "0", "a\x00b", "\x1b[2J", "ü" * 300, "y" * 100_000,
    [], {}, [[]], [1, 2], {"a": 1}, [None] * 50,
    "canary:touch", "canary.py:touch", "../outside", "/outside/of/all", "../../outside.pt",
]  # fmt: skip


def nested(depth: int, kind: str) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def places(value: Any) -> Iterator[Place]:
    """Yield every place of a value, outermost first."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def mutate(value: Any, random: Random) -> Any:
    """Return a copy with one place of it changed."""
    value = copy.deepcopy(value)
    if random.random() < 0.03 or not (there := list(places(value))):
        return random.choice(OTHERS)
    inside, key = random.choice(there)
    old = inside[key]
    change = random.choice(("drop", "number", "number", "other", "nest", "twist", "extra"))
    if change == "drop":
        del inside[key]
    elif change == "number":
        inside[key] = random.choice(NUMBERS)
    elif change == "other":
        inside[key] = copy.deepcopy(random.choice(OTHERS))
    elif change == "nest":
        inside[key] = nested(random.choice((1, 3, 60, 300)), random.choice(("list", "dict")))
    elif change == "twist":
        inside[key] = _twisted(old, random)
    elif isinstance(inside, dict):
        inside["strange"] = random.choice(OTHERS)
    else:
        inside.insert(random.randrange(len(inside) + 1), random.choice([old, *OTHERS]))
    return value


def _twisted(old: Any, random: Random) -> Any:
    """Return something like the old value."""
    if isinstance(old, bool) or old is None:
        return str(old)
    if isinstance(old, (int, float)):
        return random.choice([-old, old + 1, old - 1, old * 1000, str(old), float(old), [old]])
    if isinstance(old, str):
        return random.choice([old + "x", old[:-1], old.upper(), old * 500, [old], {old: old}])
    if isinstance(old, list):
        return random.choice([old[::-1], old[1:], old * 2, dict(enumerate(map(str, old)))])
    if not isinstance(old, dict):
        return [old]
    return random.choice([list(old.items()), list(old), dict(list(old.items())[1:])])


def damaged_text(text: bytes, random: Random) -> bytes:
    """Return bytes with bits flipped, or cut, or something in the way."""
    cut, end = random.randrange(len(text) + 1), len(text)
    return random.choice(
        [
            lambda: b"",
            lambda: text[:cut],
            lambda: text[cut:],
            lambda: text[:cut] + b"\xff\xfe\x00" + text[cut:],
            lambda: text[:cut] + b"[" * 100_000,
            lambda: text[:cut] + b'{"a":' * 20_000 + text[cut:],
            lambda: text[:cut] + b"1" * 5000 + text[cut:],
            lambda: text[:cut] + text[: min(cut, end)],
            lambda: text + text,
            *[lambda: flipped(text, random)] * 4,
        ]
    )()


def flipped(content: bytes, random: Random) -> bytes:
    """Return bytes with one to eight bits flipped."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def damaged_json(content: bytes, random: Random) -> bytes:
    if random.random() < 0.2:
        return damaged_text(content, random)
    value = mutate(json.loads(content), random)
    if isinstance(value, dict) and random.random() < 0.1:  # a key that is given twice
        key = random.choice(list(value) or ["a"])
        return json.dumps(value)[:-1].encode() + f", {json.dumps(key)}: 1}}".encode()
    return json.dumps(value).encode()


def forged_policy(content: bytes, random: Random) -> bytes:
    """Change what a policy's groups say, and make its fingerprint fit, as anybody could."""
    value = json.loads(content)
    value["groups"] = mutate(value["groups"], random)
    value.pop("checksum", None)
    with suppress(Exception):
        groups = {name: [one["size"], one["slices"]] for name, one in value["groups"].items()}
        text = json.dumps([value["shapes"], groups], sort_keys=True)
        value["fingerprint"] = sha256(text.encode()).hexdigest()[:16]
    return json.dumps(value).encode()


def damaged_toml(content: bytes, random: Random) -> bytes:
    if random.random() < 0.3:
        return damaged_text(content, random)
    value = mutate(tomllib.loads(content.decode()), random)
    try:
        return tomli_w.dumps(value).encode()
    except Exception:  # TOML has no null, and its keys are texts
        return damaged_text(content, random)


def damaged_tensors(content: bytes, random: Random) -> bytes:
    """Damage a safetensors file: its header, a value in it, or anything."""
    kind = random.choice(("header", "header", "value", "bytes"))
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    if kind == "bytes":
        return damaged_text(content, random)
    if kind == "value":
        one = random.choice([one for one in header.values() if one.get("dtype") == "F32"])
        start, end = one["data_offsets"]
        at = random.randrange(start, end, 4)
        bad = random.choice((float("nan"), float("inf"), float("-inf"), 1e38))
        data[at : at + 4] = struct.pack("<f", bad)
        return content[: 8 + length] + bytes(data)
    if random.random() < 0.3:  # another type of the same size, or another name
        one = random.choice(list(header))
        if random.random() < 0.5 and "dtype" in header[one]:
            header[one]["dtype"] = random.choice(("I32", "U32", "F32", "I64", "F64", "C64"))
        else:
            header[random.choice(("strange", "", one + "x", "\x1b[2J"))] = header.pop(one)
    else:
        header = mutate(header, random)
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + bytes(data)


def damaged_checkpoint(content: bytes, random: Random) -> bytes:
    """Damage a file of torch.save: a value in it, or anything."""
    if random.random() < 0.3:
        return random.choice((flipped, damaged_text))(content, random)
    value = torch.load(io.BytesIO(content), weights_only=True)
    changed = io.BytesIO()
    torch.save(_with_tensors(value, random), changed)
    return changed.getvalue()


def _with_tensors(value: Any, random: Random) -> Any:
    """Return a copy with one place of it changed, where tensors may stand."""
    if random.random() < 0.5:
        return mutate(value, random)
    value = copy.deepcopy(value)
    tensors = [one for one in places(value) if isinstance(one[0][one[1]], torch.Tensor)]
    if tensors:
        inside, key = random.choice(tensors)
        old = inside[key]
        inside[key] = random.choice([
            old[None], old.reshape(-1)[:0], old.to(torch.int32), old.to(torch.complex64),
            old * float("nan"), old + 1e30, torch.zeros(1).expand(10**6, 10**6), old.to("meta"),
            old.to_sparse() if old.dim() else old, torch.empty(3, 0, 2), old.double(),
        ])  # fmt: skip
    return value


def damaged_lines(content: bytes, random: Random) -> bytes:
    """Damage a file of JSON lines: one of them, or anything."""
    lines = content.splitlines()
    if random.random() < 0.3:
        return damaged_text(content, random)
    place = random.randrange(len(lines))
    lines[place] = damaged_json(lines[place], random)
    return b"\n".join(lines) + b"\n"


CELLS = (
    ("trial_user_attributes", "value_json"),
    ("study_user_attributes", "value_json"),
    ("trial_params", "distribution_json"),
)
SQL = (
    "delete from trial_user_attributes where key = 'measurement'",
    "delete from trial_user_attributes where key = 'widths'",
    "delete from trial_user_attributes",
    "delete from trial_params",
    "delete from trial_values",
    "delete from study_directions",
    "delete from version_info",
    "update version_info set schema_version = 99",
    "update alembic_version set version_num = 'v99'",
    "update trial_values set value = 1e400",
    "update trial_values set value_type = 'INF_POS'",
    "update trial_values set value = 'text'",
    "update trial_values set value = null",
    "update trial_params set param_value = 'text'",
    "update trial_params set param_value = 99",
    "update trial_params set param_name = 'x'",
    "update trials set state = 'RUNNING'",
    "update trials set state = 'NOTHING'",
    "update trials set number = -5",
    "update trials set datetime_start = 'never'",
    "update study_directions set direction = 'MINIMIZE'",
    "insert into study_directions (direction, study_id, objective) values ('MINIMIZE', 1, 1)",
    "drop table trials",
    "drop table trial_user_attributes",
    "update studies set study_name = 'another'",
    "update trial_user_attributes set value_json = '{'",
    "update trial_user_attributes set value_json = null where key = 'kind'",
)


def damaged_study(content: bytes, random: Random, scratch: Path) -> bytes:
    """Damage a study: pages of the file, a value of a trial or of the study, or its tables."""
    kind = random.choice(("bytes", "cell", "cell", "cell", "sql"))
    if kind == "bytes":
        return damaged_text(content, random)
    scratch.write_bytes(content)
    with closing(sqlite3.connect(scratch)) as base, base:
        if kind == "sql":
            with suppress(sqlite3.IntegrityError):
                base.execute(random.choice(SQL))
        else:
            table, column = random.choice(CELLS)
            rows = base.execute(f"select rowid, {column} from {table}").fetchall()
            row, text = random.choice(rows)
            new = mutate({"": json.loads(text)}, random)
            new = json.dumps(new[""] if isinstance(new, dict) and "" in new else new)
            base.execute(f"update {table} set {column} = ? where rowid = ?", (new, row))
    return scratch.read_bytes()


def kinds(folder: Path) -> dict[str, Callable[[bytes, Random], bytes]]:
    """Return how to damage a file, by the end of its name; `folder` is for what is drafted."""
    return {
        ".json": damaged_json,
        ".toml": damaged_toml,
        ".safetensors": damaged_tensors,
        ".db": lambda content, random: damaged_study(content, random, folder / "scratch.db"),
        ".pt": damaged_checkpoint,
        ".npz": damaged_text,
        ".txt": damaged_text,
        ".log": damaged_text,
        ".jsonl": damaged_lines,
    }
