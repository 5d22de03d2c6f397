"""The run of a search: asks the strategy, journals, hands trials to workers, tells what came out, picks the best.

    ask -> journal -> train -> journal -> tell

A trial stands in the journal before it begins, and its score before the strategy hears of it. What is under way counts
as pending for the strategy, so several workers get different networks, and a score that comes in late is told late.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from pluriform.distribute import LATER, Outcome, map_tasks
from pluriform.errors import ConfigError, RunConflictError, explain
from pluriform.search.bayesian_search import BayesianSearch
from pluriform.search.choice import best_of, check_start_latency, common_cause, score_of
from pluriform.search.ending import ending_of, most_ending_seconds, next_ending
from pluriform.search.facts import accumulated_figures, search_facts
from pluriform.search.journal import Journal, Trial
from pluriform.search.judge import objective_name
from pluriform.search.kept_weights import KeptWeights
from pluriform.search.memory import MemoryModel, check_shared_memory, ran_out_of_memory
from pluriform.search.morph_space import Grown, MorphSpace, outline_bytes
from pluriform.search.morphism import Morph
from pluriform.search.pace import Rounds, expected_seconds, gentleness, measured_step, paced, rounds_within
from pluriform.search.plan import Plan, strategy_of
from pluriform.search.projection import Projection
from pluriform.search.size import step_work
from pluriform.search.start import morphable
from pluriform.search.stopping import least_scores
from pluriform.search.telling import tell_begin, tell_end, tell_stop
from pluriform.search.trial import Common, Measured, Task, network_of, run_trial
from pluriform.search.zero_cost import ZeroCost
from pluriform.training.feed import Feed
from pluriform.training.loss import Loss
from pluriform.training.seeds import derive_seed

__all__ = ["Search"]

FIRST = 3
"""Trials after which a search ends whose trials all fail."""
STEP_DOWN = 0.999
"""Size that is tried after memory ran out, in units of what failed."""


class Search:
    """One sitting of a search.

    Args:
        plan: How it goes.
        common: Network, data and recipe.
        folder: Of the trials.
        journal: Of this search, old or new.
        checkpoints: Whether trials could be resumed.

    Raises:
        UnsupportedOpError: The start cannot be read; names the node.
        ConfigError: The start has more parameters than are allowed.
        RunConflictError: The journal is of another search.
    """

    def __init__(self, plan: Plan, common: Common, folder: Path, journal: Journal, *, checkpoints: bool = True) -> None:
        self.plan, self.common, self.folder, self.journal = plan, common, folder, journal
        self.checkpoints = checkpoints
        inputs, targets = common.data.train.batch(torch.arange(2))
        self.start = start = morphable(common.module, inputs)
        self.most_bytes = self.most_work = math.inf
        self.space = MorphSpace(start, derive_seed(plan.seed, "moves"), fits=self._fits)
        self._check_start()
        self.candidates: dict[int, Grown] = {}
        self.order: list[int] = []  # Numbers of the trials, in the order handed out.
        self.interrupted = False
        device = torch.device(common.device)
        network, loss, share = start.module.to(device), Loss(common.data.task), plan.sharing(device)
        self.memory = MemoryModel.calibrated(network, inputs.to(device), targets.to(device), common.recipe, loss, share)
        self._set_pace(network, device)
        network.cpu()
        self._remember()

    def _set_pace(self, network: torch.nn.Module, device: torch.device) -> None:
        """How long trials are, from a step of the start that was measured when the search began."""
        plan, data, recipe = self.plan, self.common.data, self.common.recipe
        self.full = Feed(data, recipe.batch_size, 0, recipe.augmentation, torch.device("cpu")).steps
        seconds, step = plan.seconds, 0.0
        if seconds is not None and plan.epochs is None:
            known = self.journal.fact("pace") or [seconds, measured_step(network, data, recipe, device)]
            self.journal.note("pace", known)
            seconds, step = known
        self.pace = paced(plan.epochs, plan.usual, self.full, seconds, plan.final, step, plan.abreast)
        present = paced(plan.epochs, plan.usual, self.full, plan.seconds, plan.final, step, plan.abreast)
        self.plan, self.step = replace(plan, final=present.final), step  # Minutes may have been added since.
        end = self.pace.final * (seconds or 0.0) if step and self.common.objective is None else 0.0
        self.projection = Projection(end, self.full, float(data.task == "classification"), plan.max_latency)
        self.kept = KeptWeights(self.folder, self.projection.value, plan.max_latency)
        if seconds is not None and step:
            self.most_work = self.pace.most_work(self._work(self.space.start), self.full)
        self.zero_cost = ZeroCost(plan.prior, self.start, data, derive_seed(plan.seed, "prior"))
        self.space.children = int(min(self.pace.offered(step), self.zero_cost.offered))
        self.strategy = strategy_of(plan, self.space, self._duration, self.zero_cost)

    def _check_start(self) -> None:
        most, own = self.plan.max_parameters, self.space.start
        if most is not None and own.parameters > most:
            got = f"{own.parameters:,} of the start, the smallest network of the search (trial 0)"
            remedy = "raise max_parameters, or start from a smaller network"
            raise ConfigError(explain(f"at most {most:,} parameters", got, "constraints of a search", remedy))
        known = self.journal.fact("start")
        if known is not None and known != [own.key, self.plan.seed]:
            remedy = "name another run folder, or delete this one; nothing was overwritten"
            got = f"{own.key} with seed {self.plan.seed}"
            expected = f"the search stored there, from {known[0]} with seed {known[1]}"
            raise RunConflictError(explain(expected, got, str(self.journal.path), remedy))
        self.journal.note("start", [own.key, self.plan.seed])

    def _fits(self, one: Grown) -> bool:
        most = self.plan.max_parameters
        small = most is None or one.parameters <= most
        quick = self.most_work == math.inf or self._work(one) <= self.most_work
        return small and quick and outline_bytes(one, self.common.recipe.batch_size) <= self.most_bytes

    def _work(self, one: Grown) -> float:
        """Of a training step."""
        batch = min(self.common.recipe.batch_size, len(self.common.data.train))
        return step_work(one.work, one.parameters, batch)

    def _remember(self) -> None:
        """Tell the strategy the old scores in the old order, and what is under way."""
        for trial in self.journal.told():
            self._take_in(trial)
        for trial in self._under_way:
            self.strategy.trials.expect(self._candidate(trial))

    def run(self) -> None:
        """Search until the budget is spent, then train the best one on.

        Raises:
            TaskError: All of the first trials failed; the message holds their common cause.
            KeyboardInterrupt: Ctrl-C before the first score.
        """
        try:
            self._map(self._tasks())
            self._map(self._final())
        except KeyboardInterrupt:
            if not self.done:
                raise
            self.interrupted = True
            logging.getLogger("pluriform").warning("search stopped; the same call goes on with it")
        finally:
            self.journal.note("seconds", self.plan.budget.seconds)
            self.journal.note("interrupted", self.interrupted)
            tell_stop(self.facts)

    def _map(self, tasks: Iterator[Any]) -> None:
        self.order.clear()
        if self.plan.workers == "processes":
            check_shared_memory(self.common.data)
        count = torch.cuda.device_count() if self.common.device == "cuda" else 0
        plan, several = self.plan, range(count) if count > 1 else ()
        map_tasks(
            run_trial,
            self._announced(tasks),
            workers=plan.workers,
            processes=plan.processes,
            tell=self._tell,
            shared=self.common,
            devices=tuple(several),
        )

    def _announced(self, tasks: Iterator[Any]) -> Iterator[Any]:
        for task in tasks:
            if isinstance(task, Task):
                tell_begin(task.number, self.facts)
            yield task

    @property
    def done(self) -> list[Trial]:
        """Trials with a score, in the order told."""
        return [trial for trial in self.journal.told() if trial.state == "done"]

    @property
    def _under_way(self) -> list[Trial]:
        """Trials that began and were not told, but for those of an end."""
        return [trial for trial in self.journal.running() if not trial.plan.get("final")]

    def _tasks(self) -> Iterator[Any]:
        if self.plan.budget.left <= 0:
            return
        for trial in self._under_way:
            yield self._task(trial)
        while not self._over():
            trials = self.journal.trials()
            if trials and trials[0].told is None:  # Children need what the start has learnt.
                yield LATER
                continue
            if trials:
                check_start_latency(trials[0], self.plan.max_latency)
            candidate = self.strategy.ask()
            if any(trial.key == candidate.key and not trial.plan.get("final") for trial in trials):
                if not self._under_way:
                    self.journal.note("exhausted", True)
                    return
                yield LATER
                continue
            rounds = self._rounds(candidate, first=not trials)
            if rounds is None:  # No time for it.
                return
            yield self._task(self._begun(candidate, rounds, trials))

    def _over(self) -> bool:
        begun = sum(not trial.plan.get("final") for trial in self.journal.trials())
        return self.plan.budget.spent(begun) or self._search_seconds() <= 0

    def _search_seconds(self) -> float:
        """Seconds left before the end begins."""
        budget = self.plan.budget
        return math.inf if budget.minutes is None else budget.left - self._ending_seconds

    @property
    def _ending_seconds(self) -> float:
        return most_ending_seconds(self.done, self.plan, self.full, self.projection.value)

    def _duration(self, one: Grown) -> float:
        """Of a child's training, in steps of the start."""
        return self.pace.duration(self._work(one) / self._work(self.space.start))

    def _rounds(self, candidate: Grown, *, first: bool) -> Rounds | None:
        """How long a network is trained: as the pace says, or less; `None` where there is no time for it."""
        work, left = self._work(candidate), self._search_seconds()
        ratio = work / self._work(self.space.start)
        rounds = self.pace.start if first else self.pace.of_child(ratio, self.full)
        last = [(trial.figures, self._work(self._candidate(trial))) for trial in self.done[-5:]]
        paces = [(figures.get("steps", 0) * amount, figures["seconds"]) for figures, amount in last]
        expected = expected_seconds(work * rounds.count * rounds.steps, paces) if math.isfinite(left) else 0.0
        if expected <= left:
            return rounds
        return rounds_within(rounds.count * rounds.steps * left / expected, self.full, rounds.count)

    def _begun(self, candidate: Grown, rounds: Rounds, trials: Sequence[Trial]) -> Trial:
        """The next trial, in the journal."""
        parent = self._ancestor(candidate)
        known = 0 if parent is None else len(self._candidate(parent).moves)
        plan: dict[str, Any] = {"epochs": rounds.count, "parameters": candidate.parameters}
        plan |= {"steps": rounds.steps} if rounds.steps < self.full else {}
        plan |= {"cap": self.memory.cap / self.memory.scale, "least": self._least(parent, rounds)}
        plan |= {"zero_cost": self.zero_cost.told(candidate), **self._belief(candidate, parent, rounds)}
        moves = tuple(morph.to_json() for morph in candidate.moves[known:])
        trial = Trial(len(trials), None if parent is None else parent.number, moves, candidate.key, plan)
        self.candidates[trial.number] = candidate
        self.journal.note("seconds", self.plan.budget.seconds)
        self.journal.begin(trial)
        return trial

    def _ancestor(self, candidate: Grown) -> Trial | None:
        """The nearest ancestor whose weights are kept."""
        kept = self.kept.usable(self.done)
        for length in range(len(candidate.moves), -1, -1):
            same = [trial for trial in kept if self._candidate(trial).moves == candidate.moves[:length]]
            if same:
                return max(same, key=score_of)
        return None

    def _least(self, parent: Trial | None, rounds: Rounds) -> list[float | None]:
        children = [trial for trial in self.done if trial.parent is not None and not trial.plan.get("final")]
        alike = [trial for trial in children if trial.plan.get("steps", self.full) == rounds.steps]
        histories = [trial.figures["scores"] for trial in alike]
        found = least_scores(histories, rounds.count, 1, self.plan.stopped if parent is not None else 0.0)
        return [value if math.isfinite(value) else None for value in found]

    def _belief(self, candidate: Grown, parent: Trial | None, rounds: Rounds) -> dict[str, float]:
        """The score that is expected of the trial, before the end of the search."""
        if not isinstance(self.strategy, BayesianSearch) or len(self.strategy.trials.observed) < 2:
            return {}
        before = 0.0 if parent is None else parent.figures["total_epochs"]
        epochs, ratio = rounds.count * rounds.steps / self.full, self._work(candidate) / self._work(self.space.start)
        factor = self.projection.factor(before + epochs, self.step * ratio)
        return self.projection.now(self.strategy.predict([candidate]), factor)

    def _task(self, trial: Trial) -> Task:
        self.order.append(trial.number)
        candidate, budget = self._candidate(trial), self.plan.budget
        moves = tuple(map(Morph.from_json, trial.moves))
        parent = None if trial.parent is None else self.kept.path(trial.parent)
        least = tuple(-math.inf if value is None else value for value in trial.plan.get("least", []))
        reserved = 0.0 if trial.plan.get("final") else self._ending_seconds
        own = trial.plan["epochs"] * trial.plan.get("steps", self.full)
        fresh = trial.parent is None or bool(trial.plan.get("scratch"))
        return Task(
            number=trial.number,
            folder=str((self.folder / f"{trial.number:06d}").resolve()),
            ancestry=candidate.moves[: len(candidate.moves) - len(moves)],
            moves=moves,
            weights=None if parent is None else str(parent.resolve()),
            seed=derive_seed(self.plan.seed, "trial", trial.number),
            epochs=trial.plan["epochs"],
            steps=trial.plan.get("steps"),
            rate=1.0 if fresh else gentleness(own, self.pace.start.count * self.pace.start.steps),
            scratch=bool(trial.plan.get("scratch")),
            least=least,
            deadline=budget.deadline(reserved),
            most=trial.plan.get("most", 0),
            also_untrained=trial.number == 0 or bool(trial.plan.get("final") and not trial.plan.get("scratch")),
            cap=trial.plan.get("cap"),
            checkpoint=self.checkpoints,
        )

    def _candidate(self, trial: Trial) -> Grown:
        """Its moves from the start, through its ancestors."""
        if trial.number not in self.candidates:
            before = () if trial.parent is None else self._candidate(self.journal.trial(trial.parent)).moves
            self.candidates[trial.number] = self.space.grown((*before, *map(Morph.from_json, trial.moves)))
        return self.candidates[trial.number]

    def _tell(self, outcome: Outcome[Measured]) -> None:
        trial, clock = self.journal.trial(self.order[outcome.position]), {"told_seconds": self.plan.budget.seconds}
        if outcome.ok:
            measured = outcome.value()
            if measured.score is None:  # The time was up before it had a score: it stays under way.
                return
            parent = None if trial.parent is None else self.journal.trial(trial.parent)
            figures = {**accumulated_figures(trial, parent, measured.figures), **clock}
            trial = self.journal.end(trial.number, score=measured.score, figures=figures)
        else:
            trial = self.journal.end(trial.number, failure=outcome.failure, figures=clock)
        self.journal.note("seconds", self.plan.budget.seconds)
        self._take_in(trial)
        self.kept.prune(self.done, [other.parent for other in self.journal.running()])
        told = self.journal.told()
        tell_end(trial, told, self.plan.max_latency, self.plan.budget, self.facts)
        if len(told) >= FIRST and not any(trial.state == "done" for trial in told):
            raise common_cause(told)

    def _take_in(self, trial: Trial) -> None:
        """What a finished trial teaches."""
        candidate = self._candidate(trial)
        if ran_out_of_memory(trial.failure):
            self.most_bytes = min(self.most_bytes, STEP_DOWN * outline_bytes(candidate, self.common.recipe.batch_size))
        if trial.plan.get("final"):
            return
        if trial.score is None:
            self.strategy.tell(candidate, math.nan)
            return
        self.strategy.tell(candidate, self.projection.value(trial))

    def facts(self, best: Trial | None = None) -> dict[str, Any]:
        """Facts of the search: as it stands, or, where the trial is named that comes out of it, in the end."""
        classes = self.common.data.task == "classification"
        return search_facts(
            self.journal,
            self.plan,
            objective=objective_name(self.common.objective, "accuracy" if classes else "rmse"),
            validation=len(self.common.data.validation),
            best=best,
            state="running" if best is None else "interrupted" if self.interrupted else "finished",
        )

    def _final(self) -> Iterator[Any]:
        """Train the best one on, and what else is asked for, with what is left."""
        last = list(takewhile(lambda trial: trial.plan.get("final"), reversed(self.journal.trials())))
        for trial in reversed(last):
            if trial.state == "running":
                yield self._task(trial)
        made = {(trial.parent, bool(trial.plan.get("scratch"))) for trial in last}  # Nothing was found since.
        found = [trial for trial in self.done if trial.number not in {ending.number for ending in last}]
        planned = ending_of(found, self.plan, self.projection.value, self.kept.usable(found))
        endings = [end for end in planned if (end.of.number, end.scratch) not in made]
        for place, ending in enumerate(endings):
            trials, left = self.journal.trials(), len(endings) - place
            trial = next_ending(ending, left, trials, self.plan, self.pace.child.count, self.full)
            if trial is None:
                return
            self.candidates[trial.number] = self._candidate(ending.of)
            self.journal.begin(trial)
            yield self._task(trial)

    def best(self) -> Trial:
        """The best trial that meets the constraints.

        Raises:
            ConfigError: None does; names the closest.
            TaskError: There is none with a score.
        """
        return best_of(self.journal.told(), self.plan.max_latency)

    def network(self, trial: Trial) -> torch.fx.GraphModule:
        """The network of a finished trial, with the weights that were scored."""
        task = replace(self._task(trial), moves=(), scratch=False, ancestry=self._candidate(trial).moves)
        return network_of(replace(task, weights=str(self.kept.path(trial.number))), self.common).module
