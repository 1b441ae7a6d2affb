"""The frozen network in other frameworks computes what `transform` computes."""

import io

import numpy as np
import pytest
from evaluation_helpers import SIZES
from rule_helpers import drawn_theta

from unsup_rule import UnsupervisedFeatures
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.mlp import NONLINEARITIES
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.weights.archive import Use
from unsup_rule.weights.pretrained import Pretrained

WITHIN = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def rows():
  """Columns of very different scales, one far from 0."""
  rows = np.random.default_rng(0).normal(size=(60, 7)) * 10.0 ** np.arange(-3, 4)
  return (rows + np.array([5, 0, 100, 0, 0, 0, -3e5])).astype(np.float32)


def plain(rows):
  """Values such as need no scaling."""
  return np.sin(np.arange(rows.size, dtype=np.float32)).reshape(rows.shape)


@pytest.fixture(scope="module")
def fitted(rows):
  """After no step: what is tested is the network."""
  rule = Pretrained(drawn_theta(SIZES, 0), InnerSchedule(), Use(), {}, "small", "")

  def fit(nonlinearity="relu", standardize=True, output="embedding"):
    settings = {"nonlinearity": nonlinearity, "standardize": standardize, "output": output}
    settings["steps"] = 0
    features = UnsupervisedFeatures((6, 6, 9), n_features=8, rule=rule, **settings)
    return features.fit(rows if standardize else plain(rows))

  return fit


@pytest.mark.parametrize("output", ["embedding", "layers"])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_onnx_agrees(fitted, rows, tmp_path, nonlinearity, output):
  onnxruntime = pytest.importorskip("onnxruntime")
  pytest.importorskip("onnx")
  features = fitted(nonlinearity, output=output)
  features.to_onnx(tmp_path / "model.onnx")
  session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
  (actual,) = session.run(["embedding"], {"x": rows})
  expected = features.transform(rows)
  assert expected.std() > 0.01
  np.testing.assert_allclose(actual, expected, **WITHIN)


def test_onnx_without_scaling(fitted, rows, tmp_path):
  onnxruntime = pytest.importorskip("onnxruntime")
  pytest.importorskip("onnx")
  features = fitted(standardize=False)
  features.to_onnx(tmp_path / "model.onnx")
  session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
  (actual,) = session.run(None, {"x": plain(rows)[:1]})
  np.testing.assert_allclose(actual, features.transform(plain(rows)[:1]), **WITHIN)


@pytest.mark.parametrize("output", ["embedding", "layers"])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_torch_agrees(fitted, rows, nonlinearity, output):
  torch = pytest.importorskip("torch")
  features = fitted(nonlinearity, output=output)
  model = features.to_torch()
  assert isinstance(model, torch.nn.Sequential)
  assert not model.training
  expected = features.transform(rows)
  with torch.no_grad():
    np.testing.assert_allclose(model(torch.tensor(rows)), expected, **WITHIN)
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    again = features.to_torch()
    again.load_state_dict(torch.load(stream))
    np.testing.assert_array_equal(again(torch.tensor(rows)), model(torch.tensor(rows)))


def test_what_is_missing_is_named(fitted, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "torch", None)  # as Python marks what is not there
  with pytest.raises(UnsupRuleError, match=r"to_torch needs torch, .*'unsup-rule\[torch\]'"):
    fitted().to_torch()
