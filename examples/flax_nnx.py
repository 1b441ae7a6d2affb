"""A stack of `nnx.Linear` trained by a shipped rule: weights in, weights out.

python examples/flax_nnx.py
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import unsup_rule
from unsup_rule.features.frozen import freeze
from unsup_rule.rule.mlp import mlp_of
from unsup_rule.rule.structures import Params, Weights
from unsup_rule.weights.pretrained import Pretrained


def stack(sizes: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Sequential:
  """`nnx.Linear` and `nnx.relu` in turn."""
  shapes = itertools.pairwise(sizes)
  return nnx.Sequential(
    *(layer for shape in shapes for layer in (nnx.Linear(*shape, rngs=rngs), nnx.relu))
  )


def linears(model: nnx.Sequential) -> list[nnx.Linear]:
  """The layers that have weights."""
  return [layer for layer in model.layers if isinstance(layer, nnx.Linear)]


def params_of(model: nnx.Sequential, key: jax.Array) -> Params:
  """Weights in. V, the weights of the way back, which the model has not, are drawn."""
  layers = linears(model)
  *hidden, top = [layer.out_features for layer in layers]
  own = unsup_rule.MLP(layers[0].in_features, tuple(hidden), top).init(key).layers
  pairs = zip(layers, own, strict=True)
  return Params.of_layers([Weights(nn.kernel[...], nn.bias[...], own.v) for nn, own in pairs])


def with_params(model: nnx.Sequential, params: Params, x: jax.Array) -> nnx.Sequential:
  """Weights out, with the normalisation of the layers frozen to the statistics of `x`."""
  new = nnx.clone(model)
  network = freeze(mlp_of(params), params, x)
  frozen = [pair for stack in network for pair in zip(stack.w, stack.b, strict=True)]
  for layer, (w, b) in zip(linears(new), frozen, strict=True):
    layer.kernel[...], layer.bias[...] = w, b
  return new


def train(rule: Pretrained, params: Params, x: jax.Array, steps: int, key: jax.Array) -> Params:
  """Applies the rule to batches of 32 rows."""

  def step(params, t_and_key):
    t, key = t_and_key
    rows = jax.random.randint(key, (32,), 0, len(x))
    return unsup_rule.step(rule, params, x[rows], t), None

  return jax.lax.scan(step, params, (jnp.arange(steps), jax.random.split(key, steps)))[0]


def main(steps: int = 100, labelled: int = 100) -> dict[str, float]:
  """Accuracy of a probe from few labels on 8x8 digits, before and after."""
  digits = load_digits()
  x, labels = jnp.asarray(digits.data / 16, jnp.float32), digits.target
  keys = jax.random.split(jax.random.PRNGKey(0))
  model = stack((64, 48, 32), nnx.Rngs(0))
  params = params_of(model, keys[0])
  trained = jax.jit(train, static_argnums=3)(unsup_rule.pretrained(), params, x, steps, keys[1])
  accuracy = {}
  for name, now in (("untrained", params), ("trained", trained)):
    features = with_params(model, now, x)(x)
    probe = LogisticRegression(max_iter=1000).fit(features[:labelled], labels[:labelled])
    accuracy[name] = probe.score(features[labelled:], labels[labelled:])
    print(f"{name:10} {accuracy[name]:.3f}")
  return accuracy


if __name__ == "__main__":
  main()
