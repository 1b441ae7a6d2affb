"""Meta-training: settings, estimators, the outer step, the loop, the folder of a run."""
