"""What every task is told: the groups of settings, and how a worker process turns them into its own `Work`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import model_validator

from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.recipes import FIRST, INVERSIONS, filled
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import (
    DatasetSpec,
    EngineSpec,
    InversionSpec,
    ModelSpec,
    OutputSpec,
    RecipeSpec,
    Spec,
    fingerprint,
)
from cogvideo_core.storage.ledger import Ledger
from tasks import stopping
from tasks.progress import tick

if TYPE_CHECKING:
    from cogvideo_core.stages.work import Work


def _on_step(stage: str) -> None:
    stopping.check(stage)
    tick(stage)


class Settings(Spec):
    """A flow's parameters in one piece."""

    dataset: DatasetSpec
    model: ModelSpec
    inversion: InversionSpec
    recipe: RecipeSpec
    output: OutputSpec
    engine: EngineSpec
    judge: JudgeSpec = JudgeSpec()
    mask: MaskSpec = MaskSpec()
    screen: ScreenSpec = ScreenSpec()
    plan: str = "plan"  # folder of the plan, below the output's root

    @model_validator(mode="after")
    def _inversion_of_preset(self) -> Settings:
        given, defaults = self.inversion.as_json(), InversionSpec().as_json()
        wanted = InversionSpec(**filled(given, INVERSIONS.get(self.recipe.preset, {}), defaults))
        object.__setattr__(self, "inversion", wanted)  # the group is frozen for everyone else
        return self

    @property
    def results(self) -> str:
        """Hash of what determines a run's results besides its plan: not their place, nor how the work is spread."""
        groups = {name: getattr(self, name).as_json() for name in ("dataset", "model", "inversion", "recipe", "output")}
        for field in ("root", "gallery"):
            del groups["output"][field]
        unset = FIRST | {"recipes": [], "ladder": [], "most_candidates": 0}  # these are not named, as in keys
        for field in ("text_device", "fit"):  # what fit chooses stands in the units' keys
            del groups["model"][field]
        if self.model.weights == "stored":
            del groups["model"]["weights"]
        if not self.dataset.overlap:
            del groups["dataset"]["overlap"]
        groups["recipe"] = {k: v for k, v in groups["recipe"].items() if k not in unset or v != unset[k]}
        if self.recipe.ladder or self.judge.early_stop == "on":  # then it also decides which edits are made
            groups["judge"] = self.judge.as_json()
        if self.mask != MaskSpec():
            groups["mask"] = self.mask.as_json()
        if self.screen != ScreenSpec():
            groups["screen"] = self.screen.as_json()
        return fingerprint(groups)

    def work(self) -> Work:
        """`Work` with this process's model, loaded on first use."""
        from cogvideo_core.models import model as models
        from cogvideo_core.models.configuration import configured
        from cogvideo_core.stages.units import shape_of
        from cogvideo_core.stages.work import Work

        shape = shape_of(self.dataset, configured(self.model)) if self.dataset.sized else None
        return Work(
            self.dataset,
            self.inversion,
            self.recipe,
            self.output,
            self.engine,
            models.loaded(self.model, shape),
            Ledger(self.output.root),
            _on_step,
            self.judge.resolved(self.model.path),
            self.mask,
            self.screen,
        )

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """A slot of the global concurrency limit, where one is named; waits until there is one."""
        if not self.engine.concurrency_limit:
            yield
            return
        from prefect.concurrency.sync import concurrency

        with concurrency(self.engine.concurrency_limit, strict=True):
            yield
