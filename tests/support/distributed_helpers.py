"""A learner in a thread of the test's process, and gradients sent to it by hand."""

import contextlib
import threading

import jax
import meta_problems
import numpy as np
from learned_optimization import outer_train
from learned_optimization.learned_optimizers import base as lopt_base
from learned_optimization.optimizers import base as opt_base
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.distributed import identity, learner
from unsup_rule.distributed.server import Contribution

RUN = {
  "summary_every_n": 2,
  "num_steps": 4,
  "num_seconds": 0.0,
  "trainer_batch_size": 2,
  "staleness": 1,
}
TEXT = "# The configuration.\n"


def settings(learning_rate=0.125, sample_estimators=None, **run):
  """Settings of a run of gradient descent on four parameters."""
  return meta_problems.settings(
    sample_estimators or (lambda lopt, key, number: [meta_problems.FakeEstimator()] * number),
    theta_opt=opt_base.SGD(learning_rate),
    **{**RUN, **run},
  )


class Here:
  """An `actors.Caller` of an object of this process; `calls` holds (method, arguments)."""

  def __init__(self, served):
    self.served, self.calls = served, []

  def call(self, method, *arguments, **keywords):
    """Calls the method of this name."""
    self.calls.append((method.__name__, arguments))
    return getattr(self.served, method.__name__)(*arguments, **keywords)


class Learner:
  """A learner that trains in a thread; `result` holds what it returned or raised."""

  def __init__(self, folder, **changes):
    folder.mkdir(exist_ok=True)
    self.session = learner.Learner(folder, settings(**changes), 2)
    self.server = self.session.server
    self.result = None
    self._serving = threading.Event()
    self._thread = threading.Thread(target=self._run)

  def _run(self):
    try:
      self.result = self.session.train(lambda unused_server: self._serving.set())
    except BaseException as error:
      self.result = error

  def start(self):
    """Returns when it serves, or has ended."""
    self._thread.start()
    while self._thread.is_alive() and not self._serving.wait(0.01):
      pass
    return self

  def join(self, worker=0, **versions):
    """Joins as a worker; returns the restart count."""
    return self.server.join(worker, {**identity.of_this_process(TEXT), **versions}, {"pid": 7})

  def finish(self):
    """Waits for the end; returns the result."""
    self._thread.join(60)
    assert not self._thread.is_alive(), "the learner hangs"
    return self.result

  @contextlib.contextmanager
  def stopping(self):
    """Stops it afterwards."""
    try:
      yield self
    finally:
      self.server.stop()
      self.finish()


class Hand:
  """A worker played by the test."""

  def __init__(self, learner, worker=0):
    self.learner, self.worker = learner, worker
    self.restart = learner.join(worker)
    self.number = -1
    self.reply = learner.server.exchange(worker, self.restart)

  def send(self, value=1.0, step=None, learner_restart=None, number=None, loss=0.5):
    """Sends a gradient of `value` everywhere, by default of the newest theta."""
    self.number = self.number + 1 if number is None else number
    self.reply = self.learner.server.exchange(
      self.worker,
      self.restart,
      Contribution(
        number=self.number,
        learner_restart=(
          self.reply.learner_restart if learner_restart is None else learner_restart
        ),
        step=self.reply.step if step is None else step,
        gradient=None if value is None else gradient(value, self.worker, loss),
        losses={"set": [loss]},
      ),
    )
    return self.reply


def gradient(value, worker=0, loss=0.5, gen_id=""):
  """What the library's worker sends."""
  theta = lopt_base.LearnableAdam().init(jax.random.PRNGKey(0))
  return outer_train.GradientsFromWorker(
    outer_trainer_grads=gradient_learner.AggregatedGradient(
      theta_grads=jax.tree_util.tree_map(lambda x: np.full_like(x, value), theta),
      theta_model_state=None,
      mean_loss=np.float32(loss),
    ),
    worker_id=np.asarray(worker),
    total_inner_steps=np.asarray(0),
    metrics={"mean||loss": np.float32(loss)},
    gen_id=gen_id,
  )
