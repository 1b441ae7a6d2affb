"""Measurements that no code of the package needs, run from a checkout.

timings        the rule and a truncation beside the limits of the machine (`unsup-rule bench`)
accelerator    everything about a GPU in eight minutes, agreement included
features       `UnsupervisedFeatures` beside scikit-learn's ways to features
agreement      local and asynchronous training of one gin file
distributed    how many workers scale, and what one learner absorbs
soak           training while its processes are killed
memory         a worker that meets every architecture
population     a population beside a sweep
"""

import unsup_rule  # noqa: F401  Before any of them imports learned_optimization.
