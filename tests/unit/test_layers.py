"""Convolution and batch normalisation of the rule against plain definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unsup_rule.rule import layers
from unsup_rule.rule.tuning import blocks, no_fuse


def arrays(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def numpy_convolve(x, w, axis):
  x = np.moveaxis(x.astype(np.float64), (axis, 0), (0, -1))  # [T, other, C]
  width = len(w)
  out = np.zeros((*x.shape[:-1], w.shape[-1]))
  for t in range(len(x)):
    for k in range(width):
      source = t + k - width // 2
      if 0 <= source < len(x):
        out[t] += x[source] @ w[k]
  return np.moveaxis(out, (0, -1), (axis, 0))


def test_convolve_by_hand(strict):
  x = jnp.asarray([[[1.0, 2.0, 4.0]]])
  w = jnp.asarray([[[1.0]], [[10.0]], [[100.0]]])
  np.testing.assert_array_equal(layers.convolve(x, w, layers.UNITS)[0, 0], [210, 421, 42])
  np.testing.assert_array_equal(layers.convolve(x, w, layers.BATCH)[0, 0], [10, 20, 40])


@pytest.mark.parametrize("convolve", [layers.convolve, blocks.convolve], ids=["plain", "tuned"])
@pytest.mark.parametrize("axis", [layers.BATCH, layers.UNITS])
@pytest.mark.parametrize(("width", "c_in", "c_out"), [(3, 4, 4), (5, 1, 8), (3, 2, 8), (3, 8, 2)])
def test_convolve_against_numpy(convolve, axis, width, c_in, c_out, strict):
  x, w = arrays(0, (c_in, 6, 5), (width, c_in, c_out))
  np.testing.assert_allclose(convolve(x, w, axis), numpy_convolve(x, w, axis), rtol=0, atol=1e-5)


@pytest.mark.parametrize("convolve", [layers.convolve, blocks.convolve], ids=["plain", "tuned"])
@pytest.mark.parametrize("axis", [layers.BATCH, layers.UNITS])
def test_convolve_along_an_axis_shorter_than_the_kernel(convolve, axis, strict):
  x, w = arrays(1, (3, 2, 1), (5, 3, 2))
  np.testing.assert_allclose(convolve(x, w, axis), numpy_convolve(x, w, axis), rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", [layers.BATCH, layers.UNITS])
def test_a_large_input_is_multiplied_by_one_tap_after_the_other(axis, monkeypatch, strict):
  x, w = arrays(6, (4, 6, 7), (3, 4, 4))
  of_all_taps = "tensor<12x42xf32>"

  def program():
    return jax.jit(lambda x: blocks.convolve(x, w, axis)).lower(x).as_text()

  monkeypatch.setattr(blocks, "TAPS_AT_ONCE", x.size)
  assert of_all_taps in program()
  monkeypatch.setattr(blocks, "TAPS_AT_ONCE", x.size - 1)
  assert of_all_taps not in program()
  found = blocks.convolve(x, w, axis)
  np.testing.assert_allclose(found, numpy_convolve(x, w, axis), rtol=0, atol=1e-5)


def test_batch_norm_by_hand(strict):
  x = jnp.asarray([[[0.0], [2.0]], [[1.0], [1.0]]])
  out = layers.batch_norm(x, jnp.asarray([[[0.0, 5.0]]]), None)
  np.testing.assert_allclose(out[0, :, 0], [-0.99950037, 0.99950037], rtol=1e-6)
  np.testing.assert_array_equal(out[1, :, 0], [5, 5])


@pytest.mark.parametrize("axis", [layers.BATCH, layers.UNITS])
@pytest.mark.parametrize(("width", "c_in", "c_out"), [(3, 4, 4), (5, 1, 8)])
def test_tuned_block_equals_the_plain_one(axis, width, c_in, c_out, strict):
  x, w, beta, weights = arrays(2, (c_in, 6, 5), (width, c_in, c_out), (1, 1, c_out), (c_out, 6, 5))

  def gradients(block):
    return jax.grad(lambda *a: jnp.sum(weights * block(*a, axis)), argnums=(0, 1, 2))(x, w, beta)

  tuned, plain = blocks.block(x, w, beta, axis), layers.block(x, w, beta, axis)
  np.testing.assert_allclose(tuned, plain, rtol=0, atol=1e-5)
  for ours, automatic in zip(gradients(blocks.block), gradients(layers.block), strict=True):
    np.testing.assert_allclose(ours, automatic, rtol=1e-4, atol=1e-4)


def test_block_gradient_against_finite_differences(strict):
  with jax.enable_x64():
    x, w, beta, weights = (
      a.astype(np.float64) for a in arrays(3, (2, 4, 3), (3, 2, 2), (1, 1, 2), (2, 4, 3))
    )

    def objective(x):
      return jnp.sum(weights * blocks.block(x, w, beta, layers.BATCH))

    gradient = jax.grad(objective)(x)
    direction = arrays(4, x.shape)[0].astype(np.float64)
    step = 1e-6
    numeric = (objective(x + step * direction) - objective(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(gradient * direction), numeric, rtol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="nothing is kept apart elsewhere")
def test_what_is_kept_apart_is_not_inlined(strict):
  (x,) = arrays(4, (3, 5))

  def plain(x):
    return {"y": jnp.tanh(x) + 1}

  function = jax.vmap(lambda x: no_fuse(plain)(x + x)["y"] * jnp.float32(2))
  compiled = jax.jit(function).lower(x).compile()
  assert " call(" in compiled.as_text()
  np.testing.assert_allclose(compiled(x), 2 * np.tanh(2 * x) + 2, rtol=0, atol=1e-6)


def test_what_is_kept_apart_may_be_of_other_precision():
  (x,) = arrays(5, (3,))
  with jax.enable_x64():
    assert no_fuse(jnp.square)(x.astype(np.float64)).dtype == np.float64
  assert no_fuse(jnp.square)(x).dtype == np.float32
