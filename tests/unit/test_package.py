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
    CORE = {"jax", "jaxlib", "numpy", "sklearn", "tqdm", "unsup_rule"}
    THEIRS = {"cloudpickle", "joblib", "ml_dtypes", "narwhals", "opt_einsum", "scipy",
              "threadpoolctl", "typing_extensions"}
    tried = set()
    class Blocked:
      def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in CORE | THEIRS | sys.stdlib_module_names and not top.startswith("_"):
          tried.add(top)
          raise ModuleNotFoundError(name)
    sys.meta_path.insert(0, Blocked())
    from unsup_rule import UnsupervisedFeatures
    assert not tried, tried
    import numpy as np
    X = np.random.default_rng(0).normal(size=(40, 6))
    print(UnsupervisedFeatures(hidden=(8,), steps=2).fit_transform(X).shape)
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
  )
  assert (done.returncode, done.stdout) == (0, "(40, 32)\n"), done.stderr
