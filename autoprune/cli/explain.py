"""`autoprune explain`: why a layer has the width that it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from autoprune.options.commands import ExplainOptions
from autoprune.options.option import read_options


def explain(given: Mapping[str, Any]) -> None:
    """Say why a layer has the width that it has: its cost, its curve, the trials that said so.

    Without a layer, show all groups of channels in one table.
    """
    options = read_options(ExplainOptions, given)

    from autoprune.cli.display import print_json, print_table, say
    from autoprune.reporting import explanation, reasons
    from autoprune.reporting.run_records import read_runs

    (run,) = read_runs([options.run])
    facts = explanation.explain_groups(run)
    if options.layer is None:
        if options.json:
            print_json([asdict(one) for one in facts])
        else:
            print_table(reasons.groups_table(facts))
        return
    group = explanation.find_group(run, options.layer)
    if not isinstance(group, str):
        answer = {"name": group.name, "size": group.size, "frozen": group.reason}
        text = f"{group.name} keeps all of its {group.size} units: {group.reason}."
        if options.json:
            print_json(answer)
        else:
            say(text)
        return
    found = explanation.explain_group(run, group)
    if options.json:
        print_json(asdict(found))
        return
    for sentence in reasons.reasons(found, facts):
        say(sentence)
    if found.trials:
        print()
        print_table(reasons.trials_table(run, found))
