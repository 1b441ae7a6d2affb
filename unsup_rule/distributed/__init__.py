"""Asynchronous meta-training on Ray: one learner, many workers, populations of such runs."""
