"""The shipped rule in a scikit-learn pipeline, where PCA would be.

python examples/pipeline.py
"""

from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from unsup_rule import UnsupervisedFeatures


def main(folds: int = 5, labelled: int = 100) -> dict[str, float]:
  """Accuracy on 8x8 digits from few labels, by features."""
  digits = load_digits()
  x, labels = digits.data / 16, digits.target
  # Pixels are of one kind, so there is nothing to standardise.
  features = UnsupervisedFeatures(hidden=(48,), standardize=False).fit(x)
  print(f"{features.rule or 'the default rule'}: {features.n_steps_} steps")
  accuracy = {}
  splits = StratifiedKFold(folds, shuffle=True, random_state=0)
  for name, values in {
    "pixels": x,
    "PCA": PCA(32, random_state=0).fit_transform(x),
    "the rule": features.transform(x),
    "untrained": features.set_params(steps=0).fit(x).transform(x),
  }.items():
    # Each split trains the classifier on few rows and tests it on many.
    few = [(test[:labelled], train) for train, test in splits.split(x, labels)]
    scores = cross_val_score(LogisticRegression(max_iter=1000), values, labels, cv=few)
    accuracy[name] = scores.mean()
    print(f"{name:10} {accuracy[name]:.3f}")
  # Or all in one; each fold then trains features of its own.
  whole = make_pipeline(
    UnsupervisedFeatures(hidden=(48,), standardize=False), LogisticRegression(max_iter=1000)
  )
  accuracy["pipeline"] = cross_val_score(whole, x, labels, cv=2).mean()
  print(f"pipeline, half of the labels: {accuracy['pipeline']:.3f}")
  return accuracy


if __name__ == "__main__":
  main()
