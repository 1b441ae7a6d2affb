"""The rule, its tasks and their distribution as learned_optimization knows such things."""
