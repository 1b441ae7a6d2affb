"""Random streams of worker processes."""

import jax


def worker_key(seed: int, worker: int, restart: int = 0) -> jax.Array:
  """The key that all randomness of one worker follows from: its task families, tasks and batches.

  Args:
    seed: of the whole run.
    worker: index of the worker; streams of different workers are independent.
    restart: how often the worker was started anew. It goes on with other tasks then, where the
      same ones again would count them twice.
  """
  return jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(seed), worker), restart)
