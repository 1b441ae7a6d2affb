"""Hand-made local rules of the literature, as `Optimizer`s that take what the learned rule takes.

rule             what they have in common: activations in, a change of each layer out
hebbian          Sanger's rule, Krotov and Hopfield's, SoftHebb
forward_forward  Hinton's, without labels
"""

from unsup_rule.plugin.local.forward_forward import ForwardForward
from unsup_rule.plugin.local.hebbian import KrotovHopfield, Sanger, SoftHebb
from unsup_rule.plugin.local.rule import LayerBatch, LocalRule

__all__ = ["ForwardForward", "KrotovHopfield", "LayerBatch", "LocalRule", "Sanger", "SoftHebb"]
