"""UMAP of the train inputs, carried over to new ones by its own transform (an optional extra)."""

import dataclasses

import gin

from unsup_rule import extras
from unsup_rule.evaluation.methods import base, fitting
from unsup_rule.evaluation.setting import Inputs, Setting


@gin.configurable(module="unsup_rule")
@dataclasses.dataclass(frozen=True)
class UMAP:
  """McInnes, Healy and Melville 2018, by umap-learn. One model serves all seeds.

  Attributes:
    components: number of features.
    neighbours: of an input in the graph.
    fitted_on: train inputs in the graph.
  """

  components: int = 32
  neighbours: int = 15
  fitted_on: int = 15_000

  about = "a layout of the graph of train inputs, new ones placed beside them"
  source = "McInnes, Healy and Melville 2018"
  reference = False

  @property
  def label(self) -> str:
    """For people."""
    return f"UMAP-{self.components}"

  def prepare(self, setting: Setting, inputs: Inputs) -> base.Fit:
    """Fits on inputs of the train split.

    Raises:
      UnsupRuleError: umap-learn is not installed.
    """
    library = extras.needed("umap", "UMAP")
    x_NxP = fitting.shared_sample(inputs, setting, self.fitted_on)
    model = library.UMAP(
      n_components=min(self.components, len(x_NxP) - 2),
      n_neighbors=min(self.neighbours, len(x_NxP) - 1),
      random_state=setting.seed,
      n_jobs=1,  # What a seed makes it use anyway, with a warning.
    )
    return fitting.shared(model.fit(x_NxP).transform)

  def cost(self, setting: Setting) -> float:
    """A graph and its layout, shared by the seeds, and layouts of new inputs."""
    return 3000 + 35_000 / setting.seeds
