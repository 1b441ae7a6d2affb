"""Ray actors: each runs one role of a run, and meanwhile answers calls to what that role serves.

Roles, arguments and results travel as pickled bytes, which the receiver opens itself: Ray repeats
calls to a process that it starts anew, and would import the library there before that is set up.
Arrays of jax arrive as arrays of numpy.
"""

import contextlib
import pickle
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, Protocol, TypeVar

import jax
import numpy as np

from unsup_rule.errors import UnsupRuleError

if TYPE_CHECKING:
  from ray.actor import ActorHandle

NAMESPACE = "unsup-rule"
CALLS_AT_ONCE = 16  # Threads of an actor that answer calls.
# An actor that was killed needs about half a minute until it answers again.
DEADLINE_SECONDS = 180.0
_WAIT_FOR_START_SECONDS = 1.0
_RETRY_SECONDS = 0.3

Served = TypeVar("Served")
Served_co = TypeVar("Served_co", covariant=True)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Serve = Callable[[object], None]


class UnreachableError(UnsupRuleError, ConnectionError):
  """An actor gave no answer in time."""


class Role(Protocol):
  """What an actor does. It is pickled, and may run several times in one process."""

  def run(self, serve: Serve) -> object:
    """Does the work, and gives `serve` the object whose methods others may call."""
    ...


class Caller(Protocol[Served_co]):
  """Calls the methods of an object that may live in another process."""

  def call(
    self,
    method: Callable[Concatenate[Served_co, Parameters], Result],
    *arguments: Parameters.args,
    **keywords: Parameters.kwargs,
  ) -> Result:
    """Returns what `method`, named as a function of the class, returns there."""
    ...


class Host:
  """The Ray actor. Its concurrency group `call` takes `call` and `ping`; `run` the default one."""

  def __init__(self):
    self._service: object = None
    self._serving = threading.Event()
    self._attempt = -1
    self._result: object = None
    self._error: Exception | None = None

  def run(self, attempt: int, role: bytes) -> object:
    """Runs a role; returns the same again for the same attempt.

    Ray repeats a call after a break of the network that this process has outlived.

    Args:
      attempt: number of the start, as the driver counts them.
      role: pickled.
    """
    if attempt != self._attempt:
      self._attempt, self._result, self._error = attempt, None, None
      try:
        self._result = pickle.loads(role).run(self._serve)
      except Exception as error:
        self._error = error
    if self._error is not None:
      raise self._error
    return self._result

  def call(self, method: str, payload: bytes) -> bytes | None:
    """Calls what the role serves; returns pickled (whether it succeeded, result or error).

    None while nothing is served: the caller asks again, and holds no thread meanwhile.
    """
    if not self._serving.wait(_WAIT_FOR_START_SECONDS):
      return None
    try:
      arguments, keywords = pickle.loads(payload)
      return packed((True, getattr(self._service, method)(*arguments, **keywords)))
    except Exception as error:
      return packed((False, _portable(error)))

  def ping(self) -> None:
    """Answers."""

  def _serve(self, service: object) -> None:
    self._service = service
    self._serving.set()


class Remote(Generic[Served]):
  """A `Caller` of what the actor of a name serves. The actor need not be there yet."""

  def __init__(
    self, name: str, deadline_seconds: float = DEADLINE_SECONDS, actor: "ActorHandle | None" = None
  ):
    """Makes a caller whose calls give up after the deadline.

    Args:
      name: of the actor.
      deadline_seconds: of a call, however often it is repeated.
      actor: Ray's handle of it; without one each call asks Ray's control process for it.
    """
    self._name, self._deadline, self._actor = name, deadline_seconds, actor

  def call(
    self,
    method: Callable[Concatenate[Served, Parameters], Result],
    *arguments: Parameters.args,
    **keywords: Parameters.kwargs,
  ) -> Result:
    """Calls until there is an answer: a call is repeated where its actor dies meanwhile.

    Raises:
      UnreachableError: there is none before the deadline.
    """
    name, payload = method.__name__, packed((arguments, keywords))
    ends, reason = time.monotonic() + self._deadline, "it has not started"
    while (left := ends - time.monotonic()) > 0:
      reply, reason = self._ask(name, payload, left)
      if reply is not None:
        succeeded, result = pickle.loads(reply)
        if succeeded:
          return result
        raise result
      time.sleep(min(_RETRY_SECONDS, max(left, 0)))
    raise UnreachableError(
      f"no answer from '{self._name}' to {name} for {self._deadline:g} s: {reason}; see the logs "
      "of its process"
    )

  def _ask(self, method: str, payload: bytes, seconds: float) -> tuple[bytes | None, str]:
    """Calls once; returns the reply, or None and the reason."""
    # Slow, and not needed by those who only read settings.
    import ray
    from ray import exceptions

    # Otherwise ray.get_actor would start a cluster of its own.
    if not ray.is_initialized():
      raise UnreachableError(f"Ray is not running to look for '{self._name}'; start it first")
    try:
      actor = self._actor or ray.get_actor(self._name, namespace=NAMESPACE)
      call = actor.call.options(concurrency_group="call", max_task_retries=0)
      reply: bytes | None = ray.get(call.remote(method, payload), timeout=seconds)  # pyright: ignore
      return reply, "it has not started"
    except ValueError:
      return None, "there is no such actor"
    except exceptions.GetTimeoutError:
      return None, "it does not answer"
    except exceptions.RayError as error:
      # Of the actor, of its node, or of what the node held: Ray starts it anew, or says so itself.
      return None, f"its process is gone ({type(error).__name__})"


def packed(tree: object) -> bytes:
  """Returns a tree in the form that travels."""
  plain = jax.tree_util.tree_map(
    lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, tree
  )
  return pickle.dumps(plain, protocol=pickle.HIGHEST_PROTOCOL)


def _portable(error: Exception) -> Exception:
  """Returns the error, or one of the same text where it does not survive pickling."""
  with contextlib.suppress(Exception):
    pickle.loads(pickle.dumps(error))
    return error
  return UnsupRuleError(f"{type(error).__name__}: {error}".split("\n", 1)[0])
