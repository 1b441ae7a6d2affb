"""An `eqx.nn.MLP` trained by a shipped rule: weights in, weights out.

python examples/equinox_mlp.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import unsup_rule
from unsup_rule.features.frozen import freeze
from unsup_rule.rule.mlp import mlp_of
from unsup_rule.rule.structures import Params, Weights
from unsup_rule.weights.pretrained import Pretrained


def params_of(model: eqx.nn.MLP, key: jax.Array) -> Params:
  """Weights in. V, the weights of the way back, which the model has not, are drawn."""
  mlp = unsup_rule.MLP(model.in_size, (model.width_size,) * model.depth, model.out_size)
  pairs = zip(model.layers, mlp.init(key).layers, strict=True)
  return Params.of_layers([Weights(layer.weight.T, layer.bias, own.v) for layer, own in pairs])


def with_params(model: eqx.nn.MLP, params: Params, x: jax.Array) -> eqx.nn.MLP:
  """Weights out, with the normalisation of the layers frozen to the statistics of `x`."""
  network = freeze(mlp_of(params), params, x)
  new = [w.T for stack in network for w in stack.w] + [b for stack in network for b in stack.b]
  return eqx.tree_at(
    lambda m: [layer.weight for layer in m.layers] + [layer.bias for layer in m.layers], model, new
  )


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
  keys = jax.random.split(jax.random.PRNGKey(0), 3)
  model = eqx.nn.MLP(64, 32, 48, depth=1, final_activation=jax.nn.relu, key=keys[0])
  params = params_of(model, keys[1])
  trained = jax.jit(train, static_argnums=3)(unsup_rule.pretrained(), params, x, steps, keys[2])
  accuracy = {}
  for name, now in (("untrained", params), ("trained", trained)):
    features = jax.vmap(with_params(model, now, x))(x)
    probe = LogisticRegression(max_iter=1000).fit(features[:labelled], labels[:labelled])
    accuracy[name] = probe.score(features[labelled:], labels[labelled:])
    print(f"{name:10} {accuracy[name]:.3f}")
  return accuracy


if __name__ == "__main__":
  main()
