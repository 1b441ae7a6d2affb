"""A learner in a thread of the test's process, and gradients sent to it by hand."""

import contextlib
import threading

import jax
import meta_problems
import numpy as np
from learned_optimization import outer_train
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.distributed import courier, identity
from unsup_rule.distributed.learner import LearnerSession
from unsup_rule.distributed.server import Contribution

SETTINGS = {
  "summary_every_n": 2,
  "num_steps": 4,
  "num_seconds": 0.0,
  "trainer_batch_size": 2,
  "staleness": 1,
}
TEXT = "# The configuration.\n"


class Learner:
  """A `LearnerSession` that trains in a thread; `result` holds what it returned or raised."""

  def __init__(self, folder, name="learner", learning_rate=0.125, **settings):
    folder.mkdir(exist_ok=True)
    self.session = LearnerSession(
      folder,
      name,
      2,
      lambda: meta_problems.learner(learning_rate)[1],
      TEXT,
      {**SETTINGS, **settings},
    )
    self.client = courier.Client(name)
    self.result = None
    self._thread = threading.Thread(target=self._run)

  def _run(self):
    try:
      self.result = self.session.train()
    except BaseException as error:
      self.result = error

  def start(self):
    """Returns when the server answers, or the learner has ended."""
    self._thread.start()
    while self.session._server is None or self.session._server._server is None:
      self._thread.join(0.01)
      if not self._thread.is_alive():
        break
    return self

  def join(self, worker=0, **versions):
    """Joins as a worker; returns the incarnation."""
    return self.client.join(worker, {**identity.of_this_process(TEXT), **versions}, {"pid": 7})

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
      with contextlib.suppress(courier.UnreachableError):
        self.client.stop()
      self.finish()


class Hand:
  """A worker played by the test."""

  def __init__(self, learner, worker=0):
    self.learner, self.worker = learner, worker
    self.incarnation = learner.join(worker)
    self.number = -1
    self.reply = learner.client.exchange(worker, self.incarnation)

  def send(self, value=1.0, step=None, epoch=None, number=None, loss=0.5):
    """Sends a gradient of `value` everywhere, by default of the newest theta."""
    self.number = self.number + 1 if number is None else number
    self.reply = self.learner.client.exchange(
      self.worker,
      self.incarnation,
      Contribution(
        number=self.number,
        epoch=self.reply.epoch if epoch is None else epoch,
        step=self.reply.step if step is None else step,
        gradient=None if value is None else gradient(value, self.worker, loss),
        losses={"set": [loss]},
      ),
    )
    return self.reply


def gradient(value, worker=0, loss=0.5, gen_id="fake_initial_gen_id"):
  """What the library's worker sends."""
  lopt, _ = meta_problems.learner()
  theta = lopt.init(jax.random.PRNGKey(0))
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
