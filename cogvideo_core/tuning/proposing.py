"""What is tried next: Optuna's multi-objective TPE, rebuilt from the committed trials before each proposal.

Nothing of it is stored but the trials: the sampler's seed follows from the search's seed and the number of trials, so
that a search which was interrupted proposes what it would have proposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from cogvideo_core.tuning.marks import AIM, Marks, gaps, mean_marks
from cogvideo_core.tuning.space import Space, same
from cogvideo_core.tuning.trials import Trial

TRIES, OF_TPE = 400, 100  # draws for one proposal; the first of them by TPE, the others evenly
# of text, preserved, motion and cost
DIRECTIONS: list[Literal["maximize", "minimize"]] = ["maximize", "maximize", "maximize", "minimize"]


def rebuilt(space: Space, trials: Sequence[Trial], base: Sequence[Marks], sampler: BaseSampler) -> optuna.Study:
    """The study of these trials. base: the marks of each clip by the preset; feasible is what is no worse."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    study.add_trials([as_optuna(space, trial, base) for trial in trials])
    return study


def as_optuna(space: Space, trial: Trial, base: Sequence[Marks]) -> FrozenTrial:
    """A trial as Optuna knows it; what was pruned has constraints alone, one that failed nothing."""
    marks = trial.marks() if trial.scores else None
    complete = trial.state == "complete"
    return create_trial(
        state={"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[trial.state],
        values=[*marks, trial.cost] if complete and marks else None,
        params=trial.params,
        distributions=space.distributions,
        constraints=gaps(marks, mean_marks(base[: len(trial.scores)]), AIM) if marks else None,
    )


def propose(
    space: Space, trials: Sequence[Trial], base: Sequence[Marks], seed: int, first_random: int
) -> dict[str, Any] | None:
    """The parameters of the next trial: usable, and of no earlier one; None where no such are found."""
    known = [trial.params for trial in trials]
    seeds = np.random.SeedSequence([seed, len(trials)]).generate_state(2)
    samplers: list[BaseSampler] = [RandomSampler(seed=int(seeds[1]))]
    if len(trials) >= first_random:
        samplers.insert(0, TPESampler(seed=int(seeds[0]), n_startup_trials=first_random))
    for sampler in samplers:
        study = rebuilt(space, trials, base, sampler)
        for _ in range(OF_TPE if isinstance(sampler, TPESampler) else TRIES):
            trial = study.ask(space.distributions)
            if space.usable(trial.params) and not same(trial.params, known, space):
                return dict(trial.params)
            study.tell(trial, state=TrialState.FAIL)
    return None
