"""Many workers played by one process: they send gradients of noise as fast as they are answered."""

import dataclasses
import pickle

import jax
import numpy as np
from learned_optimization.outer_train import DataForWorker, GradientsFromWorker
from learned_optimization.outer_trainers import gradient_learner

from unsup_rule.compat import library
from unsup_rule.distributed import actors, identity, process
from unsup_rule.distributed.server import Contribution, GradientServer, Reply


@dataclasses.dataclass(frozen=True)
class SimulatorRole(process.RunRole):
  """Plays workers until the learner has no more work for any of them.

  Attributes:
    learner: name of the learner's actor.
    first: index of the first worker.
    number: of workers.
  """

  learner: str
  first: int
  number: int

  def run(self, serve: actors.Serve) -> None:
    """Plays."""
    del serve
    import ray

    self.set_up(f"simulator_{self.first}")
    learner = actors.Remote[GradientServer](self.learner)
    versions = identity.of_this_process(self.config_text)
    restarts = [
      learner.call(GradientServer.join, self.first + index, versions, {})
      for index in range(self.number)
    ]
    reply = learner.call(GradientServer.exchange, self.first, restarts[0])
    assert reply is not None
    gradient = _noise(pickle.loads(reply.weights), self.first)
    call = ray.get_actor(self.learner, namespace=actors.NAMESPACE).call
    send = call.options(concurrency_group="call").remote
    sent = [0] * self.number
    waiting = {}

    def answer(index: int, reply: Reply) -> None:
      contribution = Contribution(
        sent[index], reply.learner_restart, reply.step, gradient, {"simulated": [1.0]}
      )
      sent[index] += 1
      arguments = self.first + index, restarts[index], contribution
      waiting[send("exchange", actors.packed((arguments, {})))] = index

    for index in range(self.number):
      answer(index, reply)
    while waiting:
      (done,), _ = ray.wait(list(waiting), num_returns=1)
      index = waiting.pop(done)
      succeeded, result = pickle.loads(ray.get(done))
      if not succeeded:
        raise result
      if result is not None:
        answer(index, result)


def _noise(data: DataForWorker, seed: int) -> GradientsFromWorker:
  rng = np.random.default_rng(seed)
  assert data.worker_weights is not None
  gradient = jax.tree_util.tree_map(
    lambda leaf: rng.normal(0, 1e-3, np.shape(leaf)).astype(np.float32), data.worker_weights.theta
  )
  aggregated = library.make(
    gradient_learner.AggregatedGradient,
    theta_grads=gradient,
    theta_model_state=None,
    mean_loss=np.float32(1),
  )
  return library.make(
    GradientsFromWorker,
    outer_trainer_grads=aggregated,
    worker_id=seed,
    total_inner_steps=0,
    metrics={},
    gen_id=data.gen_id,
  )
