"""Problems on data sets, and the base model on them as a learned_optimization Task."""
