"""Without labels first, by the rule; then with a few, by any optimizer of learned_optimization.

python examples/fine_tuning.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from learned_optimization.learned_optimizers import base as learned_optimizers
from sklearn.datasets import load_digits

import unsup_rule


def main(steps: int = 200, labelled: int = 100) -> dict[str, float]:
  """Accuracy on 8x8 digits after supervised training from two beginnings."""
  digits = load_digits()
  x, labels = jnp.asarray(digits.data / 16), jnp.asarray(digits.target)
  mlp = unsup_rule.MLP(n_inputs=64, hidden=(48,), n_outputs=32)
  lopt = learned_optimizers.LearnableAdam(initial_lr=1e-3)
  optimizer = lopt.opt_fn(lopt.init(jax.random.PRNGKey(0)))

  def logits(params, x):
    return mlp.features(params["mlp"], x) @ params["head"]

  def loss(params):
    all_logits = logits(params, x[:labelled])
    return optax.softmax_cross_entropy_with_integer_labels(all_logits, labels[:labelled]).mean()

  @jax.jit
  def step(state):
    value, gradient = jax.value_and_grad(loss)(optimizer.get_params(state))
    return optimizer.update(state, gradient, loss=value)

  accuracy = {}
  for name, rule_steps in (("from random weights", 0), ("from the rule", None)):
    features = unsup_rule.UnsupervisedFeatures((48,), steps=rule_steps, standardize=False)
    features.fit(np.asarray(x))  # All rows, no labels.
    params = {
      "mlp": jax.tree.map(jnp.asarray, features.params_),
      "head": jnp.zeros((mlp.n_outputs, 10)),
    }
    state = optimizer.init(params, num_steps=steps)
    for _ in range(steps):
      state = step(state)
    predicted = jnp.argmax(logits(optimizer.get_params(state), x[labelled:]), axis=1)
    accuracy[name] = float(jnp.mean(predicted == labels[labelled:]))
    print(f"{name:20} {accuracy[name]:.3f}")
  return accuracy


if __name__ == "__main__":
  main()
