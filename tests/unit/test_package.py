"""What `import unsup_rule` gives."""

import subprocess
import sys
import textwrap

import pytest

import unsup_rule


@pytest.mark.parametrize("name", ["MLP", "MLPTaskFamily", "RidgeProbe", "UnsupervisedRule"])
def test_public_names_are_found_where_they_live(name):
  assert getattr(unsup_rule, name).__name__ == name
  assert name in dir(unsup_rule)


def test_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'Rule'"):
    _ = unsup_rule.Rule


@pytest.mark.slow
def test_a_rule_is_applied_without_the_library():
  """The core needs no more than jax, numpy, scikit-learn and tqdm."""
  code = """
    import sys
    OTHERS = {"absl", "chex", "flax", "fontTools", "gin", "haiku", "learned_optimization",
              "matplotlib", "msgpack", "optax", "PIL", "ray", "tensorboard", "tensorflow"}
    class Missing:
      def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OTHERS:
          raise ModuleNotFoundError(name, name=name)
    sys.meta_path.insert(0, Missing())
    from unsup_rule import UnsupervisedFeatures
    import numpy as np
    X = np.random.default_rng(0).normal(size=(40, 6))
    print(UnsupervisedFeatures(hidden=(8,), steps=2).fit_transform(X).shape)
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
  )
  assert (done.returncode, done.stdout) == (0, "(40, 32)\n"), done.stderr
