"""The rule and its baselines, behind the interface of `base`."""

from collections.abc import Callable

from unsup_rule.evaluation.methods.all_labels import AllLabels
from unsup_rule.evaluation.methods.autoencoders import VAE, Autoencoder
from unsup_rule.evaluation.methods.base import Method
from unsup_rule.evaluation.methods.fixed import (
  KernelPCA,
  KMeans,
  Pixels,
  PrincipalComponents,
  SparseCoding,
)
from unsup_rule.evaluation.methods.prototypes import Prototypes
from unsup_rule.evaluation.methods.rule import Untrained
from unsup_rule.evaluation.methods.spectral import SpectralEmbedding
from unsup_rule.evaluation.methods.supervised import Supervised
from unsup_rule.evaluation.methods.transductive import LaplaceLearning, PoissonLearning

# Baselines by the name that gin files use. "rule" and optimizers come with what they need.
BASELINES: dict[str, Callable[[], Method]] = {
  "untrained": Untrained,
  "supervised": Supervised,
  "vae": VAE,
  "autoencoder": Autoencoder,
  "prototypes": Prototypes,
  "inputs": Pixels,
  "pca": PrincipalComponents,
  "pca_whitened": lambda: PrincipalComponents(whiten=True),
  "kernel_pca": KernelPCA,
  "kmeans": KMeans,
  "kmeans512": lambda: KMeans(clusters=512),
  "sparse_coding": SparseCoding,
  "spectral": SpectralEmbedding,
}

# References, in a block of their own: they see inputs they are tested on, or all train labels.
REFERENCES: dict[str, Callable[[], Method]] = {
  "laplace": LaplaceLearning,
  "poisson": PoissonLearning,
  "all_labels": AllLabels,
}
BASELINES |= REFERENCES
