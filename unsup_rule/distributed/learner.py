"""The learner: holds theta, serves it, updates it with the workers' gradients, saves it."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import jax
import numpy as np
from learned_optimization.outer_train import DataForWorker
from learned_optimization.population.population import ActiveWorker

from unsup_rule.compat import library
from unsup_rule.distributed import actors, identity, process
from unsup_rule.distributed.controller import Controller, Membership
from unsup_rule.distributed.meta_parameters import MetaParameterStore
from unsup_rule.distributed.run_files import RunFiles
from unsup_rule.distributed.server import GradientServer, StopRequested
from unsup_rule.distributed.statistics import Report, RestartCounts, WorkerStatistics
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import memory
from unsup_rule.meta import checkpoint, curve, heldout, run_folder, settings, summary

_LOOK_SECONDS = 0.2


class Outcome(TypedDict):
  """How a learner ended: "finished" or "stopped", and after which update."""

  state: str
  step: int


@dataclasses.dataclass(frozen=True)
class LearnerRole(process.RunRole):
  """Trains, from where the folder's checkpoint left off.

  Attributes:
    n_workers: how many to expect.
    controller: name of the actor of the population that this learner is a member of, or None.
    member: its index there.
  """

  n_workers: int
  controller: str | None = None
  member: int = 0

  def run(self, serve: actors.Serve) -> Outcome:
    """Trains.

    Raises:
      UnsupRuleError: the folder cannot be written or belongs to another configuration, no worker
        sends gradients, or updates are not finite.
    """
    found = self.set_up("learner")
    print(f"learner: process {os.getpid()}", flush=True)
    learner = Learner(self.folder, found, self.n_workers)
    if self.controller is not None:
      learner.join(actors.Remote[Controller](self.controller), self.member)
    return learner.train(serve)


class Learner:
  """From one start of a learner to its end.

  Attributes:
    server: what workers call.
    store: theta.
    files: what it writes.
  """

  def __init__(self, folder: pathlib.Path, found: settings.Settings, n_workers: int):
    """Restores the run.

    Args:
      folder: of the run.
      found: what gin says; a population's bindings change it.
      n_workers: how many to expect.

    Raises:
      UnsupRuleError: the folder belongs to another configuration, or cannot be written.
    """
    self._folder, self._settings = folder, found
    saved = checkpoint.load_resumable(folder)
    self._statistics = WorkerStatistics(saved.get("worker_statistics") if saved else None)
    self.store = MetaParameterStore(found)
    if saved:
      _restore(self.store, saved, found.trainer.seed, folder)
    heldout.check(found.trainer, self.store.lopt, self.store.theta)
    print(f"learner: goes on from update {self.store.step}", flush=True)
    self._generation = str(saved.get("generation", "")) if saved else ""
    self._membership: Membership | None = None
    self.files = RunFiles(folder, found, self.store, self._statistics, saved)
    self.files.generation = self._generation
    run_folder.write_config(folder, found.config_text)
    self.server = GradientServer(
      self._weights("", None),
      self.store.step,
      found.run.trainer_batch_size,
      found.run.staleness,
      found.distributed,
      self._statistics,
      RestartCounts(folder),
      identity.of_this_process(found.config_text),
      n_workers,
    )
    self.server.report_with(self._about)
    self.files.report = self.server.report

  def join(self, controller: actors.Caller[Controller], member: int) -> None:
    """Becomes a member: its generation, its bindings and now and then its theta come from there."""
    every = self._settings.population.evaluate_every_updates
    self._membership = Membership(
      controller, member, self._generation or None, self.store.step, every
    )

  def train(self, serve: actors.Serve) -> Outcome:
    """Trains to the end or until stopped; theta is saved in any case.

    Args:
      serve: gets the server once there is a theta that workers are to use.
    """
    state = "finished"
    try:
      self._follow_population()
      if self.files.saved_step < 0:
        self.files.save()  # A folder that cannot be written shows now and not after an hour.
      serve(self.server)
      self._update_until_done()
    except StopRequested:
      state = "stopped"
    except UnsupRuleError:
      state = "failed"
      raise
    finally:
      self.server.close()
      self.files.save_finally()
      self.files.write_status(state)
      self.files.close()
    if state == "finished" and not summary.is_current(self._folder, self.store.step):
      self._summarise()
      self.files.write_status(state)
    return {"state": state, "step": self.store.step}

  def _update_until_done(self) -> None:
    while not self._is_done():
      self._follow_population()
      self.files.save_where_due()
      self._offer_for_evaluation()
      _, gradients = self.server.gather_grads()
      update = self.store.update([gradient.outer_trainer_grads for gradient in gradients])
      self.server.set_weights(
        self.store.step, self._weights(self.server.generation, self.server.bindings)
      )
      if update is not None:
        self.files.record(update)
      elif self.store.refused_in_a_row >= self._settings.trainer.max_consecutive_nonfinite:
        raise UnsupRuleError(
          f"the update of theta was not finite {self.store.refused_in_a_row} times in a row; theta "
          f"of the last good one is in {self._folder}; lower the outer learning rate, or clip"
        )

  def _is_done(self) -> bool:
    run = self._settings.run
    return self.store.step >= run.num_steps or 0 < run.num_seconds <= self.files.seconds

  def _weights(self, generation: str, bindings: Sequence[str] | None) -> DataForWorker:
    return library.make(
      DataForWorker,
      worker_weights=self.store.worker_weights,
      gen_id=generation,
      outer_cfg=bindings,
    )

  def _follow_population(self) -> None:
    """Goes on as the member that the population says, where it says something new."""
    active = self._membership.news(self.store.step) if self._membership else None
    if active is not None:
      self._become(active)

  def _become(self, active: ActiveWorker) -> None:
    if active.params is not None:
      self.store.restore(checkpoint.read_state(active.params)["learner"], active.params)
    bindings = list(active.meta_params)
    if bindings != list(self.server.bindings):
      self._settings = settings.changed(self._settings, bindings)
      self.store.use(self._settings)
    self.files.generation = active.generation_id
    weights = self._weights(active.generation_id, bindings)
    self.server.set_weights(self.store.step, weights, clear_buffer=True)

  def _offer_for_evaluation(self) -> None:
    """Has theta evaluated where it is time to."""
    step = self.store.step
    if self._membership is None or not self._membership.is_due(step):
      return
    # Not further ahead of the evaluations than one: the mutator would come too late.
    ends = time.monotonic() + self._settings.distributed.gradient_deadline_seconds
    while self._membership.is_waiting() and time.monotonic() < ends:
      self.server.raise_if_stopped()
      time.sleep(_LOOK_SECONDS)
    self._membership.submit(self.server.generation, step, self.files.save_snapshot())

  def _summarise(self) -> None:
    curve.draw(self._folder, type(self.store.lopt).__name__)
    summary.write(
      self._folder,
      self.store.lopt,
      self.store.initial_theta(),
      self.store.theta,
      self._settings.trainer.heldout_fn,
      self.store.step,
      self.files.seconds,
      sum(self._statistics.refused.values()),
    )

  def _about(self) -> Report:
    return {
      "peak_memory_bytes": memory.peak_bytes(),
      "pid": os.getpid(),
      "bindings": list(self.server.bindings),
      **self.files.about(),
    }


def _restore(
  store: MetaParameterStore, saved: Mapping[str, Any], seed: int, folder: pathlib.Path
) -> None:
  """Puts a checkpoint into the store."""
  where = f"the checkpoint of step {saved['step']} in {folder}"
  if "worker_statistics" not in saved:
    raise UnsupRuleError(
      f"{where} is of a run of train; go on with train, or choose another --train_log_dir"
    )
  if not np.array_equal(saved["root_key"], np.asarray(jax.random.PRNGKey(seed))):
    raise UnsupRuleError(
      f"{where} was not made with trainer.seed = {seed}; set the seed of that run, or choose "
      "another --train_log_dir"
    )
  store.restore(saved["learner"], where)
  store.refused = int(saved["dropped"])
