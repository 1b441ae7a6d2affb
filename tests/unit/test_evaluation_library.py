"""Our Task in the library's own benchmark tools."""

import numpy as np
import pytest
from learned_optimization.baselines import run_archive, utils

from unsup_rule.evaluation import library_tasks


@pytest.fixture
def folders(tmp_path, monkeypatch):
  monkeypatch.setenv("LOPT_BASELINE_DIR", str(tmp_path / "curves"))
  monkeypatch.setenv("LOPT_BASELINE_ARCHIVES_DIR", str(tmp_path / "archives"))


@pytest.mark.slow
def test_curves_are_made_and_archived(folders, monkeypatch):
  def small(task_name):
    return library_tasks.runs(task_name, (1e-5, 1e-2), n_steps=20, repeats=2)

  # The archive looks a set up by its name in gin.
  monkeypatch.setattr(run_archive.gin, "get_configurable", lambda name: small)
  library_tasks.train(small("FewShotDigits8"))
  assert run_archive.maybe_archive_hparam_set("FewShotDigits8", "Small")
  archive = utils.load_archive("FewShotDigits8", "Small")
  # Two learning rates, two repeats, steps 0, 10 and 20.
  losses = archive["eval/train/loss"]
  assert losses.shape == (2, 2, 3)
  assert np.isfinite(losses).all()
  assert (losses[1, :, -1] < 0.8 * losses[1, :, 0]).all()
  assert (losses[0, :, -1] > 0.9 * losses[0, :, 0]).all()


def test_names_are_known_to_gin_and_an_unknown_set_is_an_error(folders, capsys):
  configurations, paths = library_tasks._named("AdamLR_200_R2")("FewShotGlyphs8")
  assert len(configurations) == 12
  assert [repeats for _, repeats in paths] == [2] * 6
  assert library_tasks.main(["--task=FewShotDigits8", "--hparam_set=Nothing"]) == 2
  assert "no hyperparameter set 'Nothing'" in capsys.readouterr().err
