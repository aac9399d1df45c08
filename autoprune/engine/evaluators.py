"""What builds and judges candidates: statistics, rankings, repairs, scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from autoprune.core.allocator import memory_share
from autoprune.core.progress import Progress
from autoprune.data import Partition, Samples, mixed_pairs
from autoprune.engine.problem import Task
from autoprune.errors import ModelError, RunError, first_line, listed
from autoprune.evaluation.classification import ClassificationScorer
from autoprune.evaluation.evaluator import Build, Builder, Evaluator, timed
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.evaluation.reward import DEFAULT_REWARD, check_labels
from autoprune.evaluation.sample_scores import TEMPERATURE
from autoprune.evaluation.scoring import CustomScorer, Scorer
from autoprune.importance import Evidence, Importance, check_needs, make_importance, rank_groups
from autoprune.importance.losses import with_losses
from autoprune.options.search import SearchConfig
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import SequentialRepair, samples_within
from autoprune.statistics.collect import collect_moments
from autoprune.statistics.moments import LARGEST_PATCH, Moments
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import deep_copy

# Calibration samples that BN statistics are re-estimated on.
BATCHNORM_SAMPLES = 500
# The KL that a slower judge must reach, as a share of the quicker one's, to be preferred.
CLEARLY = 0.9

# Sequential repairs: that by which finalists, and where it pays candidates, are chosen, and theirs.
QUICK, THOROUGH = "quick-sequential", "sequential"
# How many times less work the quick one must be than the thorough one. Scoring, which is as much
# for both, is left out: where forward passes are most of the work, the ratio does not come so far.
PAYS = 4
# The most work that it may be as the judge's repair, beside what scores a candidate.
AFFORDABLE = 2

Evaluate = Callable[[nn.Module], float]


@dataclass(frozen=True, eq=False)
class Bench:
    """Everything that is needed to build and judge candidates.

    Attributes:
        dense: scores of the dense network on the search split.
        builder: makes networks.
        judge: measures candidates on the search split.
        judge_name: how it repairs them, "one-shot" or "one-shot+batchnorm".
        finals: measure networks on the selection split, by the kind of repair, the judge's first.
        contests: the same for comparing finalists: by KL, on mixed images besides.
        settling: samples that the judge's repair runs through a network, besides those scored.
        races: whether what is sure to have a larger KL than the best so far cannot win.
        judging: measurements that choosing the judge took; none where it was known.
        final_forwards: samples that judging a finalist runs through networks, by kind of repair.
    """

    dense: Scores
    builder: Builder
    judge: Evaluator
    judge_name: str
    finals: Mapping[str, Evaluator]
    contests: Mapping[str, Evaluator]
    settling: int
    races: bool
    judging: int
    final_forwards: Mapping[str, int]

    def forwards(self, measurement: Measurement | None = None) -> int:
        """Return how many samples a measurement by the judge ran through a network, or can run."""
        whole = self.settling + self.dense.samples
        if measurement is None:
            return whole
        return self.settling + measurement.scores.samples + measurement.others_scored * whole


def set_up(
    model: nn.Module,
    task: Task,
    images: Partition,
    evaluate: Evaluate | None,
    config: SearchConfig,
    progress: Progress,
    seconds: dict[str, float],
    judge_name: str | None = None,
    repair_samples: int | None = None,
) -> Bench:
    """Gather what building candidates needs, and choose who judges them.

    Args:
        model: the dense network.
        task: what is searched.
        images: of the search.
        evaluate: the user's own score, if any.
        config: the options.
        progress: told how far it is.
        seconds: by stage; added to.
        judge_name: the judge that a resumed search was begun with; None chooses one.
        repair_samples: what sequential repair ran on in a resumed search; None asks the memory.

    Raises:
        RunError: there is no such judge.
        DataError: the images or labels do not fit the network.
        UsageError: the reward needs labels, and there are none.
        ModelError: its output is no class scores, and there is no `evaluate`.
        UsageError: the importance needs labels, and there are none.
    """
    criterion = make_importance(config.importance)
    check_needs(criterion, images.calibration)
    by_kl = evaluate is None and config.reward == DEFAULT_REWARD
    search, selection, contest = _scorers(
        model, images, evaluate, by_kl, config.seed, progress.note
    )
    check_labels(config.reward, search.dense)
    builder = gather(
        model,
        task.structure,
        images.calibration,
        criterion,
        config.seed,
        progress,
        seconds,
        repair_samples or _repairable(task.structure, images.calibration, config, progress),
    )
    quick = _judge_builds(builder, judge_name, _affordable(builder, task, images, config))
    with timed(seconds, "judge"):
        name, judge = _choose_judge(_judges(quick, search, task), task)
    repairs = {name: quick[name], **_careful_builds(builder, evaluate)}
    finals = _judges(repairs, selection, task)
    contests = finals if contest is selection else _judges(repairs, contest, task)
    settling = {"one-shot+batchnorm": BATCHNORM_SAMPLES, QUICK: len(builder.quick_repair.samples)}
    return Bench(
        dense=search.dense,
        builder=builder,
        judge=judge,
        judge_name=name,
        finals=finals,
        contests=contests,
        settling=settling.get(name, 0),
        races=by_kl,
        judging=len(quick) if judge_name is None else 0,
        final_forwards={
            name: contest.dense.samples + settling.get(name, 0),
            QUICK: contest.dense.samples + len(builder.quick_repair.samples),
            THOROUGH: contest.dense.samples + len(builder.repair.samples),
        },
    )


def _scorers(
    model: nn.Module,
    images: Partition,
    evaluate: Evaluate | None,
    by_kl: bool,
    seed: int,
    note: Callable[[str], None],
) -> tuple[Scorer, Scorer, Scorer]:
    """Return who scores candidates, the winner, and finalists beside each other."""
    if evaluate is not None:
        custom = CustomScorer(model, evaluate)
        return custom, custom, custom
    search = ClassificationScorer(model, images.search, classes=images.classes)
    if search.doubt:
        note(search.doubt)
    selection = ClassificationScorer(model, images.selection)
    mixed = mixed_pairs(images.unread, images.selection, seed) if by_kl else None
    if mixed is None:
        return search, selection, selection
    return search, selection, ClassificationScorer(model, images.selection, mixed)


def gather(
    model: nn.Module,
    structure: Structure,
    calibration: Samples,
    criterion: Importance,
    seed: int,
    progress: Progress,
    seconds: dict[str, float],
    repair_samples: int,
) -> Builder:
    """Gather the dense network's statistics and rank every group's units.

    Args:
        model: the dense network.
        structure: of it.
        calibration: images that statistics are gathered on.
        criterion: which units stay.
        seed: of all randomness.
        progress: told how far it is.
        seconds: by stage; added to.
        repair_samples: calibration samples that sequential repair runs on.

    Raises:
        DataError: the images do not fit the network.
    """
    with timed(seconds, "statistics"):
        moments = collect_moments(
            model,
            structure,
            calibration,
            seed,
            progress=lambda d, t: progress.step("statistics", d, t),
        )
    refitter = Refitter(model, structure, moments)
    with timed(seconds, "paths"):
        rankings = rank_groups(
            criterion,
            # A copy: criteria may be the user's, and do anything to it.
            Evidence(deep_copy(model), structure, moments, calibration, seed),
            lambda d, t: progress.step("paths", d, t),
        )
        try:
            rankings = with_losses(
                model, structure, rankings, refitter, calibration, TEMPERATURE, seed
            )
        except ModelError as error:
            progress.note(f"{first_line(error)}; reconstruction errors stand for losses")
    _tell_sliced(structure, moments, progress)
    repair = SequentialRepair(model, structure, calibration.first(repair_samples), seed)
    settling = calibration.first(BATCHNORM_SAMPLES)
    return Builder(model, structure, rankings, refitter, settling, repair)


def _repairable(
    structure: Structure, calibration: Samples, config: SearchConfig, progress: Progress
) -> int:
    """Return how many calibration samples sequential repair can run on, and tell if not on all."""
    memory = config.repair_memory or memory_share(calibration.device)
    count = min(len(calibration), samples_within(structure, memory))
    if count < len(calibration):
        progress.note(
            f"sequential repair uses {count} of {len(calibration)} calibration samples: more would "
            f"not fit into {memory / 1e9:.1f} GB of memory (--repair-memory, repair_memory=)"
        )
    return count


def _tell_sliced(structure: Structure, moments: Mapping[str, Moments], progress: Progress) -> None:
    """Say which layers lose inputs without least squares for those that stay, unasked."""
    full = {weight for weight, own in moments.items() if own.is_full} | structure.untouched
    rest = [structure.layer_of_weight[w].name for w in structure.feeds if w not in full]
    if rest:
        progress.note(
            f"{len(rest)} of {len(structure.feeds)} layers that read what is cut are sliced, not "
            f"refitted, in the search: {listed(rest)} (more than {LARGEST_PATCH:,} inputs, "
            "one-sided padding, no place for a bias, or samples that are not the first dimension)"
        )


def _affordable(builder: Builder, task: Task, images: Partition, config: SearchConfig) -> bool:
    """Whether every candidate can be repaired quickly.

    That is little work beside scoring it, and as many as are evaluated at once fit into memory.
    """
    quick = builder.quick_repair
    scoring = len(images.search) * task.costs["flops"].total(task.space.sizes)
    samples, most = len(quick.samples), len(builder.repair.samples)
    fits = config.workers == 1 or config.workers * samples <= most
    return fits and quick.work() <= AFFORDABLE * scoring


def _judge_builds(builder: Builder, judge_name: str | None, affordable: bool) -> dict[str, Build]:
    """Return how the judge may repair candidates, by its name: in one way where it is known."""
    builds: dict[str, Build] = {
        "one-shot": builder.one_shot,
        "one-shot+batchnorm": builder.settled,
        QUICK: builder.quick_sequential,
    }
    if judge_name is None:
        return builds if affordable else {k: b for k, b in builds.items() if k != QUICK}
    if judge_name not in builds:
        raise RunError(f"the run was begun with the judge {judge_name!r}, which is not known.")
    return {judge_name: builds[judge_name]}


def _careful_builds(builder: Builder, evaluate: Evaluate | None) -> dict[str, Build]:
    """Return how finalists may be repaired besides; quickly, too, where that saves enough."""
    builds: dict[str, Build] = {THOROUGH: builder.sequential}
    if evaluate is None and PAYS * builder.quick_repair.work() <= builder.repair.work():
        builds[QUICK] = builder.quick_sequential
    return builds


def _judges(builds: Mapping[str, Build], scorer: Scorer, task: Task) -> dict[str, Evaluator]:
    """Return who measures candidates on the same images, by the kind of repair."""
    return {
        name: Evaluator(build, scorer, task.costs, task.structure) for name, build in builds.items()
    }


def _choose_judge(judges: Mapping[str, Evaluator], task: Task) -> tuple[str, Evaluator]:
    """Return the first judge, unless a later, slower one is clearly kinder to the uniform cut.

    That is half of every group where there is no budget; with one, only proportions matter.
    What BN re-estimation gains over the variances known from the moments differs by network.
    """
    (name, judge), *others = judges.items()
    if not others:
        return name, judge
    uniform = task.projection.uniform(0.5)
    scores = judge.measure(uniform).scores
    for other_name, other in others:
        theirs = other.measure(uniform).scores
        if _clearly_better(theirs, scores):
            name, judge, scores = other_name, other, theirs
    return name, judge


def _clearly_better(a: Scores, b: Scores) -> bool:
    if a.kl is None or b.kl is None:
        return (a.custom or 0.0) > (b.custom or 0.0)
    return a.kl < CLEARLY * b.kl
