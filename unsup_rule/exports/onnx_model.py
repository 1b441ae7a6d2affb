"""A frozen network as an ONNX model: input "x" [batch, n_0], output "embedding" [batch, n_L].

Where all layers are asked for, the output holds them side by side, the inputs first.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from unsup_rule.exports.network import Plain

_OPSET = 17  # Of 2022: what is deployed knows it.
_IR_VERSION = 8
_ONE = {
  "relu": ("Relu", {}),
  "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
  "elu": ("Elu", {"alpha": 1.0}),
  "softplus": ("Softplus", {}),
  "tanh": ("Tanh", {}),
  "sigmoid": ("Sigmoid", {}),
}


class _Graph:
  """Operations one after the other, with the constants they take."""

  def __init__(self):
    self.nodes: list[onnx.NodeProto] = []
    self.constants: list[onnx.TensorProto] = []
    self.last = "x"

  def constant(self, value: np.ndarray) -> str:
    """Keeps an array and returns its name."""
    name = f"constant_{len(self.constants)}"
    self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name

  def add(self, operation: str, *inputs: str, **attributes) -> str:
    """Appends an operation on these inputs, which becomes the last."""
    name = f"value_{len(self.nodes)}"
    self.nodes.append(helper.make_node(operation, inputs, [name], **attributes))
    self.last = name
    return name

  def nonlinearity(self, name: str) -> None:
    """Appends a nonlinearity of the last value."""
    z = self.last
    if name == "swish":
      self.add("Mul", z, self.add("Sigmoid", z))
    elif name == "step":
      zero = self.constant(np.zeros((), np.float32))
      self.add("Cast", self.add("Greater", z, zero), to=int(TensorProto.FLOAT))
    else:
      operation, attributes = _ONE[name]
      self.add(operation, z, **attributes)


def build(network: Plain) -> onnx.ModelProto:
  """The model, checked."""
  graph = _Graph()
  for operation, value in (("Sub", network.mean), ("Sub", network.rest), ("Div", network.scale)):
    graph.add(operation, graph.last, graph.constant(value))
  x_0, layers = graph.last, []
  for w_MxN, b_N in network.layers:
    graph.add("Gemm", graph.last, graph.constant(w_MxN), graph.constant(b_N))
    graph.nonlinearity(network.nonlinearity)
    layers.append(graph.last)
  if network.inputs is not None:
    mean, scale = map(graph.constant, network.inputs)
    graph.add("Concat", graph.add("Mul", graph.add("Sub", x_0, mean), scale), *layers, axis=1)
  graph.nodes[-1].output[0] = "embedding"
  ends = {"x": len(network.mean), "embedding": network.n_outputs}
  (given,), (made,) = (
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])]
    for name, width in ends.items()
  )
  model = helper.make_model(
    helper.make_graph(graph.nodes, "unsup_rule", [given], [made], graph.constants),
    opset_imports=[helper.make_opsetid("", _OPSET)],
    ir_version=_IR_VERSION,
  )
  onnx.checker.check_model(model, full_check=True)
  return model
