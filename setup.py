"""Ships the folder gin/ within the wheel, as unsup_rule/gin; all else is in pyproject.toml."""

import pathlib
import shutil

import setuptools
from setuptools.command import build_py


class BuildWithGinFiles(build_py.build_py):
  """Copies the gin files beside the modules; an editable install finds them in the checkout."""

  def run(self) -> None:
    super().run()
    if not self.editable_mode:
      target = pathlib.Path(self.build_lib) / "unsup_rule" / "gin"
      shutil.copytree("gin", target, dirs_exist_ok=True)


setuptools.setup(cmdclass={"build_py": BuildWithGinFiles})
