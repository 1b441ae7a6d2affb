"""The rule's change as the gradient of other optimizers: what each does with the shipped theta.

python examples/other_optimizers.py
"""

import jax
import jax.numpy as jnp
from learned_optimization.learned_optimizers import base as learned_optimizers
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import unsup_rule


def main(steps: int = 50, labelled: int = 100) -> dict[str, float]:
  """Accuracy of a probe from few labels after some steps on 8x8 digits, by optimizer."""
  digits = load_digits()
  x, labels = jnp.asarray(digits.data / 16), digits.target
  mlp = unsup_rule.MLP(n_inputs=64, hidden=(48,), n_outputs=32)
  rule = unsup_rule.pretrained()
  key = jax.random.PRNGKey(0)
  accuracy = {}

  def measure(name, optimizer):
    @jax.jit
    def step(state, key):
      rows = jax.random.randint(key, (32,), 0, len(x))
      activations = mlp.apply(optimizer.get_params(state), x[rows])
      return optimizer.update(state, model_state=activations)

    state = optimizer.init(mlp.init(key), num_steps=steps)
    for step_key in jax.random.split(key, steps):
      state = step(state, step_key)
    features = mlp.features(optimizer.get_params(state), x)
    probe = LogisticRegression(max_iter=1000).fit(features[:labelled], labels[:labelled])
    accuracy[name] = probe.score(features[labelled:], labels[labelled:])
    print(f"{name:24} {accuracy[name]:.3f}")

  measure("the rule's own step", rule.optimizer())
  # A learned optimizer as the step is meta-trained along with the rule (theta is then {"rule": ..,
  # "step": ..}); here it keeps its initial theta and the rule the shipped one.
  for step in (
    learned_optimizers.LearnableSGD(initial_lr=rule.schedule.learning_rate),
    learned_optimizers.LearnableSGDM(initial_lr=rule.schedule.learning_rate / 10),
    learned_optimizers.LearnableAdam(initial_lr=1e-3),
  ):
    composed = rule.learned_optimizer(inner_optimizer=step)
    theta = {"rule": rule.theta, "step": step.init(key)}
    measure(type(step).__name__, composed.opt_fn(theta))
  return accuracy


if __name__ == "__main__":
  main()
