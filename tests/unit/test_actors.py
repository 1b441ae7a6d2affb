"""Roles in actors, without Ray; across processes see test_launch_faults."""

import dataclasses
import pickle
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

from unsup_rule.distributed import actors, launcher
from unsup_rule.errors import UnsupRuleError

_runs = []


class Adder:
  """What the role below serves."""

  def add(self, a, b=1):
    return a + b

  def fail(self):
    class LocalError(Exception):
      pass

    raise LocalError("why\nand where")


@dataclasses.dataclass
class Role:
  """Serves an adder and ends; as an error where it is told one."""

  error: Exception | None = None

  def run(self, serve):
    _runs.append(self)
    serve(Adder())
    if self.error:
      raise self.error
    return len(_runs)


@pytest.fixture
def host():
  _runs.clear()
  return actors.Host()


def _call(host, method, *arguments, **keywords):
  return pickle.loads(host.call(method, actors.packed((arguments, keywords))))


def test_a_role_serves_what_others_call(host):
  assert host.run(1, pickle.dumps(Role())) == 1
  assert _call(host, "add", 2) == (True, 3)
  assert _call(host, "add", 2, b=5) == (True, 7)


def test_an_attempt_that_is_repeated_returns_what_it_returned(host):
  assert [host.run(1, pickle.dumps(Role())) for _ in range(3)] == [1, 1, 1]
  # Started again on purpose, it runs again, in the same process.
  assert host.run(2, pickle.dumps(Role())) == 2
  error = pickle.dumps(Role(actors.UnreachableError("gone")))
  for _ in range(2):
    with pytest.raises(actors.UnreachableError, match="gone"):
      host.run(3, error)
  assert len(_runs) == 3


def test_errors_reach_the_caller(host):
  host.run(1, pickle.dumps(Role()))
  succeeded, error = _call(host, "add", "a", 1)
  assert (succeeded, type(error)) == (False, TypeError)
  succeeded, error = _call(host, "subtract", 1)
  assert (succeeded, type(error)) == (False, AttributeError)
  assert "'Adder' object has no attribute 'subtract'" in str(error)


def test_errors_that_do_not_survive_pickling_become_one_line(host):
  host.run(1, pickle.dumps(Role()))
  succeeded, error = _call(host, "fail")
  assert not succeeded
  assert type(error) is UnsupRuleError
  assert str(error) == "LocalError: why"


def test_a_host_opens_arguments_only_once_its_role_serves(host):
  # These bytes would fail to open.
  assert host.call("add", b"no pickle") is None
  host.run(1, pickle.dumps(Role()))
  succeeded, result = _call(host, "add", jnp.ones(2))
  assert succeeded
  assert isinstance(result, np.ndarray)
  np.testing.assert_array_equal(result, [2, 2])


def test_without_ray_nobody_is_found():
  with pytest.raises(actors.UnreachableError, match="Ray is not running") as error:
    actors.Remote[Adder]("adder", 1).call(Adder.add, 1)
  assert not isinstance(error.value, RuntimeError)
  assert isinstance(error.value, ConnectionError)
  assert isinstance(error.value, UnsupRuleError)


def test_whatever_ray_says_of_a_lost_node_counts_as_no_answer(monkeypatch):
  import ray

  errors = [ray.exceptions.NodeDiedError("gone"), ray.exceptions.ActorDiedError()]
  answers = mock.Mock(side_effect=[*errors, actors.packed((True, 3))])
  monkeypatch.setattr(ray, "is_initialized", lambda: True)
  monkeypatch.setattr(ray, "get", answers)
  assert actors.Remote[Adder]("adder", 5, mock.Mock()).call(Adder.add, 1, 2) == 3
  answers.side_effect = [ray.exceptions.NodeDiedError("gone")] * 9
  with pytest.raises(actors.UnreachableError, match=r"its process is gone \(NodeDiedError\)"):
    actors.Remote[Adder]("adder", 0.1, mock.Mock()).call(Adder.add, 1, 2)


def test_an_error_without_words_is_one_line_too():
  ray = mock.MagicMock()
  ray.exceptions.RayError, ray.exceptions.RayTaskError = ConnectionError, ConnectionResetError
  process = launcher.Process(ray, "somebody", Role())
  failed = ConnectionResetError()
  failed.cause = AssertionError()
  ray.get.side_effect = failed
  with pytest.raises(UnsupRuleError) as caught:
    process.outcome()
  assert str(caught.value) == "AssertionError"


def test_one_ping_at_a_time_is_under_way():
  ray = mock.MagicMock()
  ray.exceptions.RayError = ConnectionError
  process = launcher.Process(ray, "somebody", Role())
  sent = process.actor.ping.options.return_value.remote
  process.ping()
  assert sent.call_count == 1
  ray.wait.return_value = ([], ["under way"])
  process.ping()
  assert sent.call_count == 1
  ray.wait.return_value = (["answered"], [])
  ray.get.side_effect = ConnectionError
  process.ping()
  assert sent.call_count == 2
