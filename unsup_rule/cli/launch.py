"""`unsup-rule launch`: meta-trains with many processes on Ray, here or on a cluster."""

import argparse
import pathlib

from unsup_rule.cli import gin_flags
from unsup_rule.errors import UnsupRuleError
from unsup_rule.meta import lock


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  parser.add_argument(
    "--train_log_dir",
    default="runs/launch",
    metavar="DIR",
    help="folder of the run; one that holds a run already goes on with it (default: %(default)s)",
  )
  parser.add_argument(
    "--workers", type=int, required=True, metavar="N", help="processes that compute gradients"
  )
  parser.add_argument(
    "--address",
    metavar="HOST:PORT",
    help="head of a Ray cluster that runs; without it Ray is started here and stopped again",
  )
  parser.add_argument(
    "--token_file",
    metavar="FILE",
    help="the cluster's token (default: what RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token)",
  )
  gin_flags.add_arguments(parser, "run_train.staleness=4")


def run(arguments: argparse.Namespace) -> int:
  """Trains; returns the exit code.

  Raises:
    UnsupRuleError: bad configuration, a folder that cannot be written, a cluster that does not
      answer, or training that failed.
  """
  folder = pathlib.Path(arguments.train_log_dir)
  if not arguments.config_file and not arguments.gin_bindings:
    raise UnsupRuleError("nothing to train; give a gin file with --config_file")
  if arguments.workers < 1:
    raise UnsupRuleError(f"--workers is {arguments.workers}; give at least 1")
  if arguments.token_file is not None and arguments.address is None:
    raise UnsupRuleError("--token_file is of a cluster; give its --address too")
  gin_flags.check_precision()
  from unsup_rule.distributed import cluster

  cluster.check_installed()
  with lock.exclusive(folder):
    from unsup_rule.distributed import history, launcher, population
    from unsup_rule.meta import gin_files, heldout, run_folder, settings, summary

    run_folder.check_no_evaluation(folder)
    text = gin_files.parse(arguments.config_file, arguments.gin_bindings, arguments.gin_import)
    heldout.check_configuration()
    found = settings.read(text, arguments.gin_import)
    if found.trainer.phases or found.trainer.validation_fn:
      raise UnsupRuleError(
        "trainer.phases and trainer.validation_fn are for train, in one process; bind them to {} "
        "and None, with what the last phase says bound directly"
      )
    members = found.population.members
    if members:
      population.check(found.population)
    n_workers = max(arguments.workers, len(members))
    launch = launcher.Launch(found, folder, n_workers)
    for warning in launcher.warnings(found, n_workers // max(len(members), 1)):
      print(f"note: {warning}", flush=True)
    try:
      with cluster.connected(arguments.address, n_workers, arguments.token_file) as ray:
        if members:
          launcher.train_population(ray, launch, len(members))
        else:
          launcher.train(ray, launch)
    finally:
      if members:
        history.draw(folder)
    for path in sorted(folder.glob("member_*")) if members else [folder]:
      print(summary.describe(path))
    if members:
      print(history.describe_best(folder))
  return 0
