"""The learner: holds theta, serves it, updates it with the workers' gradients, saves it."""

import functools
import os
import pathlib
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from unsup_rule import storage
from unsup_rule.distributed import courier, identity, library_loops, logs
from unsup_rule.distributed.meta_parameters import ThetaKeeper
from unsup_rule.distributed.options import DistributedOptions
from unsup_rule.distributed.population import Member, PopulationOptions
from unsup_rule.distributed.run_files import RunFiles
from unsup_rule.distributed.server import GradientServer, StopRequested
from unsup_rule.distributed.statistics import Incarnations, Ledger
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import compilation
from unsup_rule.meta import checkpoint, curve, gin_files, summary
from unsup_rule.meta.options import TrainerOptions

_LOOK_SECONDS = 0.2


def run_learner(
  config_text: str,
  imports: Sequence[str],
  folder: str,
  server: str,
  n_workers: int,
  controller: str | None = None,
  member: int = 0,
) -> dict[str, Any]:
  """Trains, from where the folder's checkpoint left off. One learner a process.

  Args:
    config_text: the gin configuration.
    imports: modules that it needs.
    folder: of the run.
    server: name to serve under.
    n_workers: how many to expect.
    controller: name of the server of the population that this learner is a member of, or None.
    member: its index there.

  Returns:
    "state", which is "finished" or "stopped", and "step".

  Raises:
    UnsupRuleError: the folder cannot be written or belongs to another configuration, no worker
      sends gradients, or updates are not finite.
  """
  logs.redirect(folder, "learner")
  print(f"learner: process {os.getpid()}", flush=True)
  compilation.cache_on_disk()
  gin_files.parse_text(config_text, imports)
  result: dict[str, Any] = {}

  def train(make_learner: Any, **settings: Any) -> None:
    session = LearnerSession(
      pathlib.Path(folder), server, n_workers, make_learner, config_text, settings
    )
    if controller is not None:
      session.enter_population(controller, member)
    result.update(session.train())

  library_loops.run_as_learner(train)
  return result


class LearnerSession:
  """From one start of a learner's process to its end."""

  def __init__(
    self,
    folder: pathlib.Path,
    server: str,
    n_workers: int,
    make_learner: Any,
    config_text: str,
    settings: dict[str, Any],
  ):
    """Restores the run; `settings` is what gin's `run_train` has, the rest as in `run_learner`."""
    self._server_name, self._n_workers = server, n_workers
    self._settings, self._config_text = settings, config_text
    self._trainer = TrainerOptions()
    # What the library draws from numpy's global generator affects nothing but one summary.
    np.random.seed(self._trainer.seed)
    found = checkpoint.load_state(folder)
    if found is None and (folder / "params").exists():
      raise UnsupRuleError(
        f"{folder} holds params but no checkpoint to go on from; choose another "
        "--train_log_dir so that they are not overwritten"
      )
    self._ledger = Ledger(found.get("ledger") if found else None)
    self._incarnations = Incarnations(folder)
    self._files = RunFiles(folder, found, self._trainer.seed, settings["num_steps"])
    self._keeper = ThetaKeeper(make_learner, self._trainer.seed, self._files.updated)
    if found:
      where = f"the checkpoint of step {found['step']} in {folder}"
      if not np.array_equal(found["root_key"], self._root_key()):
        raise UnsupRuleError(
          f"{where} was not made with trainer.seed = {self._trainer.seed}; set the seed of that "
          "run, or choose another --train_log_dir"
        )
      self._keeper.restored(found["learner"], where)
      self._keeper.refused = int(found["dropped"])
    print(f"learner: goes on from update {self._keeper.step}", flush=True)
    self._files.keeper = self._keeper
    self._files.books = self._books
    self._generation = found.get("generation") if found else None
    self._member: Member | None = None
    self._member_index = 0
    self._submitted = self._keeper.step
    self._files.losses = lambda: self._ledger.losses
    self._files.refused = lambda: sum(self._ledger.refused.values())
    storage.write_text(folder / "config.gin", config_text)
    self._server: GradientServer | None = None

  def enter_population(self, controller: str, member: int) -> None:
    """Becomes a member: its generation, its bindings and now and then its theta come from there."""
    self._member = Member(controller, self._generation)
    self._member_index = member
    self._files.before_update = functools.partial(
      self._submit, courier.Client(controller), PopulationOptions().evaluate_every_updates
    )

  def _submit(self, controller: courier.Client, every: int, step: int) -> None:
    """Has theta evaluated where it is time to."""
    server = self._server
    if server is None or step % every or step <= self._submitted:
      self._submitted = min(step, self._submitted)  # Another member's theta may be younger.
      return
    self._submitted = step
    # Not further ahead of the evaluations than one: the mutator would come too late.
    ends = time.monotonic() + DistributedOptions().gradient_deadline_seconds
    while controller.is_waiting(self._member_index) and time.monotonic() < ends:
      server.raise_if_stopped()
      time.sleep(_LOOK_SECONDS)
    path = self._files.save_snapshot(server.generation)
    if path is not None:
      controller.submit(self._member_index, server.generation, step, str(path))

  def _books(self) -> dict[str, Any]:
    generation = self._server.generation if self._server else self._generation
    return {"ledger": self._ledger.to_state(), "generation": generation or ""}

  def train(self) -> dict[str, Any]:
    """Trains to the end or until stopped; theta is saved in any case."""
    num_steps, num_seconds = self._settings["num_steps"], self._settings["num_seconds"]
    state = "finished"
    done = self._keeper.step >= num_steps or 0 < num_seconds <= self._files.seconds
    try:
      if not done:
        library_loops.train_learner(
          self._keeper,
          self._make_server,
          self._files,
          population=self._member,
          member=self._member_index,
          **self._settings,
        )
    except StopRequested:
      state = "stopped"
    except UnsupRuleError:
      state = "failed"
      raise
    finally:
      if self._server is not None:
        self._server.close()
      self._files.save_finally()
      self._files.write_status(state)
      self._files.close()
    folder = self._files.folder
    if state == "finished" and not summary.is_current(folder, self._keeper.step):
      self._summarise(folder)
      self._files.write_status(state)
    return {"state": state, "step": self._keeper.step}

  def _summarise(self, folder: pathlib.Path) -> None:
    curve.draw(folder, type(self._keeper.lopt).__name__)
    summary.write(
      folder,
      self._keeper.lopt,
      self._keeper.initial_theta(),
      self._keeper.theta,
      self._trainer.heldout_fn,
      self._keeper.step,
      self._files.seconds,
      sum(self._ledger.refused.values()),
    )

  def _make_server(self, **loop: Any) -> GradientServer:
    server = GradientServer(
      self._server_name,
      DistributedOptions(),
      self._ledger,
      self._incarnations,
      self._keeper.step,
      identity.of_this_process(self._config_text),
      self._n_workers,
      **loop,
    )
    server.report_with(self._about)
    self._files.report = server.report
    self._server = server
    return server

  def _about(self) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scale = 1 if sys.platform == "darwin" else 1024
    return {
      "peak_memory_bytes": peak * scale,
      "pid": os.getpid(),
      "bindings": list(self._server.outer_cfg or ()) if self._server else [],
      **self._files.about(),
    }

  def _root_key(self) -> np.ndarray:
    import jax

    return np.asarray(jax.random.PRNGKey(self._trainer.seed))
