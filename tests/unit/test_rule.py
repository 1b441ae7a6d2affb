"""Properties of the rule, its parameters and its optimizer, on small sizes.

Every array is compared with recordings elsewhere (test_golden); here is what they do not show.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_helpers import SMALL, SMALLEST, drawn_theta, drawn_weights, noisy

from unsup_rule.errors import UnsupRuleError
from unsup_rule.plugin.rule import RuleOptimizer, UnsupervisedRule
from unsup_rule.plugin.theta import init_theta
from unsup_rule.rule import tuning
from unsup_rule.rule.capture import capturing
from unsup_rule.rule.mlp import MLP, mlp_of
from unsup_rule.rule.networks import of_partners
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.structures import Params, Weights
from unsup_rule.rule.terms import TERMS, Connection, redundancy, terms
from unsup_rule.rule.theta import Sizes, abstract, sizes_of
from unsup_rule.rule.update import changes

SIZES = Sizes(
  output_size=4,
  top_delta_size=3,
  top_delta_layers=1,
  compute_h_size=5,
  compute_h_layers=1,
  delta_dim=3,
  num_grad_channels=2,
  identical_updates=False,
)
SOCIAL = dataclasses.replace(SIZES, partners=2, redundancy=True)
MIXING = "forward_weight_readout_coeffs"
NET = MLP(6, (4, 4, 4), 4)  # a stack of one and a stack of three
BATCH = 7


@pytest.fixture(scope="module")
def theta():
  return noisy(drawn_theta(SIZES), 0.1)


@pytest.fixture(scope="module")
def params():
  return noisy(drawn_weights(NET, 1), 0.5)


@pytest.fixture(scope="module")
def x():
  return jnp.asarray(np.random.default_rng(2).normal(size=(BATCH, 6)).astype(np.float32))


@pytest.fixture(scope="module")
def step():
  """(theta, params, x) -> changes of each layer, compiled once."""
  compiled = jax.jit(lambda theta, params, x: changes(theta, SIZES, params, NET.apply(params, x)))
  return lambda *inputs: compiled(*inputs).layers


def check_close(actual, expected, atol=2e-5):
  for ours, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=atol)


def difference(actual, expected):
  """Largest difference over all arrays."""
  pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
  return max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)


def test_scanned_layers_equal_unrolled_ones(theta, params, x, step, strict):
  @jax.jit
  def unrolled(theta, params, x):
    with capturing() as captured:
      out = changes(theta, SIZES, params, NET.apply(params, x))
    return out, captured

  out, captured = unrolled(theta, params, x)
  assert {name.split("/")[0] for name in captured} == {"top", "l0", "l1", "l2", "l3", "l4"}
  check_close(step(theta, params, x), out.layers)


def test_layers_scanned_unrolled_or_at_once(smallest_theta, x, monkeypatch, strict):
  net = MLP(6, (4, 4), 4)  # a stack of one and a stack of two
  params = noisy(drawn_weights(net, 1), 0.5)

  def gradient(unrolled, at_once):
    monkeypatch.setattr(tuning, "UNROLLED", unrolled)
    monkeypatch.setattr(tuning, "CHANGED_AT_ONCE", at_once)

    def objective(theta, params):
      out = changes(theta, SMALLEST, params, net.apply(params, x))
      return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(out))

    traced = jax.jit(jax.grad(objective, argnums=(0, 1))).trace(smallest_theta, params)
    return str(traced.jaxpr).count("scan["), traced.lower().compile()(smallest_theta, params)

  loops, expected = gradient(net.n_layers, 0)
  scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
  for longest, largest in ((1, 0), (2, 0), (2, 2 * 4 * 4)):
    scans, found = gradient(longest, largest)
    assert scans > loops
    check_close(found, expected, atol=1e-5 * scale)


def test_layers_get_changes_of_their_own(theta, params, x, step, strict):
  layers = step(theta, params, x)
  assert [layer.w.shape for layer in layers] == [(6, 4), (4, 4), (4, 4), (4, 4)]
  for first, second in itertools.pairwise(layers[1:]):
    assert difference(first, second) > 0.01


def with_missing(x):
  """A batch of which the examples x are there, and its mask."""
  mask = np.array([1, 0, 1, 1, 0, 1, 1, 1, 1])
  padded = np.full((9, 6), np.nan, np.float32)
  padded[mask > 0] = x
  return jnp.asarray(padded), jnp.asarray(mask)


def test_missing_examples_equal_a_smaller_batch(theta, params, x, step, strict):
  @jax.jit
  def masked(theta, params, x, mask):
    return changes(theta, SIZES, params, NET.apply(params, x, mask))

  out = masked(theta, params, *with_missing(x))
  check_close(out.layers, step(theta, params, x))


# Of seven examples, and of five with two more that are not there.
PARTNERS = (
  (1, None, [[3, 4, 5, 6, 0, 1, 2]]),
  (2, None, [[2, 3, 4, 5, 6, 0, 1], [4, 5, 6, 0, 1, 2, 3]]),
  (1, (1, 1, 1, 1, 1, 0, 0), [[2, 3, 4, 0, 1, 2, 3]]),
  (2, (1, 1, 1, 1, 1, 0, 0), [[1, 2, 3, 4, 0, 1, 2], [3, 4, 0, 1, 2, 3, 4]]),
)


@pytest.mark.parametrize(("partners", "mask", "expected"), PARTNERS)
def test_partners(partners, mask, expected):
  rows = jnp.arange(7.0)[None, :, None]
  mask = None if mask is None else jnp.asarray(mask, jnp.float32)
  assert [found[0, :, 0].tolist() for found in of_partners(rows, partners, mask)] == expected


@pytest.fixture(scope="module")
def social():
  """(theta, params, x, mask) -> changes of each layer by the rule with partners and redundancy."""

  @jax.jit
  def compiled(theta, params, x, mask):
    return changes(theta, SOCIAL, params, NET.apply(params, x, mask))

  return lambda theta, params, x, mask=None: compiled(theta, params, x, mask).layers


def test_additions_that_nothing_listens_to_change_nothing(theta, params, x, step, social, strict):
  padded = {name: dict(leaves) for name, leaves in theta.items()}
  for module, leaf, axis, more in (
    ("compute_top_delta/conv_1d", "w", 1, 2),
    ("conv_1d", "w", 1, 4),
    ("batch_norm", "beta", 2, 4),
    ("forward_weight_readout_coeffs", "w", 0, 1),
    ("backward_weight_readout_coeffs", "w", 0, 1),
  ):
    shape = list(theta[module][leaf].shape)
    shape[axis] = more
    zeros = jnp.zeros(shape)
    padded[module][leaf] = jnp.concatenate([theta[module][leaf], zeros], axis=axis)
  assert sizes_of(padded) == SOCIAL
  check_close(social(padded, params, x), step(theta, params, x))


def test_who_partners_are_matters(params, x, social, strict):
  """With batch convolutions that see one example alone, only partners tell who is where."""
  theta = with_central_taps(noisy(drawn_theta(SOCIAL), 0.1), units=False)
  six = x[:6]  # 0, 2 and 4 are partners of each other, and 1, 3 and 5
  before = social(theta, params, six)
  check_close(social(theta, params, six[np.array([1, 2, 3, 4, 5, 0])]), before)
  assert difference(social(theta, params, six[np.array([1, 0, 2, 3, 4, 5])]), before) > 1e-3


def test_missing_examples_equal_a_smaller_batch_with_additions(params, x, social, strict):
  theta = noisy(drawn_theta(SOCIAL), 0.1)
  out = social(theta, params, *with_missing(x))
  check_close(out, social(theta, params, x))


def test_redundancy():
  """Of four units: two that do the same, one that has a quarter of it in it, and one of its own.

  In 32 examples chance alone is 3/32 of a squared correlation; four units below that have nothing
  to do with each other add a fourth, and two of which the other two are copies a half.
  """
  a, b, other, fourth = (np.where(np.arange(32) >> bit & 1, 1.0, -1.0) for bit in range(4))
  upper = np.stack([2 * a, a + 3, a / 4 + np.sqrt(15) / 4 * b, other], axis=1)
  matrix, nothing = np.random.default_rng(3).normal(size=(4, 4)), jnp.zeros((2, 32, 0))
  w = matrix / np.sqrt(np.mean(np.square(matrix), axis=0))
  for lower, below in (([a, 5 * b, other, fourth], 1 / 4), ([a, b, 3 * a, 1 - b], 1 / 2)):
    arrays = (matrix, nothing, nothing, upper, np.stack(lower, axis=1))
    found = redundancy(
      Connection({}, "forward", *(jnp.asarray(v, jnp.float32) for v in arrays), None)
    )
    kept = 1 - 3 / 32 - below
    np.testing.assert_allclose(found[:, 0], w[:, 1] * kept / 2, rtol=1e-4)
    np.testing.assert_allclose(found[:, 1], w[:, 0] * kept / 2, rtol=1e-4)
    np.testing.assert_allclose(found[:, 2:], 0, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)])
def test_correlation_below_is_over_all_pairs_that_vary(shape):
  x = np.random.default_rng(5).normal(size=shape)
  x[:, 3] = 2.5  # Never varies, as the corner of a picture.
  arrays = [jnp.asarray(v, jnp.float32) for v in (np.ones((shape[1], 2)), x[:, :2], x)]
  matrix, upper, lower = arrays
  nothing = jnp.zeros((2, shape[0], 0))
  found = Connection({}, "forward", matrix, nothing, nothing, upper, lower, None)
  expected = np.mean(np.square(np.corrcoef(np.delete(x, 3, axis=1).T)))
  np.testing.assert_allclose(found.mean_square_correlation_below, expected, rtol=1e-4)


def test_redundancy_drives_apart_what_units_share(params, social, strict):
  """Two units of a layer with nearly the same weights have less alike ones after a step."""
  theta = drawn_theta(SOCIAL)
  coefficients = np.zeros((13, 1), np.float32)
  bottom, *rest = params.stacks
  w = np.array(bottom.w[0])
  w[:, 1] = w[:, 0] + 0.1 * w[:, 1]
  params = Params((bottom._replace(w=jnp.asarray(w)[None]), *rest))
  # Enough examples to be sure of what correlates; so few inputs take a quarter of the term away.
  x = jnp.asarray(np.random.default_rng(2).normal(size=(64, len(w))), jnp.float32)

  def difference(coefficient):
    coefficients[-1] = coefficient
    change = social({**theta, MIXING: theta[MIXING] | {"w": jnp.asarray(coefficients)}}, params, x)
    return 1 - np.corrcoef((w - 0.5 * np.asarray(change[0].w))[:, :2].T)[0, 1]

  assert difference(27.0) > 1.9 * difference(0.0) > 3.5 * difference(-27.0)


def with_central_taps(theta, units):
  """Batch (or unit) convolutions that look at their own position only."""

  def central(name, leaves):
    over_units = "ConcatUnitConv" in name
    if over_units != units or "conv_1d" not in name:
      return leaves
    w = np.array(leaves["w"])
    w[np.arange(len(w)) != len(w) // 2] = 0
    return {**leaves, "w": jnp.asarray(w)}

  return {name: central(name, leaves) for name, leaves in theta.items()}


def without_waves(theta):
  """Blind to the two channels that say where among its layer's units a unit is."""
  w = theta["conv_1d"]["w"].at[:, 11:13].set(0)
  return theta | {"conv_1d": {**theta["conv_1d"], "w": w}}


ORDER = np.array([3, 0, 6, 2, 5, 1, 4])


def test_order_of_examples_matters(theta, params, x, step, strict):
  assert difference(step(theta, params, x), step(theta, params, x[ORDER])) > 1e-3


def test_order_of_examples_matters_by_batch_convolutions_alone(theta, params, x, step, strict):
  theta = with_central_taps(theta, units=False)
  check_close(step(theta, params, x), step(theta, params, x[ORDER]))


def permuted(layers, below, order):
  """The same function with the units between layers `below` and `below` + 1 in another order."""
  out = list(layers)
  lower, upper = out[below - 1 : below + 1]
  columns, rows = (lower.w[:, order], lower.v[:, order]), (upper.w[order], upper.v[order])
  out[below - 1] = Weights(columns[0], lower.b[order], columns[1])
  out[below] = Weights(rows[0], upper.b, rows[1])
  return out


UNITS = np.array([2, 0, 3, 1])


def test_order_of_hidden_units_matters(theta, params, x, step, strict):
  moved = Params.of_layers(permuted(params.layers, 2, UNITS))
  expected = permuted(step(theta, params, x), 2, UNITS)
  assert difference(step(theta, moved, x), expected) > 1e-3


def test_order_of_hidden_units_matters_by_waves_and_unit_convolutions_alone(
  theta, params, x, step, strict
):
  theta = without_waves(with_central_taps(theta, units=True))
  moved = Params.of_layers(permuted(params.layers, 2, UNITS))
  check_close(step(theta, moved, x), permuted(step(theta, params, x), 2, UNITS))


@pytest.mark.parametrize("blind", [False, True])
def test_order_of_inputs(blind, theta, params, x, step, strict):
  """Permuting pixels changes the rule's work, through the same two things as for hidden units."""
  order = np.array([1, 5, 0, 3, 2, 4])
  if blind:
    theta = without_waves(with_central_taps(theta, units=True))
  first, *others = params.layers
  first = first._replace(w=first.w[order], v=first.v[order])
  moved = step(theta, Params.of_layers([first, *others]), x[:, order])
  first, *others = step(theta, params, x)
  expected = [first._replace(w=first.w[order], v=first.v[order]), *others]
  if blind:
    check_close(moved, expected)
  else:
    assert difference(moved, expected) > 1e-3


def test_scale_of_all_weights_is_normalised_away(theta, params, x, step, strict):
  """W is seen relative to the root mean square of a column or of a layer, V and deltas likewise."""
  scaled = Params(tuple(Weights(8 * stack.w, stack.b, 4 * stack.v) for stack in params.stacks))
  check_close(step(theta, scaled, x), step(theta, params, x), atol=2e-4)


def test_shift_and_scale_of_all_inputs_are_normalised_away(theta, params, x, step, strict):
  """x_0 stands twice among the features (also as z_0) and in the gate of an unused delta."""
  check_close(step(theta, params, 3 * x + 2), step(theta, params, x), atol=5e-4)


def test_backward_updates_are_those_of_v(theta, params, x, step, strict):
  """With V = W and readouts alike both matrices get the same change, else not."""
  same_v = Params(tuple(stack._replace(v=stack.w) for stack in params.stacks))
  mirrored = theta | {
    name.replace("forward", "backward"): leaves
    for name, leaves in theta.items()
    if name.startswith("forward")
  }
  for layer in step(mirrored, same_v, x):
    np.testing.assert_allclose(layer.v, layer.w, rtol=0, atol=1e-6)
  for inputs in ((theta, same_v), (mirrored, params)):
    for layer in step(*inputs, x):
      assert float(jnp.max(jnp.abs(layer.v - layer.w))) > 1e-3


@pytest.fixture(scope="module")
def identical_theta(theta):
  return {name: leaves for name, leaves in theta.items() if not name.startswith("backward")}


def test_identical_updates(theta, identical_theta, params, x, step, strict):
  sizes = dataclasses.replace(SIZES, identical_updates=True)
  out = jax.jit(lambda theta, params, x: changes(theta, sizes, params, NET.apply(params, x)))(
    identical_theta, params, x
  )
  for layer, separate in zip(out.layers, step(theta, params, x), strict=True):
    np.testing.assert_array_equal(layer.v, layer.w)
    check_close((layer.w, layer.b), (separate.w, separate.b))


def test_biases_before_a_norm_change_nothing(theta, params, x, step, strict):
  last = f"compute_top_delta/conv_1d_{3 + SIZES.top_delta_layers}"
  expected = step(theta, params, x)

  def shifted(names):
    return {
      name: {**leaves, "b": leaves["b"] + 1} if name in names else leaves
      for name, leaves in theta.items()
    }

  convolutions = {name for name in theta if "conv_1d" in name}
  assert last in convolutions
  check_close(step(shifted(convolutions - {last}), params, x), expected, atol=0)
  assert difference(step(shifted({last}), params, x), expected) > 1e-3


def test_terms_are_in_the_order_of_their_coefficients():
  assert list(TERMS) == sorted(TERMS)
  assert len(TERMS) == 12
  assert list(terms(12)) == list(TERMS)
  assert list(terms(13)) == [*TERMS, "redundancy"]


def make(sizes):
  made = jax.eval_shape(functools.partial(init_theta, sizes), jax.random.PRNGKey(0))
  flat = {f"{module}/{leaf}": a for module, leaves in made.items() for leaf, a in leaves.items()}
  assert flat == abstract(sizes)
  return made


def test_numbers_of_a_theta():
  """The same key gives the same theta in every version of the package."""
  theta = init_theta(SMALLEST, jax.random.PRNGKey(7))
  first = [-0.24024857580661774, 0.07074815779924393, 0.022489985451102257]
  np.testing.assert_allclose(theta["conv_1d"]["w"].ravel()[:3], first, rtol=1e-6)
  last = [0.08048050850629807, 0.40684354305267334]
  np.testing.assert_allclose(theta["bias_readout"]["w"].ravel()[-2:], last, rtol=1e-6)
  total = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(theta))
  np.testing.assert_allclose(total, 148.51203385553526, rtol=1e-6)


@pytest.mark.parametrize(
  ("changes", "count"),
  [
    ({}, 114_670),
    ({"identical_updates": False}, 118_583),
    ({"partners": 1}, 115_376),
    ({"redundancy": True}, 114_671),
  ],
)
def test_number_of_parameters(changes, count):
  theta = make(Sizes(**changes))
  assert sum(leaf.size for leaf in jax.tree.leaves(theta)) == count


def test_init_distribution(strict):
  theta = init_theta(Sizes(identical_updates=False), jax.random.PRNGKey(0))
  for name, leaves in theta.items():
    for leaf, value in leaves.items():
      value = np.asarray(value)
      assert value.dtype == np.float32
      if name.endswith("coeffs") and leaf == "w":
        np.testing.assert_array_equal(value, np.full((12, 1), 0.1, np.float32))
      elif leaf in ("b", "beta"):
        np.testing.assert_array_equal(value, 0)
      else:
        sigma = 1 / np.sqrt(np.prod(value.shape[:-1]))
        assert np.abs(value).max() <= 2 * sigma * (1 + 1e-6), name
        few = 4 / np.sqrt(2 * value.size)  # four standard errors of a standard deviation
        np.testing.assert_allclose(value.std() / sigma, 0.8796, rtol=few, err_msg=name)
  alike = {name for name in theta if name.startswith("forwardweight_readout")}
  assert len({float(theta[name]["w"][0, 0]) for name in alike}) == len(alike)


@pytest.mark.parametrize(
  "sizes",
  [
    Sizes(),
    SIZES,
    Sizes(3, 4, 0, 5, 0, 6, 7, True),
    Sizes(7, 6, 3, 5, 2, 4, 3, False),
    Sizes(3, 4, 0, 5, 0, 6, 7, True, 3),
    Sizes(7, 6, 3, 5, 2, 4, 3, False, 0, True),
  ],
)
def test_sizes_of_a_theta(sizes):
  assert sizes_of(make(sizes)) == sizes


@pytest.mark.parametrize(
  ("size", "value", "remedy"),
  [
    ("partners", -1, "a whole number from 0 up"),
    ("top_delta_layers", True, "a whole number from 0 up"),
    ("output_size", 0, "a whole number from 1 up"),
    ("delta_dim", 8.0, "a whole number from 1 up"),
    ("identical_updates", 1, "True or False"),
    ("redundancy", 1, "True or False"),
  ],
)
def test_sizes_that_there_are_not(size, value, remedy):
  with pytest.raises(UnsupRuleError, match=rf"^UnsupervisedRule\.{size} is {value}; give {remedy}"):
    UnsupervisedRule(**{size: value})


def test_architecture_from_parameters(params):
  assert mlp_of(params) == NET
  uneven = MLP(3, (5, 5, 2), 4)
  assert mlp_of(drawn_weights(uneven, 0)) == uneven


def test_initial_coefficients():
  start = {"hebb": 3.0, "decorr_x": 0.5}
  sizes = dataclasses.asdict(SMALLEST)
  theta = UnsupervisedRule(**sizes, initial_coefficients=start).init(jax.random.PRNGKey(0))
  plain = UnsupervisedRule(**sizes).init(jax.random.PRNGKey(0))
  expected = [0.1, 0.1, 0.5, 3.0] + [0.1] * 8
  np.testing.assert_allclose(theta[MIXING]["w"][:, 0], expected, rtol=1e-6)
  assert difference({**theta, MIXING: plain[MIXING]}, plain) == 0


def test_initial_coefficient_of_a_term_that_is_added():
  sizes, start = dataclasses.asdict(SMALLEST), {"redundancy": 3.0}
  with pytest.raises(UnsupRuleError, match=r"names 'redundancy'; use 0_order, .*, w_base\n"):
    UnsupervisedRule(**sizes, initial_coefficients=start)
  rule = UnsupervisedRule(**(sizes | {"redundancy": True}), initial_coefficients=start)
  theta = rule.init(jax.random.PRNGKey(0))
  np.testing.assert_allclose(theta[MIXING]["w"][:, 0], [0.1] * 12 + [3.0], rtol=1e-6)
  with pytest.raises(UnsupRuleError, match="names 'hebbian'; use 0_order, 1_order"):
    UnsupervisedRule(initial_coefficients={"hebbian": 1.0})


def test_remat_does_not_change_the_meta_gradient(smallest_theta, x, strict):
  params = drawn_weights(SMALL, 1)

  def gradient(remat):
    def loss(theta):
      optimizer = RuleOptimizer(SMALLEST, theta, InnerSchedule(0.3), remat)

      def step(state, _):
        activations = SMALL.apply(optimizer.get_params(state), x[:, :3])
        return optimizer.update(state, model_state=activations), None

      state, _ = jax.lax.scan(step, optimizer.init(params), length=2)
      return jnp.mean(jnp.square(SMALL.features(optimizer.get_params(state), x[:, :3])[:, :2]))

    return jax.jit(jax.grad(loss))(smallest_theta)

  by_step, kept = gradient("step"), gradient("none")
  assert difference(by_step, jax.tree.map(jnp.zeros_like, by_step)) > 1e-4
  check_close(by_step, kept, atol=1e-6)


def test_unknown_remat():
  with pytest.raises(UnsupRuleError, match="remat is 'layer'; choose one of step, none"):
    UnsupervisedRule(remat="layer")
