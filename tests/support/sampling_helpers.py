"""Samplers of tasks whose draws are compiled, each as one program."""

import types

import jax


def compiled(sampler):
  """`sample`, `unlabelled` and `labelled` of a `TaskSampler`."""
  return types.SimpleNamespace(
    sample=jax.jit(sampler.sample),
    unlabelled=jax.jit(sampler.unlabelled),
    labelled=jax.jit(sampler.labelled),
  )
