"""Features for scikit-learn: a network that the rule trains on the user's data."""
