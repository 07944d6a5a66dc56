"""What every task is told: the six groups of settings, and how a worker process turns them into its own `Work`."""

from __future__ import annotations

from cogvideo_core import model as models
from cogvideo_core.ledger import Ledger
from cogvideo_core.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec, Spec
from cogvideo_core.work import Work
from tasks.progress import tick


class Settings(Spec):
    """A flow's parameters in one piece."""

    dataset: DatasetSpec
    model: ModelSpec
    inversion: InversionSpec
    recipe: RecipeSpec
    output: OutputSpec
    engine: EngineSpec

    def work(self) -> Work:
        """With this process's own copy of the model, loaded on first use."""
        return Work(
            self.dataset,
            self.inversion,
            self.recipe,
            self.output,
            self.engine,
            models.loaded(self.model),
            Ledger(self.output.root),
            tick,
        )
