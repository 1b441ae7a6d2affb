"""The fair probe: a ridge classifier whose penalty is cross-validated on the labelled examples.

The paper's probe has one penalty for all features, which suits some methods and not others. Here
each method gets the one that predicts best within the labelled half of an episode; the query half
is embedded, and nothing else of it is used. Features are brought to unit mean square first, by one
factor for all, so that the scale of a method's features does not matter.

With R = I - H, where H is the hat matrix of ridge regression with a free offset on all labelled
examples, the errors on a fold S that was left out are R_SS^-1 (R y)_S exactly (Allen 1974; Golub,
Heath and Wahba 1979). So one eigendecomposition a draw does for all folds and penalties.

Shape legend: D draws, K labelled examples, E = 2K examples, F features, W classes, P penalties.
"""

import numpy as np

PENALTIES = 10.0 ** np.arange(-2, 4.25, 0.5)
FOLDS = 5


def predict(features_DxExF: np.ndarray, labels_DxK: np.ndarray, n_ways: int) -> np.ndarray:
  """Classes of the query half of each draw, [D, E - K].

  Args:
    features_DxExF: of K labelled, then of the query examples.
    labels_DxK: classes of the labelled examples, 0 to n_ways - 1.
    n_ways: number of classes.
  """
  k = labels_DxK.shape[1]
  x_DxExF = np.asarray(features_DxExF, np.float64)
  x_DxExF = x_DxExF - x_DxExF[:, :k].mean(axis=1, keepdims=True)
  size_D = np.sqrt(np.square(x_DxExF[:, :k]).mean(axis=(1, 2)))
  x_DxExF = x_DxExF / np.where(size_D > 0, size_D, 1)[:, None, None]
  y_DxKxW = np.eye(n_ways)[labels_DxK]
  s_DxK, u_DxKxK = np.linalg.eigh(x_DxExF[:, :k] @ x_DxExF[:, :k].transpose(0, 2, 1))
  s_DxK = np.maximum(s_DxK, 0)
  chosen_D = PENALTIES[_chosen(s_DxK, u_DxKxK, y_DxKxW, labels_DxK)]
  mean_Dx1xW = y_DxKxW.mean(axis=1, keepdims=True)
  rotated_DxKxW = u_DxKxK.transpose(0, 2, 1) @ (y_DxKxW - mean_Dx1xW)
  dual_DxKxW = u_DxKxK @ (rotated_DxKxW / (s_DxK + chosen_D[:, None])[:, :, None])
  weights_DxFxW = x_DxExF[:, :k].transpose(0, 2, 1) @ dual_DxKxW
  return np.argmax(x_DxExF[:, k:] @ weights_DxFxW + mean_Dx1xW, axis=2)


def _chosen(
  s_DxK: np.ndarray, u_DxKxK: np.ndarray, y_DxKxW: np.ndarray, labels_DxK: np.ndarray
) -> np.ndarray:
  """Index of each draw's penalty: most right predictions, and of equal ones the strongest."""
  draws = np.arange(len(labels_DxK))[:, None]
  right_DxP = np.zeros((len(labels_DxK), len(PENALTIES)), np.int64)
  folds = _folds(labels_DxK)
  for column, penalty in enumerate(PENALTIES):
    shrunk_DxKx1 = (penalty / (s_DxK + penalty))[:, :, None]
    error_DxKxW = u_DxKxK @ (shrunk_DxKx1 * (u_DxKxK.transpose(0, 2, 1) @ y_DxKxW))
    # The offset takes the mean away, which is the direction of ones.
    error_DxKxW = error_DxKxW - error_DxKxW.mean(axis=1, keepdims=True)
    for rows_DxS in folds:
      u_DxSxK = u_DxKxK[draws, rows_DxS]
      r_DxSxS = u_DxSxK @ (shrunk_DxKx1 * u_DxSxK.transpose(0, 2, 1)) - 1 / labels_DxK.shape[1]
      left_out_DxSxW = np.linalg.solve(r_DxSxS, error_DxKxW[draws, rows_DxS])
      predicted_DxS = np.argmax(y_DxKxW[draws, rows_DxS] - left_out_DxSxW, axis=2)
      right_DxP[:, column] += (predicted_DxS == labels_DxK[draws, rows_DxS]).sum(axis=1)
  return len(PENALTIES) - 1 - np.argmax(right_DxP[:, ::-1], axis=1)


def _folds(labels_DxK: np.ndarray) -> list[np.ndarray]:
  """Rows of each fold, [D, S]: the examples of a class take turns, in the order they come in.

  As many folds as the rarest class of any draw has examples, at most `FOLDS`; none if that is one,
  since nothing could be learned of a class that is left out.
  """
  counts = [np.bincount(labels_K, minlength=labels_K.max() + 1) for labels_K in labels_DxK]
  n_folds = min(FOLDS, *(int(c[c > 0].min()) for c in counts))
  if n_folds < 2:
    return []
  by_class_DxK = np.argsort(labels_DxK, axis=1, kind="stable")
  return [by_class_DxK[:, first::n_folds] for first in range(n_folds)]
