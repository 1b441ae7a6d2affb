"""A frozen network as an `nn.Sequential` of PyTorch."""

from collections.abc import Sequence

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from unsup_rule.exports.network import Plain


class Standardize(nn.Module):
  """(x - mean - rest) / scale, in the precision of the inputs, then in that of the weights."""

  def __init__(self, network: Plain):
    super().__init__()
    for name in ("mean", "rest", "scale"):
      self.register_buffer(name, torch.tensor(getattr(network, name)))

  def forward(self, x):
    """Standardises rows [B, n_0]."""
    return ((x - self.mean - self.rest) / self.scale).to(self.scale.dtype)


class SideBySide(nn.Module):
  """Layers one after the other, of which each gives a part of the result, as do the inputs."""

  def __init__(self, inputs: tuple[np.ndarray, np.ndarray], layers: Sequence[nn.Module]):
    super().__init__()
    for name, value in zip(("mean", "scale"), inputs, strict=True):
      self.register_buffer(name, torch.tensor(value))
    self.layers = nn.ModuleList(layers)

  def forward(self, x):
    """Rows [B, n_0] -> [B, n_0 + n_1 + ... + n_L]."""
    found = [(x - self.mean) * self.scale]
    for layer in self.layers:
      x = layer(x)
      found.append(x)
    return torch.cat(found, dim=1)


class Step(nn.Module):
  """1 above 0, else 0."""

  def forward(self, x):
    """Applies it to every number."""
    return (x > 0).to(x.dtype)


_NONLINEARITIES = {
  "relu": nn.ReLU,
  "leaky_relu": nn.LeakyReLU,  # Slopes of 0.01, alpha of 1: as jax has them.
  "elu": nn.ELU,
  "softplus": nn.Softplus,
  "swish": nn.SiLU,
  "tanh": nn.Tanh,
  "sigmoid": nn.Sigmoid,
  "step": Step,
}


def build(network: Plain) -> nn.Sequential:
  """The network, in evaluation mode."""
  layers = []
  for w_MxN, b_N in network.layers:
    linear = nn.Linear(*w_MxN.shape)
    with torch.no_grad():
      linear.weight.copy_(torch.tensor(np.ascontiguousarray(w_MxN.T)))
      linear.bias.copy_(torch.tensor(b_N))
    layers.append([linear, _NONLINEARITIES[network.nonlinearity]()])
  above: list[nn.Module] = [module for layer in layers for module in layer]
  if network.inputs is not None:
    above = [SideBySide(network.inputs, [nn.Sequential(*layer) for layer in layers])]
  return nn.Sequential(Standardize(network), *above).eval()
