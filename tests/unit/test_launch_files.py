"""What an operator copies: parsed, and their commands known to the program."""

import re
import shlex
import subprocess

import jsonschema
import pytest
import yaml
from folders import ROOT

from unsup_rule.cli import main as cli
from unsup_rule.distributed import cluster

_FOLDER = ROOT / "launch"
_SCRIPTS = sorted(_FOLDER.glob("*.sh"))


def _accepts(command, monkeypatch):
  """Whether the program knows a command and its flags."""
  seen = []
  module = cli.importlib.import_module(cli.COMMANDS[command[1]][0])
  monkeypatch.setattr(module, "run", lambda arguments: seen.append(arguments) or 0)
  assert cli.main(command[1:]) == 0
  return seen[0]


def test_there_is_one_for_each_kind_of_cluster():
  names = {path.name for path in _FOLDER.iterdir()}
  assert names >= {"README.md", "local.sh", "ray_cluster.yaml", "kuberay.yaml", "slurm.sh"}


@pytest.mark.parametrize("script", _SCRIPTS, ids=[path.name for path in _SCRIPTS])
def test_scripts_parse(script):
  assert script.stat().st_mode & 0o111
  done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (0, "")


def test_the_local_script_starts_launch_with_a_worker_a_core(tmp_path, monkeypatch):
  fake = tmp_path / "unsup-rule"
  fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
  fake.chmod(0o755)
  done = subprocess.run(
    [_FOLDER / "local.sh", tmp_path / "run"],
    env={"UNSUP_RULE": str(fake), "PATH": "/usr/bin:/bin"},
    capture_output=True,
    text=True,
    check=True,
  )
  arguments = _accepts(["unsup-rule", *done.stdout.splitlines()], monkeypatch)
  assert arguments.workers >= 1
  assert arguments.gin_bindings == [f"run_train.staleness = {2 * arguments.workers}"]
  assert (_FOLDER.parent / arguments.config_file[0]).exists()


def test_the_slurm_script_starts_head_workers_and_launch(tmp_path, monkeypatch):
  """With Slurm's and Ray's programs played by scripts that write down how they were called."""
  calls = tmp_path / "calls"
  for name, body in {
    "scontrol": "echo node1; sleep 0.2; echo node2",  # A reader of one line would be gone.
    "srun": f'echo "srun $*" >> {calls}; case "$*" in *hostname*) echo 127.0.0.1;; esac',
    "unsup-rule": f'echo "unsup-rule $*" >> {calls}; stat -c %a "$RAY_AUTH_TOKEN_PATH" >> {calls}',
  }.items():
    (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
    (tmp_path / name).chmod(0o755)
  script = (_FOLDER / "slurm.sh").read_text()
  # Nobody listens at a port here.
  script = re.sub(r"^until .*$", "", script, flags=re.MULTILINE)
  done = subprocess.run(
    ["bash", "-c", script],
    env={
      "PATH": f"{tmp_path}:/usr/bin:/bin",
      "HOME": str(tmp_path),
      "SLURM_JOB_ID": "7",
      "SLURM_JOB_NODELIST": "node[1-2]",
      "SLURM_JOB_NUM_NODES": "2",
      "SLURM_CPUS_PER_TASK": "16",
    },
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, "")
  lines = calls.read_text().splitlines()
  assert any("ray start --head --block --node-ip-address=127.0.0.1" in line for line in lines)
  assert any("--exclude=node1 ray start --block --address=127.0.0.1:6379" in x for x in lines)
  launch = next(line for line in lines if line.startswith("unsup-rule"))
  assert _accepts(shlex.split(launch), monkeypatch).workers == 31
  assert "600" in lines
  assert not list(tmp_path.glob(".unsup-rule-token*"))


def test_the_cluster_file_fits_rays_schema(monkeypatch):
  from ray.autoscaler._private import util

  text = (_FOLDER / "ray_cluster.yaml").read_text()
  content = yaml.safe_load(text)
  util.validate_config(util.prepare_config(content))
  for commands in (content["head_start_ray_commands"], content["worker_start_ray_commands"]):
    assert any("RAY_AUTH_MODE=token" in command for command in commands)
  example = re.search(r"'(unsup-rule launch .*?)'", re.sub(r"\\?\n#", "", text), re.DOTALL)
  assert example
  arguments = _accepts(shlex.split(example[1]), monkeypatch)
  assert arguments.workers == 64


def test_the_kubernetes_manifest_holds_together(monkeypatch):
  cluster, job = yaml.safe_load_all((_FOLDER / "kuberay.yaml").read_text())
  container_schema = {
    "type": "object",
    "required": ["name", "image"],
    "properties": {
      "env": {"type": "array", "items": {"type": "object", "required": ["name", "value"]}},
      "volumeMounts": {"type": "array", "items": {"required": ["name", "mountPath"]}},
    },
  }
  (workers,) = cluster["spec"]["workerGroupSpecs"]
  pods = [
    cluster["spec"]["headGroupSpec"]["template"]["spec"],
    workers["template"]["spec"],
    job["spec"]["template"]["spec"],
  ]
  for pod in pods:
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
      jsonschema.validate(container, container_schema)
      assert all(isinstance(entry["value"], str) for entry in container["env"])
      assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
  for pod in pods[:2]:
    assert {"name": "RAY_AUTH_MODE", "value": "token"} in pod["containers"][0]["env"]
  arguments = _accepts(job["spec"]["template"]["spec"]["containers"][0]["command"], monkeypatch)
  assert arguments.workers == workers["replicas"]
  # The service that KubeRay makes of the cluster's name.
  assert arguments.address.startswith(cluster["metadata"]["name"] + "-head-svc:")


@pytest.mark.parametrize(
  ("resources", "n_workers", "each"),
  [
    ({"CPU": 8.0}, 4, 0),
    ({"CPU": 8.0, "GPU": 4.0}, 4, 1),
    ({"CPU": 8.0, "GPU": 8.0}, 4, 1),
    ({"CPU": 8.0, "GPU": 2.0}, 3, 0.666),
  ],
)
def test_gpus_are_shared_among_workers(resources, n_workers, each):
  class Ray:
    @staticmethod
    def cluster_resources():
      return resources

  assert cluster.gpus_of_each(Ray, n_workers) == each
  assert each * n_workers <= resources.get("GPU", 0)


def test_a_learner_leaves_gpus_alone_unless_told_otherwise(monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  assert cluster.environment(computes=False)["env_vars"]["JAX_PLATFORMS"] == "cpu"
  assert "JAX_PLATFORMS" not in cluster.environment(computes=True)["env_vars"]
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  assert cluster.environment(computes=False)["env_vars"]["JAX_PLATFORMS"] == "cuda"
