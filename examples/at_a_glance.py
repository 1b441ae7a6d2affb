"""The rule at a glance, one figure: what first-layer units look for, and where the digits lie.

python examples/at_a_glance.py at_a_glance.png
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

import unsup_rule

STEPS = (0, 10, 30, 100)
SIDE, FIELDS = 8, 5  # pixels of an image, receptive fields in a row


def train(rule, mlp, params, x, key):
  """The parameters after each of STEPS, from batches of 128 rows."""

  def step(params, t_and_key):
    t, key = t_and_key
    rows = jax.random.randint(key, (128,), 0, len(x))
    params = unsup_rule.step(rule, params, x[rows], t)
    return params, params

  keys = jax.random.split(key, STEPS[-1])
  _, after = jax.lax.scan(step, params, (jnp.arange(STEPS[-1]), keys))
  return [jax.tree.map(lambda leaf, t=t: leaf[t - 1], after) if t else params for t in STEPS]


def ten_shot(features, labels):
  """Mean accuracy of ridge classifiers, each fitted to ten labelled digits a class."""
  draws = StratifiedShuffleSplit(20, train_size=100, random_state=0)
  probe = RidgeClassifierCV(np.logspace(-3, 3, 13))
  return cross_val_score(probe, features, labels, cv=draws).mean()


def tiled(weights):
  """Incoming weights of the first units as small images, each scaled to its own range."""
  canvas = np.ones([FIELDS * (SIDE + 1) - 1] * 2)
  for number, field in enumerate(weights.T[: FIELDS**2]):
    row, column = np.array(divmod(number, FIELDS)) * (SIDE + 1)
    canvas[row : row + SIDE, column : column + SIDE] = (
      (field - field.min()) / np.ptp(field)
    ).reshape(SIDE, SIDE)
  return canvas


def draw(weights, embeddings, labels, accuracy):
  """Receptive fields above, the embedding below, a column for each step."""
  figure = Figure(figsize=(2.6 * len(STEPS), 5.6), layout="constrained")
  axes = figure.subplots(2, len(STEPS))
  for (above, below), step, w, z, score in zip(
    axes.T, STEPS, weights, embeddings, accuracy, strict=True
  ):
    above.set_title("untrained" if step == 0 else f"after {step} steps")
    above.imshow(tiled(w), cmap="gray")
    points = PCA(2, random_state=0).fit_transform(z)
    dots = below.scatter(*points.T, c=labels, cmap="tab10", s=5, linewidths=0)
    below.set_xlabel(f"10-shot accuracy {score:.2f}")
    below.margins(0.03)
    for one in (above, below):
      one.set(xticks=[], yticks=[])
      one.spines[:].set_visible(False)
  axes[0, 0].set_ylabel("what first-layer units look for")
  axes[1, 0].set_ylabel("the embedding, in the plane")
  figure.legend(*dots.legend_elements(), loc="outside right lower", frameon=False, title="digit")
  return figure


def main(path=None):
  """Trains a base model on half of the digits; accuracy on the other half, by steps."""
  digits = load_digits()
  x, labels = jnp.asarray(digits.data / 16, jnp.float32), digits.target
  seen, rest = x[::2], x[1::2]
  mlp = unsup_rule.MLP(SIDE**2, (64, 64), 32)
  keys = jax.random.split(jax.random.PRNGKey(0))
  rule = unsup_rule.pretrained()
  models = jax.jit(train, static_argnums=1)(rule, mlp, mlp.init(keys[0]), seen, keys[1])
  embeddings = [np.asarray(mlp.features(params, rest)) for params in models]
  accuracy = [ten_shot(embedding, labels[1::2]) for embedding in embeddings]
  for step, score in zip(STEPS, accuracy, strict=True):
    print(f"step {step:3}: {score:.3f}")
  if path:
    weights = [np.asarray(params.layers[0].w) for params in models]
    draw(weights, embeddings, labels[1::2], accuracy).savefig(
      path, dpi=90, metadata={"Software": None}
    )
  return dict(zip(STEPS, accuracy, strict=True))


if __name__ == "__main__":
  main(*sys.argv[1:2])
