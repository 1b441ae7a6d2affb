"""The rule and its baselines, behind the interface of `base`."""

from collections.abc import Callable

from unsup_rule.evaluation.methods.autoencoders import VAE, Autoencoder
from unsup_rule.evaluation.methods.base import Method
from unsup_rule.evaluation.methods.fixed import KMeans, Pixels, PrincipalComponents
from unsup_rule.evaluation.methods.prototypes import Prototypes
from unsup_rule.evaluation.methods.rule import Untrained
from unsup_rule.evaluation.methods.supervised import Supervised

# Baselines by the name that gin files use. "rule" and optimizers come with what they need.
BASELINES: dict[str, Callable[[], Method]] = {
  "untrained": Untrained,
  "supervised": Supervised,
  "vae": VAE,
  "autoencoder": Autoencoder,
  "prototypes": Prototypes,
  "inputs": Pixels,
  "pca": PrincipalComponents,
  "kmeans": KMeans,
}
