"""The rule and its baselines, behind the interface of `base`."""

from collections.abc import Callable

from unsup_rule.evaluation.methods.all_labels import AllLabels
from unsup_rule.evaluation.methods.autoencoders import VAE, Autoencoder, DenoisingAutoencoder
from unsup_rule.evaluation.methods.base import Method
from unsup_rule.evaluation.methods.best_step import BestStep
from unsup_rule.evaluation.methods.fixed import (
  BesideInputs,
  KernelPCA,
  KMeans,
  Pixels,
  PrincipalComponents,
  SparseCoding,
)
from unsup_rule.evaluation.methods.local import LocalLearning
from unsup_rule.evaluation.methods.prototypes import Prototypes
from unsup_rule.evaluation.methods.rule import Rule, RuleLayers, Untrained, UntrainedLayers
from unsup_rule.evaluation.methods.self_supervised import SCARF, VICReg
from unsup_rule.evaluation.methods.spectral import SpectralEmbedding
from unsup_rule.evaluation.methods.supervised import Supervised
from unsup_rule.evaluation.methods.transductive import LaplaceLearning, PoissonLearning
from unsup_rule.evaluation.methods.umap import UMAP
from unsup_rule.plugin.local import ForwardForward, KrotovHopfield, Sanger, SoftHebb

# The rule, read from its embedding as in the paper, or from all layers.
RULES: dict[str, type[Rule]] = {"rule": Rule, "rule_layers": RuleLayers}

# Methods that read what another one fits in another way: cells of both share models and programs.
READOUTS = {
  "rule_layers": "rule",
  "untrained_layers": "untrained",
  "kmeans512_inputs": "kmeans512",
}

LOCAL_STEPS = (10, 30, 100, 300, 1000)  # after which a hand-made rule is at its best or past it

# Baselines by the name that gin files use. Rules and optimizers come with what they need.
BASELINES: dict[str, Callable[[], Method]] = {
  "untrained": Untrained,
  "untrained_layers": UntrainedLayers,
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
  "kmeans512_inputs": lambda: BesideInputs(KMeans(clusters=512)),
  "sparse_coding": SparseCoding,
  "spectral": SpectralEmbedding,
  "umap": UMAP,
  "sanger": lambda: BestStep(LocalLearning(Sanger()), LOCAL_STEPS),
  "krotov_hopfield": lambda: BestStep(LocalLearning(KrotovHopfield()), LOCAL_STEPS),
  "softhebb": lambda: BestStep(LocalLearning(SoftHebb()), LOCAL_STEPS),
  "forward_forward": lambda: BestStep(LocalLearning(ForwardForward()), LOCAL_STEPS),
  "vae_best": lambda: BestStep(VAE()),
  "denoising": lambda: BestStep(DenoisingAutoencoder()),
  "scarf": lambda: BestStep(SCARF()),
  "vicreg": lambda: BestStep(VICReg()),
}

# References, in a block of their own: they see inputs they are tested on, or all train labels.
REFERENCES: dict[str, Callable[[], Method]] = {
  "laplace": LaplaceLearning,
  "poisson": PoissonLearning,
  "all_labels": AllLabels,
}
BASELINES |= REFERENCES
