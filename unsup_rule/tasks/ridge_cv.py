"""The fair probe: a ridge classifier whose penalty is cross-validated on the labelled examples.

The paper's probe has one penalty for all features, which suits some methods and not others. Here
each method gets the one that predicts best within the labelled half of an episode, each example by
the others (scikit-learn's `RidgeClassifierCV`: the least squared error of leaving one out); the
query half is embedded, and nothing else of it is used. Features are brought to unit mean square
first, by one factor for all, so that the scale of a method's features does not matter.

Shape legend: D draws, K labelled examples, E examples of a draw, F features.
"""

import numpy as np

PENALTIES = 10.0 ** np.arange(-2, 4.25, 0.5)


def predict(features_DxExF: np.ndarray, labels_DxK: np.ndarray) -> np.ndarray:
  """Classes of the query half of each draw, [D, E - K].

  Args:
    features_DxExF: of K labelled, then of the query examples.
    labels_DxK: classes of the labelled examples.
  """
  from sklearn.linear_model import RidgeClassifierCV  # Slow to import.

  k = labels_DxK.shape[1]
  predicted = []
  for features_ExF, labels_K in zip(features_DxExF, labels_DxK, strict=True):
    x_ExF = features_ExF.astype(np.float64)
    x_ExF -= x_ExF[:k].mean(axis=0)
    size = np.sqrt(np.square(x_ExF[:k]).mean())
    x_ExF /= size if size > 0 else 1
    model = RidgeClassifierCV(PENALTIES).fit(x_ExF[:k], labels_K)
    predicted.append(model.predict(x_ExF[k:]))
  return np.stack(predicted)
