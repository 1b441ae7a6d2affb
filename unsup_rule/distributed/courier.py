"""Stands for `courier`, the library's RPC package, which has no wheels for current Pythons; on Ray.

A `Server` lives in the process that makes it. In that process it is called directly. From others
it is reached through the Ray actor of the same name, a `Host`, which runs the code that makes the
server. So names resolve across a cluster, Ray starts a killed host anew, and no port is opened.

Arguments and results travel as pickled bytes, which the receiver opens only once its server has
started, hence after its imports are set up. Arrays of jax arrive as arrays of numpy.
"""

import importlib
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from unsup_rule.errors import UnsupRuleError

NAMESPACE = "unsup-rule"
CALLS_AT_ONCE = 16  # Threads of a host that answer calls.
# A host that was killed needs about half a minute until it answers again.
DEADLINE_SECONDS = 180.0
_WAIT_FOR_START_SECONDS = 1.0
_RETRY_SECONDS = 0.3

_servers: dict[str, "Server"] = {}
_changed = threading.Condition()


class UnreachableError(UnsupRuleError, ConnectionError):
  """A server gave no answer in time.

  No RuntimeError: the library takes those of its worker for lack of memory and tries for ever.
  """


class Server:
  """Functions that other processes can call by name, from `Start` to `Stop`."""

  def __init__(
    self, name: str | None = None, port: int | None = None, thread_pool_size: int = CALLS_AT_ONCE
  ):
    """Makes a server that nobody can call yet.

    Args:
      name: for clients, also in other processes.
      port: makes "localhost:<port>" another name, within this process; no port is opened.
      thread_pool_size: not used, a host has `CALLS_AT_ONCE` threads.
    """
    del thread_pool_size
    self._handlers: dict[str, Callable[..., Any]] = {}
    self._names = [str(name)] if name is not None else []
    self.port = port or 0
    if port is not None or name is None:
      self._names.append(f"localhost:{self.port}")
    self._stopped = threading.Event()

  @property
  def address(self) -> str:
    """What to give to `Client`."""
    return self._names[0]

  def Bind(self, method_name: str, handler: Callable[..., Any]) -> None:
    """Makes `handler` callable under `method_name`; also after `Start`."""
    self._handlers[method_name] = handler

  def Start(self) -> None:
    """Begins to answer."""
    with _changed:
      _servers.update(dict.fromkeys(self._names, self))
      _changed.notify_all()

  def Join(self) -> None:
    """Returns after `Stop`."""
    self._stopped.wait()

  def Stop(self) -> None:
    """Answers no more."""
    with _changed:
      for name in self._names:
        if _servers.get(name) is self:
          del _servers[name]
    self._stopped.set()

  def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
    """Calls a bound function here."""
    if method not in self._handlers:
      raise AttributeError(
        f"server {self.address} has no method '{method}'; it has: {', '.join(self._handlers)}"
      )
    return self._handlers[method](*arguments, **keywords)


class Client:
  """Calls the functions of a server: `Client("name").method(...)`."""

  def __init__(self, server_address: str, call_timeout: float | None = None):
    """Makes a client; the server need not be there yet.

    Args:
      server_address: name of the server.
      call_timeout: seconds until a call gives up; `DEADLINE_SECONDS` if None.
    """
    self._address = str(server_address)
    self._deadline = DEADLINE_SECONDS if call_timeout is None else call_timeout

  def __getattr__(self, method: str) -> Callable[..., Any]:
    if method.startswith("__"):  # What copying and pickling ask for.
      raise AttributeError(method)

    def call(*arguments: Any, **keywords: Any) -> Any:
      with _changed:
        server = _servers.get(self._address)
      if server is not None:
        return server.call(method, *arguments, **keywords)
      return self._call_host(method, packed((arguments, keywords)))

    return call

  def _call_host(self, method: str, payload: bytes) -> Any:
    """Calls until there is an answer: a call may be repeated if its host dies meanwhile."""
    ray: Any = importlib.import_module("ray")
    # Otherwise ray.get_actor would start a cluster of its own.
    if not ray.is_initialized():
      raise UnreachableError(
        f"no server '{self._address}' in this process, and Ray is not running to look for it "
        "elsewhere; start it first"
      )
    ends = time.monotonic() + self._deadline
    reason = "it has not started"
    while (left := ends - time.monotonic()) > 0:
      try:
        actor = ray.get_actor(self._address, namespace=NAMESPACE)
        call = actor.call.options(concurrency_group="call", max_task_retries=0)
        reply = ray.get(call.remote(self._address, method, payload), timeout=left)
      except ValueError:
        reason = "there is no such actor"
      except ray.exceptions.GetTimeoutError:
        reason = "it does not answer"
        break
      except ray.exceptions.RayActorError as error:
        reason = f"its process is gone ({type(error).__name__})"
      else:
        if reply is not None:
          succeeded, result = pickle.loads(reply)
          if succeeded:
            return result
          raise result
        reason = "it has not started"
      time.sleep(min(_RETRY_SECONDS, max(left, 0)))
    raise UnreachableError(
      f"no answer from '{self._address}' to {method} for {self._deadline:g} s: {reason}; see the "
      "logs of its process"
    )


class Host:
  """Becomes a Ray actor that runs a function, and answers calls to the servers that this makes.

  The actor's concurrency group `call` takes `call`; `run` has the default group to itself.
  """

  def run(self, function: str, keywords: bytes) -> Any:
    """Calls `module:function` with pickled keywords; imports the module only now."""
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)(**pickle.loads(keywords))

  def call(self, server: str, method: str, payload: bytes) -> bytes | None:
    """Passes a call on to a server; returns pickled (whether it succeeded, result or error).

    None while the server has not started: the caller asks again, and holds no thread meanwhile.
    """
    with _changed:
      if not _changed.wait_for(lambda: server in _servers, _WAIT_FOR_START_SECONDS):
        return None
      found = _servers[server]
    try:
      arguments, keywords = pickle.loads(payload)
      return packed((True, found.call(method, *arguments, **keywords)))
    except Exception as error:
      return packed((False, _portable(error)))


def packed(tree: Any) -> bytes:
  """Returns a tree in the form that travels."""
  plain = jax.tree_util.tree_map(
    lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, tree
  )
  return pickle.dumps(plain, protocol=pickle.HIGHEST_PROTOCOL)


def _portable(error: Exception) -> Exception:
  """Returns the error, or one of the same text where it does not survive pickling."""
  try:
    pickle.loads(pickle.dumps(error))
    return error
  except Exception:
    return UnsupRuleError(f"{type(error).__name__}: {error}".split("\n", 1)[0])
