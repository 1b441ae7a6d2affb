"""The one exception that users meet: one line that names the thing and the remedy."""


class UnsupRuleError(ValueError):
  """Bad input or an unusable environment; `str(error)` is a single line a user can act on."""
