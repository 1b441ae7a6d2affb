"""`pretrained`: a meta-trained rule by name, by path, or the one that is best by default."""

import dataclasses
import difflib
import importlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax

from unsup_rule import locations
from unsup_rule.errors import UnsupRuleError
from unsup_rule.rule.schedule import InnerSchedule
from unsup_rule.rule.theta import Theta
from unsup_rule.weights import hub, run_folder
from unsup_rule.weights.archive import Archive, Use, digest

if TYPE_CHECKING:
  from unsup_rule.plugin.rule import RuleOptimizer, UnsupervisedRule

# The one place where the core reaches up to the plugin, when asked to: a user who has it, and
# learned_optimization, gets what the library takes from a loaded rule.
_PLUGIN = "unsup_rule.plugin.rule"
DEFAULT = "unsup_1"
_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained(Archive):
  """A meta-trained rule, ready to be applied; a pytree of theta.

  Attributes:
    name: of a shipped rule, or of the file or folder.
    card: what it is, what it was trained on and measured to do, in Markdown; "" if unknown.
  """

  name: str
  card: str

  def learned_optimizer(self, **settings) -> "UnsupervisedRule":
    """The rule as a `LearnedOptimizer`, whose `opt_fn(self.theta)` applies it.

    Args:
      **settings: further arguments of `UnsupervisedRule`, such as `inner_optimizer`.
    """
    own = dataclasses.asdict(self.sizes) | dataclasses.asdict(self.schedule)
    return importlib.import_module(_PLUGIN).UnsupervisedRule(**(own | settings))

  def optimizer(self) -> "RuleOptimizer":
    """The rule as an `Optimizer` for the {W, b, V} of an MLP."""
    plugin = importlib.import_module(_PLUGIN)
    return plugin.RuleOptimizer(self.sizes, self.theta, self.schedule)

  @property
  def sha256(self) -> str:
    """Of theta."""
    return digest(self.theta)

  def __repr__(self) -> str:
    return f"<rule {self.name!r}, embedding of {self.sizes.output_size}, {self.sha256[:12]}>"


def _flat(rule: Pretrained) -> tuple[tuple[Theta], tuple[InnerSchedule, Use, str, str, str]]:
  """Theta, and the rest, which can be compared."""
  origin = json.dumps(rule.provenance)
  return (rule.theta,), (rule.schedule, rule.use, origin, rule.name, rule.card)


def _unflat(rest: tuple[InnerSchedule, Use, str, str, str], children: tuple[Theta]) -> Pretrained:
  schedule, use, origin, name, card = rest
  return Pretrained(*children, schedule, use, json.loads(origin), name, card)


jax.tree_util.register_pytree_node(Pretrained, _flat, _unflat)


def names() -> list[str]:
  """Names of the rules that come with the package."""
  return sorted(path.stem for path in _FOLDER.glob("*.npz"))


def pretrained(rule: "str | os.PathLike | Pretrained | None" = None) -> Pretrained:
  """Loads a meta-trained rule.

  Args:
    rule: a name (see `names`), the path of a .npz file, the path of a run's folder,
      "hf://owner/name" for a repository of the Hugging Face Hub, or None for the default. What is
      loaded already is returned as it is.

  Raises:
    UnsupRuleError: no such rule, a damaged file, or one of another format.
  """
  if isinstance(rule, Pretrained):
    return rule
  if rule is None:
    rule = DEFAULT
  if not isinstance(rule, (str, os.PathLike)):
    raise UnsupRuleError(f"rule is {rule!r}; give a name, a path, or what pretrained() returned")
  if str(rule).startswith(hub.PREFIX):
    found = hub.folder(str(rule))
    return _loaded(run_folder.read(found), str(rule), found / hub.CARD)
  path = locations.expanded(rule)
  if str(rule) in names():
    path = _FOLDER / f"{rule}.npz"
  elif path.suffix != ".npz" and not path.is_dir():
    near = difflib.get_close_matches(str(rule), names(), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnsupRuleError(
      f"no rule {str(rule)!r}; {hint}known are {', '.join(names())}, or give the path of a .npz "
      "file or of a run's folder"
    )
  archive = run_folder.read(path) if path.is_dir() else Archive.read(path)
  card = path.with_suffix(".md") if path.suffix == ".npz" else None
  return _loaded(archive, path.stem or path.name, card)


def _loaded(archive: Archive, name: str, card: pathlib.Path | None) -> Pretrained:
  """With its name and the text of its card, where there is one."""
  text = card.read_text(encoding="utf-8", errors="replace") if card and card.is_file() else ""
  fields = {field.name: getattr(archive, field.name) for field in dataclasses.fields(archive)}
  return Pretrained(**fields, name=name, card=text)


def averaged(rules: Sequence[Pretrained]) -> Pretrained:
  """The mean of thetas of one meta-training, which can be better than each of them.

  Thetas that descend from one another lie in one basin, and the noise of their last steps cancels
  (Izmailov et al. 2018, arXiv 1803.05407). All but theta is the last rule's.

  Raises:
    UnsupRuleError: sizes or step sizes differ, so that the mean would mean nothing.
  """
  *others, last = rules
  if not others:
    return last
  for rule in others:
    for name in ("sizes", "schedule"):
      if getattr(rule, name) != (wanted := getattr(last, name)):
        raise UnsupRuleError(
          f"the mean of {rule.name!r} and {last.name!r} is no rule: {getattr(rule, name)} and "
          f"{wanted} differ; give rules of one meta-training"
        )
  theta = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *(rule.theta for rule in rules))
  provenance = last.provenance | {"mean_of": [rule.sha256 for rule in rules]}
  # What a summary says of one run or one theta is not true of the mean.
  of_one = ("outer_steps", "seconds")
  provenance = {
    k: v for k, v in provenance.items() if k not in of_one and not k.startswith("heldout_")
  }
  return dataclasses.replace(last, theta=theta, provenance=provenance)
