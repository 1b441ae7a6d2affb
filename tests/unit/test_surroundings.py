"""What a machine may have or lack: a home folder, a locale, limits, readers of the output."""

import math
import os
import platform
import pwd
import stat
import subprocess
import sys
import textwrap
from typing import Any

import jax
import psutil
import pytest
from folders import ROOT
from shipped import DEFAULT, QUICK

import unsup_rule
from unsup_rule import locations, storage
from unsup_rule.cli.main import main
from unsup_rule.data import tfds_source
from unsup_rule.errors import UnsupRuleError
from unsup_rule.machine import compilation, cores, memory
from unsup_rule.meta import gin_files

_CONFIG: Any = jax.config


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.delenv("UNSUP_RULE_CACHE", raising=False)
  return tmp_path


@pytest.fixture
def homeless(monkeypatch):
  def no_entry(uid):
    raise KeyError(uid)

  monkeypatch.delenv("HOME", raising=False)
  monkeypatch.setattr(pwd, "getpwuid", no_entry)
  for name in ("UNSUP_RULE_CACHE", "TFDS_DATA_DIR"):
    monkeypatch.delenv(name, raising=False)


def _python(code, **options):
  return subprocess.run(
    [sys.executable, "-c", code],
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {}),
    **options,
  )


def test_a_tilde_is_the_home_folder(home, monkeypatch, capsys):
  monkeypatch.chdir(home)
  assert main(["export", "--rule", QUICK, "--out=~/shipped/mine.npz"]) == 0
  assert (home / "shipped" / "mine.npz").is_file()
  assert not (home / "~").exists()
  assert unsup_rule.pretrained("~/shipped/mine.npz").name == "mine"
  (home / "a.gin").write_text("run_train.num_steps = 3\n")
  assert "num_steps = 3" in gin_files.parse(["~/a.gin"])
  assert tfds_source.data_folder("~/sets") == home / "sets"
  monkeypatch.setenv("UNSUP_RULE_CACHE", "~/cache")
  assert locations.cache_folder() == home / "cache"
  assert main(["status", "~/nothing"]) == 2
  assert str(home / "nothing") in capsys.readouterr().err


def test_without_a_home_the_cache_is_temporary(homeless, tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
  assert locations.cache_folder() == tmp_path / f"unsup_rule-{os.getuid()}"
  assert unsup_rule.pretrained(QUICK).name == QUICK
  with pytest.raises(UnsupRuleError, match="~/sets: this user has no home folder; set HOME, or"):
    tfds_source.data_folder("~/sets")


@pytest.mark.parametrize("ours", [True, False])
def test_programs_of_others_are_not_used(tmp_path, monkeypatch, ours):
  monkeypatch.setenv("UNSUP_RULE_CACHE", str(tmp_path))
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  folder = tmp_path / f"jax-{jax.__version__}"
  if ours:
    folder.mkdir(mode=0o777)
  else:
    (tmp_path / "other").mkdir()
    folder.symlink_to(tmp_path / "other")
  before = _CONFIG.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  try:
    compilation.cache_on_disk()
    assert _CONFIG.jax_compilation_cache_dir == (str(folder) if ours else None)
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
  if ours:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_files_are_utf8_whatever_the_locale(tmp_path):
  assert main(["export", f"--rule={QUICK}", "--about=Größen", f"--out={tmp_path}/a.npz"]) == 0
  path = str(tmp_path / "a.npz")
  done = _python(
    f"import unsup_rule; print(ascii(unsup_rule.pretrained({path!r}).card))",
    env={"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    stdout=subprocess.PIPE,
  )
  assert done.returncode == 0, done.stderr
  assert r"Gr\xf6\xdfen" in done.stdout


def test_what_is_said_about_a_rule_is_utf8_whatever_the_locale(tmp_path):
  code = "import sys; from unsup_rule.cli.main import main; sys.exit(main(sys.argv[1:]))"
  arguments = ["export", f"--rule={QUICK}", "--about=Größen", f"--out={tmp_path}/a.npz"]
  done = subprocess.run(
    [sys.executable, "-c", code, *arguments],
    capture_output=True,
    env=os.environ
    | {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  assert "Größen" in unsup_rule.pretrained(tmp_path / "a.npz").card
  assert "Größen" in (tmp_path / "a.md").read_text(encoding="utf-8")


def test_a_current_folder_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys):
  (tmp_path / "gone").mkdir()
  monkeypatch.chdir(tmp_path / "gone")
  (tmp_path / "gone").rmdir()
  assert main(["rules"]) == 2
  assert "the current folder is not there any more" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "some"])
def test_hours_are_numbers(value, capsys):
  with pytest.raises(SystemExit):
    main(["export", f"--rule={QUICK}", "--out=x.npz", f"--core-hours={value}"])
  assert f"argument --core-hours: '{value}'; give a number from 0 up" in capsys.readouterr().err


def test_a_gin_file_may_begin_with_a_byte_order_mark(tmp_path):
  (tmp_path / "a.gin").write_bytes(b"\xef\xbb\xbfrun_train.num_steps = 3\n")
  assert "num_steps = 3" in gin_files.parse([str(tmp_path / "a.gin")])


def test_modules_of_the_current_folder_can_be_imported(tmp_path, monkeypatch):
  (tmp_path / "my_own_tasks.py").write_text("FOUND = 3\n")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  assert main(["status", "nothing"]) == 2
  gin_files.parse((), (), ["my_own_tasks"])
  assert sys.modules["my_own_tasks"].FOUND == 3


def test_a_reader_that_leaves_ends_without_a_word(tmp_path):
  """As with `| head -1`, here with a reader that is gone before the first word."""
  read, write = os.pipe()
  os.close(read)
  arguments = ["export", f"--rule={QUICK}", "--out=a.npz"]
  code = f"import sys; from unsup_rule.cli.main import main; sys.exit(main({arguments}))"
  done = _python(code, stdout=write, cwd=tmp_path)
  os.close(write)
  assert (done.returncode, done.stderr) == (0, "")


def test_gpus_that_are_not_there_are_one_line(tmp_path):
  code = "import sys; from unsup_rule.cli.main import main; sys.exit(main(sys.argv[1:]))"
  done = subprocess.run(
    [sys.executable, "-c", code, "verify", str(ROOT / "tests" / "golden" / "linreg.npz")],
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cuda"},
  )
  assert done.returncode == 2
  assert done.stderr.startswith("unsup-rule: error: ")
  assert done.stderr.endswith("; set JAX_PLATFORMS to what is there, such as cpu\n")
  assert done.stderr.count("\n") == 1


def test_a_card_can_be_printed_in_any_locale(tmp_path):
  assert main(["export", f"--rule={QUICK}", "--about=Größen", f"--out={tmp_path}/a.npz"]) == 0
  code = f"import sys; from unsup_rule.cli.main import main; main(['rules', '{tmp_path}/a.npz'])"
  done = _python(
    code,
    env={"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    stdout=subprocess.PIPE,
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert r"Gr\xf6\xdfen" in done.stdout


def test_a_platform_that_is_not_there_is_one_line(monkeypatch, capsys):
  def run(arguments):
    raise RuntimeError("Unable to initialize backend 'cuda': no device\nand more")

  monkeypatch.setattr("unsup_rule.cli.status.run", run)
  assert main(["status", "x"]) == 2
  error = capsys.readouterr().err
  assert error.startswith("unsup-rule: error: Unable to initialize backend 'cuda': no device; set")
  assert error.count("\n") == 1


@pytest.mark.parametrize(
  ("files", "expected"),
  [
    ({}, math.inf),
    ({"cpu.max": "max 100000\n"}, math.inf),
    ({"cpu.max": "150000 100000\n"}, 1.5),
    ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "50000"}, 4.0),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "50000"}, math.inf),
    ({"cpu.max": "50000 0\n"}, math.inf),
    ({"cpu.max": "two 100000\n"}, math.inf),
    ({"own": "0::/job/step\n", "job/cpu.max": "30000 20000\n"}, 1.5),
    ({"own": "0::/job\n", "job/cpu.max": "max 100000\n", "cpu.max": "100000 50000\n"}, 2.0),
    ({"own": "0::/job\n", "other/cpu.max": "10000 100000\n"}, math.inf),
    ({"own": "0::/../up\n", "up/cpu.max": "10000 100000\n"}, math.inf),
    (
      {
        "own": "3:memory:/a\n2:cpu,cpuacct:/job\n",
        "cpu/job/cpu.cfs_quota_us": "100000",
        "cpu/job/cpu.cfs_period_us": "40000",
      },
      2.5,
    ),
  ],
)
def test_quotas_of_containers(tmp_path, files, expected):
  for name, text in files.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  assert cores.quota(tmp_path, tmp_path / "own") == expected


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_that_others_could_exchange_is_not_private(tmp_path, monkeypatch):
  assert locations.private_folder(tmp_path / "a" / "b").is_dir()
  (tmp_path / "a" / "b").chmod(0o777)
  with pytest.raises(UnsupRuleError, match=r"others may write into .*/a/b; remove it"):
    locations.private_folder(tmp_path / "a" / "b")
  (tmp_path / "a").chmod(0o777)
  with pytest.raises(UnsupRuleError, match="/a belongs to another user, or others may write there"):
    locations.private_folder(tmp_path / "a" / "c")
  (tmp_path / "a").chmod(0o1777)  # As the temporary folder: nobody removes what is another's.
  assert locations.private_folder(tmp_path / "a" / "c").is_dir()
  (tmp_path / "link").symlink_to(tmp_path / "a")
  assert locations.private_folder(tmp_path / "link" / "c").is_dir()
  monkeypatch.setattr(locations, "user_number", lambda: os.getuid() + 1)
  with pytest.raises(UnsupRuleError, match="belongs to another user"):
    locations.private_folder(tmp_path / "a" / "c")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give it back")
def test_memory_that_was_freed_between_what_stays_goes_back():
  process = psutil.Process()
  blocks = [b"x" * 60_000 for _ in range(2000)]
  del blocks[::2]
  before = process.memory_info().rss
  memory.give_back()
  assert before - process.memory_info().rss > 40e6
  assert len(blocks) == 1000


def test_memory_of_a_compilation_goes_back_before_the_program_runs():
  code = """
    import jax, numpy as np
    from unsup_rule.machine import compilation, memory
    order = []
    memory.give_back = lambda: order.append("given back")
    compilation.give_memory_back(0.0)
    compilation.give_memory_back(0.0)

    @jax.jit
    def program(x):
      shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
      return jax.pure_callback(lambda x: order.append("run") or x, shape, x)

    for _ in range(2):
      program(np.ones(3)).block_until_ready()
    print(*order, sep=", ")
  """
  ran = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
  )
  assert ran.stdout == "given back, run, run\n", ran.stderr


def test_a_quota_bounds_the_cores(monkeypatch):
  monkeypatch.setattr(cores, "quota", lambda: 0.5)
  assert cores.available() == 1
  monkeypatch.setattr(cores, "quota", lambda: math.inf)
  assert cores.available() == len(os.sched_getaffinity(0))


def test_what_only_posix_has_is_not_needed(tmp_path):
  code = (
    "import sys; sys.modules.update(dict.fromkeys(('fcntl', 'pwd', 'resource', 'termios')))\n"
    "from unsup_rule.cli import main, train\n"
    "from unsup_rule.meta import lock, loop\n"
    f"with lock.exclusive({str(tmp_path)!r}):\n"
    "  sys.exit(main.main(['rules']))\n"
  )
  done = _python(code, stdout=subprocess.PIPE)
  assert done.returncode == 0, done.stderr
  assert DEFAULT in done.stdout


def test_a_lock_is_no_way_to_empty_another_file(tmp_path):
  (tmp_path / "precious").write_text("all of it")
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
  assert main(["train", "--config_file=smoke.gin", f"--train_log_dir={tmp_path}/run"]) == 2
  assert (tmp_path / "precious").read_text() == "all of it"


def test_an_export_that_found_no_room_can_be_repeated(tmp_path, monkeypatch):
  def full(path, content):
    raise UnsupRuleError(f"cannot write {path}: No space left on device")

  arguments = ["export", f"--rule={QUICK}", f"--out={tmp_path}/a.npz"]
  with monkeypatch.context() as patch:
    patch.setattr(storage, "write_text", full)
    assert main(arguments) == 2
  assert not list(tmp_path.iterdir())
  assert main(arguments) == 0


def test_a_file_keeps_its_mode_when_it_is_rewritten(tmp_path):
  path = tmp_path / "private"
  storage.write_text(path, "first")
  path.chmod(0o600)
  storage.write_text(path, "second")
  assert path.stat().st_mode & 0o777 == 0o600


def test_no_room_for_output_is_one_line(monkeypatch, capsys):
  with open("/dev/full", "w", buffering=1) as full:
    monkeypatch.setattr(sys, "stdout", full)
    assert main(["rules"]) == 2
    monkeypatch.undo()
  error = capsys.readouterr().err
  assert error.startswith("unsup-rule: error: no room")
  assert error.count("\n") == 1
