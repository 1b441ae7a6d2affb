"""Each rule that comes with the package: whole, unchanged, and better than nothing."""

import jax
import numpy as np
import pytest
from rule_helpers import drawn_theta
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

import unsup_rule
from unsup_rule import UnsupervisedFeatures
from unsup_rule.rule.mlp import MLP
from unsup_rule.rule.structures import Params, Weights
from unsup_rule.weights.pretrained import names

# name -> eight numbers of an embedding after three applications. To record a new rule's, run this
# test: its failure shows them.
RECORDED = {
  "unsup_1": [0.8957, 0.3473, -0.5616, -0.7487, -0.441, -0.4852, 0.634, 0.7515],
  "unsup_2_small": [0.8479, 0.3685, -0.6584, -0.8431, -0.7341, 0.3949, 0.8107, 0.9336],
}


def embedding(rule):
  """Of fixed rows, by a base model whose weights no random number generator decides."""
  mlp = MLP(12, (10,), rule.sizes.output_size, "tanh")
  sizes = [(12, 10), (10, rule.sizes.output_size)]
  layers = [
    Weights(
      w=0.1 * np.sin(np.arange(m * n)).reshape(m, n).astype(np.float32),
      b=0.1 * np.cos(np.arange(n)).astype(np.float32),
      v=0.1 * np.cos(np.arange(m * n)).reshape(m, n).astype(np.float32),
    )
    for m, n in sizes
  ]
  x = np.sin(np.arange(6 * 12) ** 2).reshape(6, 12).astype(np.float32)
  optimizer = rule.optimizer()
  state = optimizer.init(Params.of_layers(layers))
  step = jax.jit(lambda s: optimizer.update(s, model_state=mlp.apply(s.params, x)))
  for _ in range(3):
    state = step(state)
  return np.asarray(mlp.features(state.params, x)).ravel()[:8]


@pytest.mark.parametrize("name", names())
def test_tree_fits_the_rule_it_makes(name):
  rule = unsup_rule.pretrained(name)
  like = jax.eval_shape(rule.learned_optimizer().init, jax.random.PRNGKey(0))
  assert jax.tree.structure(rule.theta) == jax.tree.structure(dict(like))
  drawn = drawn_theta(rule.sizes)
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).mean()), rule.theta, drawn)
  assert np.mean(jax.tree.leaves(moved)) > 0.01, "this theta was not trained"


@pytest.mark.parametrize("name", names())
def test_reproduces_a_recorded_output(name):
  found = embedding(unsup_rule.pretrained(name))
  assert name in RECORDED, f"record {[round(float(value), 4) for value in found]} for {name!r}"
  np.testing.assert_allclose(found, RECORDED[name], rtol=1e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_beats_random_initialisation(name):
  """10-shot accuracy on digits, mean over 20 draws, same initial weights."""
  x, labels = load_digits(return_X_y=True)
  x, test = x / 16, np.arange(len(x)) % 3 == 0
  steps = min(50, unsup_rule.pretrained(name).use.steps)

  def accuracy(steps):
    model = UnsupervisedFeatures((48,), rule=name, steps=steps, batch_size=32, standardize=False)
    features = model.fit(x[~test]).transform(x)
    scores = []
    for seed in range(20):
      random = np.random.default_rng(seed)
      rows = [random.permutation(np.flatnonzero(test & (labels == c)))[:20] for c in range(10)]
      fit, query = (np.concatenate([r[part] for r in rows]) for part in (slice(10), slice(10, 20)))
      probe = RidgeClassifier().fit(features[fit], labels[fit])
      scores.append(probe.score(features[query], labels[query]))
    return np.mean(scores)

  assert accuracy(steps) > accuracy(0) + 0.05
