"""A worker's part: what it sends, what it tells, how it finds a learner that was started anew."""

import jax
import meta_problems
import numpy as np
import pytest
from distributed_helpers import Hand, Learner, gradient

from unsup_rule.distributed import courier, library_loops, worker
from unsup_rule.distributed.worker import LearnerClient, NoMoreWork, WatchedEstimator
from unsup_rule.meta import streams


@pytest.fixture
def learner(tmp_path):
  settings = {"num_steps": 100, "trainer_batch_size": 1, "staleness": 8}
  with Learner(tmp_path / "run", **settings).start().stopping() as started:
    yield started


def _client(learner, index=0):
  return LearnerClient("learner", index, learner.join(index), {"pid": 7, "core": 1})


def _refused(learner):
  return {reason: n for reason, n in learner.client.report()["refused"].items() if n}


def test_each_gradient_costs_one_call(learner, monkeypatch):
  client = _client(learner)
  calls = []
  exchange = learner.session._server.exchange
  learner.session._server._server.Bind(
    "exchange", lambda *arguments: calls.append(arguments) or exchange(*arguments)
  )
  for _ in range(3):
    step, data = client.get_weights()
    assert data.worker_weights.theta is not None
    client.put_grads(step, gradient(1.0))
  client.get_weights()
  # The first one only fetches.
  assert [call[2] is None for call in calls] == [True, False, False, False]
  assert learner.client.report()["gradients"] == 3


def test_an_estimate_with_nan_is_reported_and_its_problems_start_anew(learner):
  client = _client(learner)
  step, data = client.get_weights()
  fake = meta_problems.FakeEstimator(bad_calls=(2,))
  watched = WatchedEstimator(fake, client)
  assert watched.task_family is fake.task_family
  key = jax.random.PRNGKey(0)
  state = watched.init_worker_state(data.worker_weights, key)

  output, _ = watched.compute_gradient_estimate(data.worker_weights, key, state)
  assert int(output.unroll_state["age"]) == 1
  assert client.losses == {"fake_family": [1.5]}
  client.put_grads(step, gradient(1.0))
  assert client.losses == {}

  output, _ = watched.compute_gradient_estimate(data.worker_weights, key, output.unroll_state)
  assert int(output.unroll_state["age"]) == 0
  assert np.isfinite(output.unroll_state["noise"]).all()
  # The library would send zeros in place of NaN.
  client.put_grads(step, gradient(0.0))
  assert _refused(learner) == {"not finite": 1}
  assert learner.client.report()["losses"] == {"fake_family": 1.5}


def test_a_worker_introduces_itself_to_a_learner_that_was_started_anew(tmp_path):
  settings = {"trainer_batch_size": 1, "staleness": 8}
  first = Learner(tmp_path / "run", num_steps=1, **settings).start()
  client = _client(first, 3)
  step, _ = client.get_weights()
  number = Hand(first, 0)
  number.send()
  assert first.finish()["state"] == "finished"
  with Learner(tmp_path / "run", num_steps=9, **settings).start().stopping() as second:
    # On step 0, which the new learner knows too.
    client.put_grads(step, gradient(1.0))
    report = second.client.report()
    assert report["workers"]["3"]["core"] == 1
    assert report["workers"]["3"]["gradients"] == 1
    client.put_grads(*_next(client))
    assert second.client.report()["workers"]["3"]["gradients"] == 2


def _next(client):
  step, _ = client.get_weights()
  return step, gradient(1.0)


def test_a_worker_leaves_when_the_run_has_ended_or_another_took_its_place(learner):
  old = _client(learner)
  old.get_weights()
  learner.join(0)
  with pytest.raises(NoMoreWork):
    old.put_grads(*_next(old))
  current = _client(learner, 1)
  current.get_weights()
  learner.client.stop()
  assert learner.finish()["state"] == "stopped"
  with pytest.raises(NoMoreWork):
    current.put_grads(0, gradient(1.0))


def test_a_worker_gives_up_after_the_deadline():
  client = LearnerClient("nobody", 0, 0, {})
  with pytest.raises(courier.UnreachableError, match="no server 'nobody'"):
    client.get_weights()


def test_the_librarys_loop_draws_from_our_stream(learner):
  """The same worker and start give the same choices, another start gives others."""

  class Enough(Exception):
    pass

  def keys_of(stream, incarnation):
    seen = []

    class Client:
      def get_weights(self):
        return 0, learner.session._server._weights

      def put_grads(self, step, value):
        if len(seen) >= 4:
          raise Enough

    def sample(learned_opt, key, num_gradient_estimators, **unused):
      seen.append(np.asarray(key).tolist())
      return [meta_problems.FakeEstimator() for _ in range(num_gradient_estimators)]

    np.random.seed(0)
    with pytest.raises(Enough):
      library_loops.train_worker(
        Client(),
        streams.worker_key(0, stream, incarnation),
        stream,
        sample,
        lopt=meta_problems.learner()[0],
        num_estimators=2,
        summary_every_n=0,
        stochastic_resample_frequency=1,
      )
    return seen

  first = keys_of(0, 0)
  assert keys_of(0, 0) == first
  for other in (keys_of(0, 1), keys_of(1, 0)):
    assert not {str(key) for key in other} & {str(key) for key in first}


def test_an_error_of_a_worker_is_no_runtime_error():
  # The library's run_train would take it for lack of memory, and try for ever.
  assert not issubclass(worker.WorkerFailedError, RuntimeError)
