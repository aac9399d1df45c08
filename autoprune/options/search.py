"""The options of a search, as one frozen value.

The file is long since every option is declared in it, with its help.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from autoprune.agents.registry import KIND as STRATEGY
from autoprune.agents.registry import options_of as config_of
from autoprune.cost.budget import UNBOUNDED
from autoprune.cost.budget_sweep import Sweep
from autoprune.cost.registry import COSTS
from autoprune.errors import UsageError, did_you_mean, spelt
from autoprune.importance.registry import KIND as IMPORTANCE
from autoprune.options import kinds
from autoprune.options.component_tables import with_config
from autoprune.options.kinds import AUTO
from autoprune.options.option import Option, Panel, choices, option, options_of
from autoprune.options.origin import Restrictions

if TYPE_CHECKING:
    from autoprune.agents.base import Strategy
    from autoprune.importance import Importance

_goal = partial(option, panel=Panel.GOAL)
_search = partial(option, panel=Panel.SEARCH)
_repair = partial(option, panel=Panel.REPAIR)
_restriction = partial(option, panel=Panel.RESTRICTIONS)
_latency = partial(option, panel=Panel.LATENCY)
_samples = partial(option, panel=Panel.SAMPLES, rule=kinds.ABOVE_ZERO)
# How the help says that a component may also be the user's.
_CLASS = "path/to/file.py:Class or package.module:Class"


@dataclass(frozen=True)
class SearchConfig(Restrictions):
    """How to search; docs/options.md explains every option.

    To add one, declare it here, and add the types that Python callers may pass to `SearchOptions`.
    """

    budget: str = _goal(
        MISSING,
        kinds.BUDGET,
        f"Upper bounds on {choices(COSTS)}: a share of the dense network (flops=0.5) or "
        "absolute (flops=60M,params=2.5M,memory=20MB,latency=5ms). Required, except to resume; "
        "none if the reward weighs the costs.",
        is_basic=True,
    )
    max_drop: float | None = _goal(
        None,
        kinds.POINTS,
        "Instead of a budget: the smallest network that loses at most so many points of accuracy "
        "(or units of the score of --evaluate) on the selection images, right after the cut.",
        is_basic=True,
        rule=kinds.ZERO_OR_MORE_POINTS,
    )
    minimize: str | None = _goal(
        None,
        kinds.COST,
        f"With --max-drop: what is to be small: {choices(COSTS, default='flops')}.",
    )
    reward: str = _goal(
        "kl",
        kinds.REWARD,
        "What is maximised: kl (the default: minus the divergence from the dense network's "
        "outputs, or the score of --evaluate), accuracy, accuracy_flops, accuracy_latency, "
        "path/to/file.py:function or package.module:function.",
    )
    evaluate: str | None = _goal(
        None,
        kinds.OBJECT,
        "For tasks that are not classification: a function from a network to its score (higher is "
        "better), path/to/file.py:function or package.module:function.",
        recalled_with="evaluate",
    )
    distance: str | None = _goal(
        None,
        kinds.OBJECT,
        "For networks that give no class scores: a function of a network's outputs and the dense "
        "network's to how far they are apart (0: equal), path/to/file.py:function or "
        "package.module:function (default: squared errors in units of the variance).",
        recalled_with="evaluate",
    )
    strategy: str | Strategy = _search(  # noqa: RUF009, it declares a field
        AUTO,
        kinds.STRATEGY,
        f"Who chooses the widths: {choices(STRATEGY.names, AUTO)}, {_CLASS}.",
        is_basic=True,
    )
    strategy_config: Mapping[str, Any] = _search(
        {}, kinds.TABLE, "Options of the strategy alone; in a TOML file the table [strategy.NAME]."
    )
    sampler: str | None = _search(None, kinds.NAME, "Of the strategy bayes: gp, tpe or cmaes.")
    agent: str | None = _search(
        None,
        kinds.RUN,
        "A pretrained agent: a run whose agent, learnt there on any network, is used here. local "
        "begins with its advice, ddpg lets it learn on, auto chooses one of the two.",
    )
    from_run: str | None = _search(
        None,
        kinds.RUN,
        "No new search (strategy recall): bring the policies that this run passed on its way "
        "(netadapt passes every budget) onto the new budget; its model, data and what it excluded "
        "are used unless others are given.",
        flag="--from",
    )
    from_training: str | None = _search(
        None,
        kinds.RUN,
        "Search the network that autoprune train left in this run, with the learnt scores as the "
        "importance, and begin at the learnt widths; its model, data and what it excluded are used "
        "unless others are given.",
    )
    warm_from: str | None = _search(
        None,
        kinds.RUN,
        "Begin with the trials of this run, of the same network, data and options (budget, "
        "strategy and limits aside): they are known, and never evaluated again.",
    )
    storage: str | None = _search(
        None,
        kinds.STORAGE,
        "An Optuna storage in which several processes search one study, each with a run directory "
        "of its own: sqlite:///FILE, postgresql://USER@HOST/NAME, mysql+pymysql://…, "
        "journal://FILE. Not taken from files, but from the command line alone.",
        is_renewable=True,
    )
    trials: int | None = _search(
        None,
        kinds.WHOLE,
        "Evaluations (default: 4 per group of channels, at least 40; or 1 per group, at least 30, "
        "where candidates are repaired as a whole).",
        is_basic=True,
        is_renewable=True,
        rule=kinds.ABOVE_ZERO,
    )
    time: float | None = _search(
        None,
        kinds.SECONDS,
        "Stop at the best so far after 90s, 10m, 1h, …, finalists and recovery included; one trial "
        "and one finalist are made in any case.",
        is_basic=True,
        is_renewable=True,
        rule=kinds.ABOVE_ZERO,
    )
    trial_timeout: float | None = _search(
        None,
        kinds.TIMEOUT,
        "A candidate whose evaluation takes longer than 30s, 5m, … fails, and the search goes on; "
        "so does a call of --evaluate. Five failures in a row end the search.",
        is_renewable=True,
        rule=kinds.ABOVE_ZERO,
    )
    workers: int | None = _search(
        None,
        kinds.WHOLE,
        "Number of candidates that are evaluated at once, in threads that share the processor, or "
        "(--ray) on as many workers of a cluster (default: 1; with --ray as many as it has room "
        "for).",
        is_renewable=True,
        rule=kinds.ABOVE_ZERO,
    )
    at_once: int | None = _search(
        None,
        kinds.WHOLE,
        "Number of candidates that the strategy proposes before it is told of the first of them, "
        "where it need not wait (default: as many as there are workers). What is found depends on "
        "this number, and not on the workers of a cluster.",
        rule=kinds.ABOVE_ZERO,
    )
    ray: str | None = _search(
        None,
        kinds.CLUSTER,
        "Evaluate candidates and finalists on Ray workers, each with one processor core (needs "
        "autoprune[ray]): without an address on this machine, else in the cluster at HOST:PORT, "
        "or (auto) the one that this machine belongs to.",
        is_renewable=True,
    )
    gpus_per_worker: float | None = _search(
        None,
        kinds.NUMBER,
        "Part of a GPU that each Ray worker gets, e.g. 0.5 (default: 1 if the network is on a GPU, "
        "else none).",
        is_renewable=True,
        rule=kinds.GPUS,
    )
    rounds: int | None = _search(
        None,
        kinds.WHOLE,
        "Reach the budget in N rounds of cutting and fine-tuning, with --finetune-epochs each; the "
        "earlier ones are runs in RUN/rounds. --trials, --time and --recover are those of a round.",
        rule=kinds.ABOVE_ZERO,
    )
    finetune_epochs: float | None = _search(
        None,
        kinds.NUMBER,
        "Fine-tune the network for so many passes over the training samples, after every round.",
        rule=kinds.ABOVE_ZERO,
    )
    seed: int = _search(0, kinds.WHOLE, "Seed of all randomness.", is_basic=True, rule=kinds.SEED)
    importance: str | Importance = _repair(  # noqa: RUF009, it declares a field
        "obs",
        kinds.IMPORTANCE,
        f"The criterion: {choices(IMPORTANCE.names, 'obs')}, {_CLASS}.",
        recalled_with="importance",
    )
    recover: float | str | None = _repair(
        None,
        kinds.RECOVERY,
        "How long the winner learns, without labels, to do what the dense network does: 10m, "
        "500steps, 2epochs, off, … (default: half of what the search took, 2 minutes at most); a "
        "quarter of --time at most. Steps and epochs are repeatable; after others result.json says "
        "which length repeats them. Ctrl-C ends it early.",
        is_basic=True,
        is_renewable=True,
        rule=kinds.SECONDS_OR_OFF,
    )
    train_frozen: bool = _repair(
        False,
        kinds.TWO_WAY_SWITCH,
        "Refit and train also what the network marks as frozen (requires_grad=False); by default "
        "such weights keep their values.",
        recalled_with="train_frozen",
    )
    repair_memory: int | None = _repair(
        None,
        kinds.MEMORY,
        "Memory for the activations of sequential repair, e.g. 8GB: as many calibration samples as "
        "fit are used (default: half of what is free).",
        rule=kinds.ABOVE_ZERO,
    )
    round_to: int | str = _restriction(
        1,
        kinds.MULTIPLE,
        "Widths are multiples of N, or (auto) of what the latency table's device favours.",
        recalled_with="round_to",
        rule=kinds.MULTIPLE_OR_AUTO,
    )
    latency_table: str | None = _latency(
        None,
        kinds.FILE,
        "Table that predicts latency, made by autoprune profile (default: where latency is asked "
        "for, this host is measured, into RUN.latency.json).",
        recalled_with="latency",
    )
    latency_backend: str | None = _latency(
        None,
        kinds.BACKEND,
        "A custom backend that the latency table was measured with, to measure the winner: no code "
        "is imported because a table names it.",
        recalled_with="latency",
    )
    verify_latency: bool = _latency(
        True,
        kinds.TWO_WAY_SWITCH,
        "Measure the winner beside the dense network, and go on under a tighter bound if it misses "
        "the budget (default: yes, where latency is asked for).",
    )
    calibration_samples: int = _samples(
        2000, kinds.WHOLE, "Samples for statistics and repair.", rule=kinds.ABOVE_ZERO
    )
    search_samples: int = _samples(
        1000, kinds.WHOLE, "Samples that candidates are scored on.", rule=kinds.ABOVE_ZERO
    )
    selection_samples: int = _samples(
        1000, kinds.WHOLE, "Samples that the winner is chosen on.", rule=kinds.ABOVE_ZERO
    )
    logger: tuple[str, ...] = option(
        (),
        kinds.LOGGERS,
        "Where figures of every trial go (reward, best so far, failures, …): tensorboard, mlflow, "
        f"wandb, trackio, {_CLASS}; repeatable.",
        panel=Panel.RUN,
        is_renewable=True,
    )
    report: bool = option(
        True,
        kinds.TWO_WAY_SWITCH,
        "Write RUN/report.html, a page that shows what the search found (default: yes).",
        panel=Panel.RUN,
        is_renewable=True,
    )
    engine: Mapping[str, Any] = _search(
        {}, kinds.TABLES, "Tuning constants by stage; in a TOML file the tables [engine.STAGE]."
    )

    def __post_init__(self) -> None:
        for name, declared in OPTIONS.items():
            declared.check(getattr(self, name))
        if self.max_drop is not None and self.budget != UNBOUNDED:
            raise UsageError(
                f"{spelt('max_drop')} stands instead of {spelt('budget')}: give one of them."
            )
        if self.from_training is not None:
            self._check_from_training()
        if (self.rounds or 1) > 1:
            self._check_rounds()
        if self.max_drop is not None and self.storage is not None:
            raise UsageError(
                f"{spelt('storage')} and {spelt('max_drop')} exclude each other: processes that "
                "search together need one budget."
            )
        if self.minimize is not None and self.max_drop is None:
            raise UsageError(
                f"{spelt('minimize')} says what is small at a given {spelt('max_drop')}: give that "
                "too."
            )
        if self.latency_backend is not None and self.latency_table is None:
            raise UsageError(
                f"{spelt('latency_backend')} says what a latency table was measured with: give "
                f"{spelt('latency_table')} too."
            )

    def _check_rounds(self) -> None:
        if self.finetune_epochs is None:
            raise UsageError(
                f"{spelt('rounds')} fine-tune what they cut: say for how long, with "
                f"{spelt('finetune_epochs', 2)}."
            )
        if self.budget == UNBOUNDED or self.from_run is not None:
            raise UsageError(
                f"{spelt('rounds')} approach a budget step by step: give one, and neither "
                f"{spelt('max_drop')} nor {spelt('from_run')}."
            )
        if self.storage is not None or self.warm_from is not None:
            raise UsageError(
                f"{spelt('rounds')} search another network each time: give neither "
                f"{spelt('storage')} nor {spelt('warm_from')}."
            )
        if self.decide != OPTIONS["decide"].default:
            raise UsageError(
                f"{spelt('rounds')} decide channels alone: leave out {spelt('decide')}."
            )

    def _check_from_training(self) -> None:
        if self.from_run is not None:
            raise UsageError(
                f"{spelt('from_training')} and {spelt('from_run')} exclude each other."
            )
        if self.importance != OPTIONS["importance"].default:
            raise UsageError(
                f"{spelt('from_training')} brings its own importance, the learnt scores: leave out "
                f"{spelt('importance')}."
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SearchConfig:
        """Build from plain values; a single pattern or ratio may stand for a list or table.

        Raises:
            UsageError: an unknown key, no budget, a wrong type or a value out of range.
        """
        for key in values:
            if key not in OPTIONS:
                raise UsageError(f"unknown option {key!r}; {did_you_mean(key, OPTIONS)}")
        plain: dict[str, Any] = {
            key: None if value is None and key in _OPTIONAL else OPTIONS[key].read(value)
            for key, value in with_config(values, "strategy").items()
        }
        if "budget" not in plain:
            if needs_budget(plain):
                half, drop = spelt("budget", "flops=0.5"), spelt("max_drop", 1)
                raise UsageError(
                    f"{spelt('budget')} is missing; write e.g. {half} (half of the MACs), {drop} "
                    f"(as small as one point of accuracy allows), or {spelt('budget', UNBOUNDED)} "
                    "with a custom reward that weighs the costs."
                )
            plain["budget"] = UNBOUNDED
        if plain.get("from_run") and plain.get("strategy", AUTO) == AUTO:
            plain["strategy"] = "recall"
        return cls(**plain)

    @property
    def strategy_name(self) -> str:
        """The name that finds the strategy again."""
        return STRATEGY.name_of(self.strategy)

    @property
    def strategy_options(self) -> dict[str, Any]:
        """The options of the strategy, by field of its config; None where they were not given."""
        flags = {"sampler": self.sampler, "agent": self.agent, "from_run": self.from_run}
        return {**flags, **self.strategy_config}

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values, as in config.toml; those that say nothing are left out."""
        values = {name: getattr(self, name) for name in OPTIONS}
        if not isinstance(self.strategy, (str, type)):
            values["strategy_config"] = config_of(self.strategy)
        values["strategy"] = self.strategy_name
        values["importance"] = IMPORTANCE.name_of(self.importance)
        values |= {key: list(value) for key, value in values.items() if isinstance(value, tuple)}
        silent = {one for one in ("strategy_config", "engine", "logger") if not values[one]}
        return {k: value for k, value in values.items() if value is not None and k not in silent}


OPTIONS: Mapping[str, Option] = options_of(SearchConfig)
RENEWABLE = tuple(name for name, declared in OPTIONS.items() if declared.is_renewable)
"""Options that may change when a search is resumed."""
_FLAGS = [OPTIONS[name].option_string for name in RENEWABLE]
MAY_BE_GIVEN_AGAIN = f"only {', '.join(_FLAGS[:-1])} and {_FLAGS[-1]} may be given again"
"""The same in words."""
# Those that Python may also give as None.
_OPTIONAL = {one for one, own in OPTIONS.items() if own.default is None} - {"budget"}


def needs_budget(values: Mapping[str, Any]) -> bool:
    """Return whether a search with these options, which name no budget, lacks one."""
    from autoprune.evaluation.reward import needs_no_budget  # too heavy for `autoprune --help`

    reward = values.get("reward", OPTIONS["reward"].default)
    return values.get("max_drop") is None and not needs_no_budget(reward)


def budgets_of(sweep: Sweep, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the budgets of a sweep by the names of their folders.

    Args:
        sweep: over the bounds on one cost.
        options: of all its searches; "budget" bounds other costs.

    Raises:
        UsageError: an option is missing or excludes a sweep.
        BudgetError: the budget bounds the same cost, or is malformed.
    """
    if options.get("from_run") is None:
        raise UsageError(
            f"{spelt('sweep')} brings the policies of an earlier run onto many budgets: say of "
            f"which run, with {spelt('from_run')}."
        )
    if options.get("max_drop") is not None:
        raise UsageError(f"{spelt('sweep')} and {spelt('max_drop')} exclude each other.")
    return sweep.budgets(OPTIONS["budget"].read(options.get("budget")))


class SearchOptions(TypedDict, total=False):
    """What `autoprune.search` takes for every field of `SearchConfig`."""

    budget: str | Mapping[str, float | str] | None
    max_drop: float | None
    minimize: str | None
    strategy: str | Strategy | type[Strategy] | Mapping[str, Mapping[str, Any]]
    strategy_config: Mapping[str, Any]
    sampler: str | None
    agent: str | os.PathLike[str] | None
    from_run: str | os.PathLike[str] | None
    from_training: str | os.PathLike[str] | None
    rounds: int | None
    finetune_epochs: float | None
    warm_from: str | os.PathLike[str] | None
    storage: str | None
    trials: int | None
    time: float | str | None
    trial_timeout: float | str | None
    workers: int | None
    at_once: int | None
    ray: str | bool | None
    gpus_per_worker: float | None
    seed: int
    importance: str | Importance | type[Importance]
    recover: float | str | None
    train_frozen: bool
    repair_memory: int | str | None
    decide: str | Sequence[str]
    exclude: str | Sequence[str]
    exclude_outputs: str | Sequence[str]
    min_keep: float | str | Sequence[str] | Mapping[str, float] | None
    round_to: int | str
    latency_table: str | os.PathLike[str] | None
    latency_backend: str | None
    verify_latency: bool
    calibration_samples: int
    search_samples: int
    selection_samples: int
    logger: str | Sequence[str]
    report: bool
    engine: Mapping[str, Mapping[str, Any]]


__all__ = [
    "AUTO",
    "MAY_BE_GIVEN_AGAIN",
    "OPTIONS",
    "RENEWABLE",
    "SearchConfig",
    "SearchOptions",
    "budgets_of",
]
