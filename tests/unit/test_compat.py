"""The compatibility layer: imports, estimators and the trainer, on whichever library is installed.

Tests of the import run in a process of their own, since modules are imported once.
"""

import itertools
import os
import subprocess
import sys
import textwrap
import weakref
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learned_optimization import distributed
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.outer_trainers import gradient_learner as library_learner
from learned_optimization.outer_trainers import truncated_pes, truncation_schedule
from learned_optimization.tasks import base as tasks_base
from learned_optimization.tasks import quadratics
from learned_optimization.tasks.datasets import base as datasets_base

from unsup_rule import compat
from unsup_rule.compat import library
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import estimators, gin_files, settings
from unsup_rule.meta.segments import segment_of


def _python(code: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    capture_output=True,
    text=True,
    timeout=300,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )


def test_library_imports_without_tensorflow_and_without_noise():
  done = _python("""
    import sys
    import unsup_rule
    from learned_optimization import outer_train, summary
    assert callable(outer_train.run_train)
    slow = {"tensorflow", "tensorflow_datasets", "flax.metrics.tensorboard", "courier"}
    print(sorted(slow & set(sys.modules)))
  """)
  assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_package_import_leaves_the_library_alone():
  done = _python("""
    import sys
    import unsup_rule
    library = ("learned_optimization", "flax")
    print([name for name in sys.modules if name.partition(".")[0] in library])
  """)
  assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_flax_checkpoints_work_without_tensorflow(tmp_path):
  done = _python(f"""
    import sys
    import unsup_rule
    from learned_optimization import checkpoints
    import numpy as np
    path = {str(tmp_path / "state")!r}
    checkpoints.save_state(path, {{"a": np.arange(3)}})
    print(checkpoints.load_state(path, {{"a": np.zeros(3, int)}})["a"].tolist())
    from flax import io
    print(io.exists(path), "tensorflow" in sys.modules)
  """)
  assert (done.returncode, done.stdout) == (0, "[0, 1, 2]\nTrue False\n"), done.stderr


@pytest.mark.slow
def test_deferred_tensorflow_works_when_used_and_beside_the_real_one(tmp_path):
  done = _python(f"""
    import concurrent.futures
    import glob
    import sys
    import unsup_rule
    from learned_optimization import summary
    from learned_optimization.tasks.datasets import base
    stand_in = base.tf
    assert "tensorflow" not in sys.modules
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # The first use, from four threads.
      uses = [pool.submit(lambda: stand_in.constant([1, 2]).numpy().tolist()) for _ in range(4)]
    print([use.result() for use in uses])
    import tensorflow as tf
    import tensorflow.compat.v2 as tf2
    import tensorflow_datasets as tfds
    assert stand_in.constant is tf.constant and base.tfds.load is tfds.load
    assert isinstance(stand_in.compat.v2.constant(1), tf2.Tensor)
    writer = summary.JaxboardWriter({str(tmp_path)!r})
    writer.scalar("loss", 1.5, step=0)
    writer.flush()
    print(len(glob.glob({str(tmp_path)!r} + "/events*")))
  """)
  assert (done.returncode, done.stdout) == (0, f"{[[1, 2]] * 4}\n1\n"), done.stderr


def test_tensorflow_imported_first_is_left_alone():
  done = _python("""
    import sys, types
    sys.modules["tensorflow"] = real = types.ModuleType("tensorflow")
    real.__spec__ = types.SimpleNamespace()
    real.io = types.ModuleType("tensorflow.io")
    real.io.gfile = "its gfile"
    real.errors = types.SimpleNamespace(NotFoundError=KeyError)
    sys.modules["tensorflow.io"] = real.io
    import unsup_rule
    from flax import io
    print(io.gfile, sys.modules["tensorflow"] is real)
  """)
  assert (done.returncode, done.stdout) == (0, "its gfile True\n"), done.stderr


def test_missing_library_says_what_to_install():
  done = _python("""
    import sys
    class Hide:
      def __init__(self, finder): self.finder = finder
      def find_spec(self, name, path=None, target=None):
        if name != "learned_optimization":
          return self.finder.find_spec(name, path, target)
    sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
    import unsup_rule
    assert "jax" not in sys.modules
    unsup_rule.MLP(3)
    for use in ("import learned_optimization", "unsup_rule.compat.IS_HEAD"):
      try:
        exec(use)
      except ImportError as error:
        print(error)
  """)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == 2
  for line in lines:
    assert line.startswith("unsup_rule needs learned_optimization: run `pip install --no-deps ")
    assert "learned-optimization==0.0.1" in line


def test_the_library_imports_without_courier():
  # 0.0.1 imports courier at the top of the module, HEAD inside the functions that use it.
  learner = distributed.AsyncLearner(
    "name", weights=7, current_iteration=0, batch_size=1, staleness=1, start_server=False
  )
  assert learner.get_weights(0) == (0, 7)
  with pytest.raises(ModuleNotFoundError, match="courier"):
    learner.start_server()


class _Bowl(tasks_base.TaskFamily):
  """loss = |p|^2 + offset from p = (1, 1, 1), the offset 0 in training and 100 in outer_valid."""

  def __init__(self):
    super().__init__()
    self.datasets = datasets_base.Datasets(
      train=itertools.repeat(np.float32(0)),
      inner_valid=itertools.repeat(np.float32(np.nan)),
      outer_valid=itertools.repeat(np.float32(100)),
      test=itertools.repeat(np.float32(np.nan)),
    )

  def sample(self, key):
    return jnp.zeros(())

  def task_fn(self, task_params):
    class _Task(tasks_base.Task):
      def init(self, key):
        return {"p": jnp.ones(3)}

      def loss(self, params, key, data):
        return jnp.sum(params["p"] ** 2) + data

    return _Task()


_LEARNED_OPT = lopt_base.LearnableSGD()  # Its learning rate is 0.01 until trained.
_FAMILY = _Bowl()


@gin.configurable(module="test_compat")
def sample_bowl(key):
  del key
  return _FAMILY


def _weights() -> Any:
  """The learned optimizer's first theta, as estimators take it."""
  theta = _LEARNED_OPT.init(jax.random.PRNGKey(0))
  return library_learner.WorkerWeights(theta, None, library_learner.OuterState(jnp.asarray(0)))


def _constant(length: int) -> truncation_schedule.TruncationSchedule:
  return truncation_schedule.ConstantTruncationSchedule(length)


@pytest.mark.parametrize(
  ("build", "options", "rtol"),
  [
    (estimators.truncated_grad, {"unroll_length": 4}, 1e-4),
    (estimators.truncated_grad, {"unroll_length": 4, "steps_per_jit": 2}, 1e-4),
    (estimators.truncated_grad, {"unroll_length": 4, "remat": "sqrt"}, 1e-4),
    (estimators.truncated_pes, {"trunc_length": 4, "std": 0.1}, 0.2),
    (estimators.truncated_es, {"unroll_length": 4, "std": 0.1}, 0.2),
  ],
)
def test_estimators_take_the_meta_loss_on_a_second_batch_after_the_step(build, options, rtol):
  # The evolution strategies' error is that of 512 samples of the mean of a squared normal.
  num_tasks = 512 if "std" in options else 2
  estimator = build(_FAMILY, _LEARNED_OPT, _constant(100), num_tasks=num_tasks, **options)
  weights = _weights()
  state = estimator.init_worker_state(weights, jax.random.PRNGKey(1))
  out, _ = estimator.compute_gradient_estimate(weights, jax.random.PRNGKey(2), state, False)
  # A step of SGD multiplies |p|^2 = 3 by (1 - 2 lr)^2, and the meta-loss is taken after the step.
  factors = 0.98 ** np.array([2.0, 4.0, 6.0, 8.0])
  np.testing.assert_allclose(out.mean_loss, 100 + np.mean(3 * factors), rtol=1e-4)
  # The derivative by log lr of the mean of 3 (1 - 2 lr)^n over n = 2, 4, 6, 8, at lr = 0.01.
  exact = np.mean(3 * np.array([2.0, 4.0, 6.0, 8.0]) * factors / 0.98 * -0.02)
  np.testing.assert_allclose(out.grad["log_lr"], exact, rtol=rtol)


def test_segments_need_the_memory_of_the_square_root():
  """64 steps in 8 segments of 8: 16 inner states of 40 kB to keep in place of 64."""
  family = quadratics.FixedDimQuadraticFamily(dim=10_000)
  weights = _weights()

  def measured(remat):
    estimator: Any = estimators.truncated_grad(
      family, _LEARNED_OPT, _constant(100), num_tasks=1, unroll_length=64, remat=remat
    ).stock
    state = estimator.init_worker_state(weights, jax.random.PRNGKey(1))
    options = {"datas_list": estimator.get_datas()} if compat.IS_HEAD else {}

    def estimate(theta):
      arguments = (weights.replace(theta=theta), jax.random.PRNGKey(2), state, False)
      return estimator.compute_gradient_estimate(*arguments, **options)[0].grad

    compiled = jax.jit(estimate).lower(weights.theta).compile()
    return compiled(weights.theta)["log_lr"], compiled.memory_analysis().temp_size_in_bytes

  gradient, size = measured("sqrt")
  expected, size_without = measured("none")
  np.testing.assert_allclose(gradient, expected, rtol=1e-5)
  assert size < 0.5 * size_without


_QUADRATIC = quadratics.FixedDimQuadraticFamily(dim=10)


def test_an_estimate_by_back_propagation_is_one_program(compilations):
  """And the library's two programs give the same."""
  schedule = _constant(7)
  estimator: Any = estimators.truncated_grad(
    _QUADRATIC, _LEARNED_OPT, schedule, num_tasks=3, unroll_length=5
  )
  weights = _weights()
  state = estimator.init_worker_state(weights, jax.random.PRNGKey(1))
  key = jax.random.PRNGKey(2)
  compilations.clear()
  out, metrics = estimator.compute_gradient_estimate(weights, key, state)
  assert len(compilations) == 1
  assert metrics == {}
  expected, _ = estimator.stock.compute_gradient_estimate(
    weights, jax.random.fold_in(key, 0), jax.tree.map(lambda x: x[0], state)
  )
  assert len(compilations) > 2
  expected = expected.replace(unroll_state=jax.tree.map(lambda x: x[None], expected.unroll_state))
  assert np.abs(expected.grad["log_lr"]) > 1e-3
  for got, want in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_every_estimate_reads_new_batches():
  class Growing(_Bowl):
    def __init__(self):
      super().__init__()
      self.datasets.train = itertools.count(np.float32(0), np.float32(1))
      self.datasets.outer_valid = itertools.count(np.float32(0), np.float32(1))

  estimator = estimators.truncated_grad(
    Growing(), _LEARNED_OPT, _constant(100), num_tasks=2, unroll_length=2
  )
  weights = _weights()
  state = estimator.init_worker_state(weights, jax.random.PRNGKey(1))
  first, second = (
    estimator.compute_gradient_estimate(weights, jax.random.PRNGKey(2), state)[0].mean_loss
    for _ in range(2)
  )
  np.testing.assert_allclose(
    second - first, 4.0, rtol=1e-6
  )  # 2 tasks x 2 steps later in the stream.


def test_unknown_remat_of_a_truncation():
  with pytest.raises(UnsupRuleError, match="remat is 'log'; choose one of none, sqrt"):
    estimators.truncated_grad(
      _FAMILY, _LEARNED_OPT, _constant(4), num_tasks=1, unroll_length=4, remat="log"
    )


@pytest.mark.parametrize(("length", "segment"), [(1, 1), (7, 1), (20, 4), (36, 6), (100, 10)])
def test_segments_divide_the_truncation(length, segment):
  assert segment_of(length) == segment


def test_equal_arguments_share_one_estimator():
  arguments = {"num_tasks": 2, "unroll_length": 4}
  one = estimators.truncated_grad(_FAMILY, _LEARNED_OPT, _constant(10), **arguments)
  assert estimators.truncated_grad(_FAMILY, _LEARNED_OPT, _constant(10), **arguments) is one
  assert estimators.truncated_grad(_FAMILY, _LEARNED_OPT, _constant(11), **arguments) is not one
  assert estimators.truncated_grad(_Bowl(), _LEARNED_OPT, _constant(10), **arguments) is not one


def test_programs_of_estimators_beyond_the_bound_are_let_go_of():
  def bound(most):
    gin.clear_config()
    return settings.read(gin_files.parse((), [*_BINDINGS.strip().split("\n"), most]))

  def sampled(found, length):
    gin_files.bind([f"truncated_pes.trunc_length = {length}"])
    (estimator,) = found.sample_estimators(_LEARNED_OPT, key, 1)
    return estimator

  key = jax.random.PRNGKey(0)
  outer = library_learner.OuterState(jnp.asarray(0))
  weights = library_learner.WorkerWeights(_LEARNED_OPT.init(key), None, outer)
  found = bound("trainer.max_programs = 2")
  one, other = sampled(found, 1), sampled(found, 2)
  state = one.init_worker_state(weights, key)
  assert np.isfinite(one.compute_gradient_estimate(weights, key, state)[0].mean_loss)
  watched = [weakref.ref(x) for x in (one, one.stock, one.program, other)]
  del one, other
  sampled(found, 1)  # Which makes 2 the one used longest ago.
  in_use = sampled(found, 4)
  assert [x() is None for x in watched] == [False, False, False, True]
  sampled(bound("trainer.max_programs = 1"), 5)
  assert all(x() is None for x in watched)
  assert sampled(found, 4) is in_use


def test_one_program_is_compiled_beside_fewer_and_the_others_come_back():
  estimators.keep(3)
  family = quadratics.FixedDimQuadraticFamily(3)
  sampled = estimators.truncated_pes(
    family, _LEARNED_OPT, _constant(10), num_tasks=2, trunc_length=(1, 2, 4)
  )
  assert isinstance(sampled, estimators.SampledTruncations)
  key = jax.random.PRNGKey(0)
  state = sampled.init_worker_state(_weights(), key)
  first, second, third = sampled.estimators

  def loss(one):
    return one.compute_gradient_estimate(_weights(), key, state)[0].mean_loss

  def in_memory():
    return [one.has_program for one in sampled.estimators]

  loss_of_first = loss(first)
  loss(second)
  assert in_memory() == [False, True, False]  # To compile takes the room of three.
  loss(third)
  assert in_memory() == [False, False, True]
  assert loss(first) == loss_of_first
  assert in_memory() == [True, False, True]  # What was compiled before needs its own room alone.
  loss(second)
  assert in_memory() == [True, True, True]


_BINDINGS = """
run_train.lopt = @LearnableSGD()
run_train.num_steps = 3
run_train.num_estimators = 2
GradientLearner.theta_opt = @Adam()
build_gradient_estimators.sample_task_family_fn = @sample_bowl
build_gradient_estimators.gradient_estimator_fn = @truncated_pes
truncated_pes.num_tasks = 2
truncated_pes.trunc_length = 4
truncated_pes.trunc_sched = @ConstantTruncationSchedule()
ConstantTruncationSchedule.total_length = 10
"""


def test_settings_of_one_gin_file_in_both_versions():
  found = settings.read(gin_files.parse((), _BINDINGS.strip().split("\n")))
  assert (found.run.num_steps, found.run.num_estimators) == (3, 2)
  assert isinstance(found.run.lopt, lopt_base.LearnableSGD)
  built = found.sample_estimators(found.run.lopt, jax.random.PRNGKey(0), 2)
  assert [estimator.name for estimator in built] == ["TruncatedPES"] * 2
  learner = found.make_learner()
  theta = library.meta_params(learner, learner.init(jax.random.PRNGKey(0)))
  np.testing.assert_allclose(theta["log_lr"], np.log(0.01), rtol=1e-6)


@pytest.mark.skipif(compat.IS_HEAD, reason="HEAD's own estimators want a truncated step")
def test_an_estimator_of_the_library_itself():
  stock = "build_gradient_estimators.gradient_estimator_fn = @TruncatedPES"
  more = ["TruncatedPES.num_tasks = 2", "TruncatedPES.trunc_sched = @ConstantTruncationSchedule()"]
  found = settings.read(gin_files.parse((), [*_BINDINGS.strip().split("\n"), stock, *more]))
  (built,) = found.sample_estimators(found.run.lopt, jax.random.PRNGKey(0), 1)
  assert isinstance(built, truncated_pes.TruncatedPES)
