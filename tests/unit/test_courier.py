"""The stand-in for courier, within one process; across processes see test_launch_faults."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest
from learned_optimization import distributed

from unsup_rule.distributed import courier
from unsup_rule.errors import UnsupRuleError


@pytest.fixture
def server():
  made = courier.Server("adder", port=1234)
  made.Bind("add", lambda a, b=1: a + b)
  made.Start()
  yield made
  made.Stop()


def test_a_client_calls_by_name_and_by_port(server):
  assert (server.address, server.port) == ("adder", 1234)
  assert courier.Client("adder").add(2) == 3
  assert courier.Client("localhost:1234").add(2, b=5) == 7


def test_errors_reach_the_caller(server):
  with pytest.raises(TypeError):
    courier.Client("adder").add("a", 1)
  with pytest.raises(AttributeError, match="no method 'subtract'; it has: add"):
    courier.Client("adder").subtract(1)


def test_join_returns_after_stop_and_nobody_answers_any_more(server):
  waiting = threading.Thread(target=server.Join)
  waiting.start()
  assert waiting.is_alive()
  server.Stop()
  waiting.join(5)
  assert not waiting.is_alive()
  with pytest.raises(courier.UnreachableError, match="no server 'adder' in this process") as error:
    courier.Client("adder", call_timeout=1).add(1)
  # The library takes a RuntimeError for lack of memory, and tries for ever.
  assert not isinstance(error.value, RuntimeError)
  assert isinstance(error.value, ConnectionError)
  assert isinstance(error.value, UnsupRuleError)


def test_a_host_answers_in_bytes_only_once_the_server_has_started(server, monkeypatch):
  monkeypatch.setattr(courier, "_WAIT_FOR_START_SECONDS", 0.05)
  host = courier.Host()
  # These bytes would fail to open.
  assert host.call("not there yet", "add", b"no pickle") is None
  reply = host.call("adder", "add", courier.packed(((jnp.ones(2),), {})))
  succeeded, result = courier.pickle.loads(reply)
  assert succeeded
  assert isinstance(result, np.ndarray)
  np.testing.assert_array_equal(result, [2, 2])


def test_a_host_passes_errors_on_that_do_not_survive_pickling(server):
  class LocalError(Exception):
    pass

  def fail():
    raise LocalError("why\nand where")

  server.Bind("fail", fail)
  succeeded, error = courier.pickle.loads(courier.Host().call("adder", "fail", b"\x80\x04)}\x86."))
  assert not succeeded
  assert type(error) is UnsupRuleError
  assert str(error) == "LocalError: why"


def test_the_librarys_own_learner_and_worker_talk_through_it():
  learner = distributed.AsyncLearner("run", {"w": 1.0}, 0, batch_size=2, staleness=1)
  worker_class = getattr(distributed, "DistributedWorker", None) or distributed.AsyncWorker
  worker = worker_class("run", 3)
  step, weights = worker.get_weights()
  assert (step, weights) == (0, {"w": 1.0})
  worker.put_grads(step, "first")
  worker.put_grads(step, "second")
  steps, gradients, *_ = learner.gather_grads()
  assert (steps, gradients) == ((0, 0), ("first", "second"))
