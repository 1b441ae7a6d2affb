"""Two hosts are cut off from each other until one of them gives up."""

import csv

import pytest
from launched import all_workers_send
from network import Cluster, Hosts, worker_of


@pytest.mark.slow
def test_workers_come_back_after_longer_breaks(tmp_path):
  """First the worker there gives up; then Ray gives up the host, which needs a `ray start`."""
  enough = tmp_path / "enough"
  slowly = (
    "paced_quadratics.seconds = 1",
    f"paced_quadratics.until = '{enough}'",
    "run_train.stochastic_resample_frequency = 1",
    "run_train.num_steps = 1500",
  )
  with Hosts() as hosts, Cluster(tmp_path, hosts) as nodes, nodes.launched(8, *slowly) as run:
    run.wait(lambda status: status["step"] > 5)
    far = nodes.start_far_node()
    before = run.wait(all_workers_send)
    cut_off = worker_of(far, before)
    stayed = str(1 - int(cut_off))

    def again(status, since):
      worker, earlier = status["workers"][cut_off], since["workers"][cut_off]
      more = worker["gradients"] - earlier["gradients"]
      return worker["restarts"] > earlier["restarts"] and more > 3 and worker["silent_seconds"] < 2

    hosts.cut(seconds=40)
    after = run.wait(lambda status: again(status, before), seconds=120)
    assert "to exchange for 8 s" in run.output()
    assert after["workers"][cut_off]["pid"] == before["workers"][cut_off]["pid"]

    # Ray asks a host every 3 s, waits 10 s for an answer, and has given up after 65 s.
    hosts.cut(seconds=75)
    assert far.process.wait(60) != 0
    far = nodes.start_far_node()
    back = run.wait(lambda status: again(status, after))
    assert worker_of(far, back) == cut_off
    assert back["workers"][stayed]["pid"] == before["workers"][stayed]["pid"]
    enough.touch()
    code, left = run.finish()
    assert (code, left) == (0, []), run.output()
    assert run.status()["state"] == "finished"
    assert (tmp_path / "run" / "summary.json").exists()
  with open(tmp_path / "run" / "curve.csv", newline="") as stream:
    assert [int(row["step"]) for row in csv.DictReader(stream)] == list(range(1, 1501))
  # Each role has come to its end once, however often it was begun.
  assert run.log("learner").count("learner: process") == 1
  for worker, about in back["workers"].items():
    lines = run.log(f"worker_{worker}").splitlines()
    starts = [line for line in lines if line.startswith(f"worker {worker}: start")]
    assert starts == [f"worker {worker}: start {i}" for i in range(about["restarts"] + 1)]
    assert lines.count(f"worker {worker}: no more work") == 1
