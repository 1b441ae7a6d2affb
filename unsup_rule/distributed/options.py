"""What gin can set about distributed training, under the name `distributed`."""

from unsup_rule.meta.options import DistributedOptions

__all__ = ["DistributedOptions"]
