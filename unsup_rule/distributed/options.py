"""What gin can set about distributed training, under the name `distributed`."""

import dataclasses

import gin

from unsup_rule.errors import UnsupRuleError


@gin.configurable("distributed", module="unsup_rule")  # pyright: ignore[reportCallIssue]
@dataclasses.dataclass(frozen=True)
class DistributedOptions:
  """Options of `unsup-rule launch`.

  Attributes:
    checkpoint_every_updates: a learner that is killed loses no more than so many updates, and no
      more than those of `trainer.checkpoint_every_seconds`.
    call_deadline_seconds: a worker that gets no answer from the learner for so long gives up. A
      killed learner is back after about half a minute.
    gradient_deadline_seconds: a learner that gets no gradient from any worker for so long saves
      and gives up. It covers the workers' first compilation.
    buffer_batches: gradients kept for later updates, in batches of `run_train.trainer_batch_size`,
      and at least 64; more are refused. It bounds the learner's memory.
  """

  checkpoint_every_updates: int = 50
  call_deadline_seconds: float = 180.0
  gradient_deadline_seconds: float = 900.0
  buffer_batches: int = 2

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) <= 0:
        raise UnsupRuleError(
          f"distributed.{field.name} is {getattr(self, field.name)}; give a positive number"
        )
