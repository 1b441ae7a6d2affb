"""Two hosts are cut off from each other for a moment."""

import pytest
from launched import all_workers_send
from network import Cluster, Hosts, worker_of


@pytest.mark.slow
def test_a_broken_network_costs_a_worker_for_a_while_and_no_run(tmp_path):
  with Hosts() as hosts, Cluster(tmp_path, hosts) as nodes, nodes.launched(30) as run:
    run.wait(lambda status: status["step"] > 5)
    far = nodes.start_far_node()
    before = run.wait(all_workers_send)
    cut_off = worker_of(far, before)
    hosts.cut(seconds=20)
    reached = run.status()["workers"][cut_off]["gradients"]
    run.wait(
      lambda status: (
        status["step"] > before["step"] + 50
        and status["workers"][cut_off]["gradients"] > reached + 20
        and status["workers"][cut_off]["silent_seconds"] < 2
      )
    )
    run.interrupt()
    code, left = run.finish()
    assert (code, left) == (130, []), run.output()
    assert run.status()["state"] == "stopped"
    assert run.status()["learner_restarts"] == 0
