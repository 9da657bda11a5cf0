"""What a cluster's job costs beyond Slurm and Ray: from submission to the first step, and from a requeue to training again.

    python bench/cluster.py --json [--quick]

Two virtual nodes of a real Slurm on this machine (it needs root and Slurm's packages, `make slurm`). Slurm's and Ray's own start is
that of a bare job, measured in turn with kdscale's: the same number of nodes, `ray start` on each, and a driver that waits for
them and takes one step with torch on a worker of each. A first step is taken when the status of a member shows it, which is written
after the step.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from figures import Figure, Options, main

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.place import Place, write_recipe
from support.virtual_slurm import Slurm, Submitted, slurm, wait_for, why_not

BARE = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=2 --time=10 --output=bare-%j.log
export PATH={path}:$PATH HEAD=$(hostname -I | awk '{{ print $1 }}') TMPDIR=/tmp/bare-$SLURM_JOB_ID
export RAY_AUTH_MODE=disabled RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 SLURM_CPU_BIND=none
node() {{
  mkdir -p $TMPDIR; trap 'kill $ray; wait $ray; rm -rf $TMPDIR' USR1
  if [ $SLURM_NODEID = 0 ]; then
    ray start --head --port=6379 --node-ip-address=$HEAD --include-dashboard=false --num-cpus=2 --temp-dir=$TMPDIR/ray \\
      --object-store-memory=268435456 --disable-usage-stats --block & ray=$!
  else
    until (exec 3<>/dev/tcp/$HEAD/6379) 2>/dev/null; do sleep 0.2; done
    ray start --address=$HEAD:6379 --num-cpus=2 --object-store-memory=268435456 --disable-usage-stats --block & ray=$!
  fi
  wait $ray
}}
export -f node
srun --overlap bash -c node & step=$!
until (exec 3<>/dev/tcp/$HEAD/6379) 2>/dev/null; do sleep 0.1; done
RAY_ADDRESS=$HEAD:6379 python {driver}
kill -USR1 $step; wait $step
"""
DRIVER = """
import sys, time
import ray, torch
ray.init(address="auto", log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.1)

@ray.remote(num_cpus=2)
def step():
    import time, torch
    net = torch.nn.Linear(64, 10)
    net(torch.zeros(32, 64)).sum().backward()
    return time.time()

print("STEP", min(ray.get([step.remote() for _ in range(2)])))
"""
TEACHERS = {"count": 2, "epochs": 4000, "checkpoint_epochs": 20, "pack": 1, "gpus": 0}


@contextmanager
def cluster() -> Iterator[tuple[Slurm, Path]]:
    with tempfile.TemporaryDirectory(prefix="kdscale-bench-") as folder, slurm(2, Path(folder)) as made:
        yield made, Path(folder)


def bare(made: Slurm, folder: Path) -> float:
    """Seconds from the submission of a bare job to its first step."""
    driver = folder / "driver.py"
    driver.write_text(DRIVER)
    (folder / "bare.sbatch").write_text(BARE.format(path=Path(sys.executable).parent, driver=driver))
    start = time.time()
    job = subprocess.run(
        ["sbatch", "--parsable", "bare.sbatch"], cwd=folder, text=True, capture_output=True, check=True
    ).stdout.strip()
    log = folder / f"bare-{job}.log"
    wait_for(lambda: log.exists() and "STEP" in log.read_text(), what=log.read_text)
    first = next(float(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("STEP"))
    wait_for(lambda: made.state(job) not in ("RUNNING", "COMPLETING"), 60)
    return first - start


def stepped(job: Submitted, since: float) -> float | None:
    """When a member first showed a step after a moment."""
    times = [
        s["time"] for s in job.statuses().values() if "step" in s and s["state"] == "running" and s["time"] > since
    ]
    return min(times, default=None)


def submit(made: Slurm, folder: Path, round_: int) -> tuple[Submitted, float]:
    """A job whose data stage is done, and when its submission began."""
    place: Place = write_recipe(folder, {"teachers": TEACHERS, "student": {"gpus": 0}})
    words = ("--out", str(folder / f"run-{round_}"), "--stage", "teachers", "--nodes", "2", "--cpus-per-task", "2")
    place.kdscale("data", "tiny.yaml", "--out", str(folder / f"run-{round_}"))
    start = time.time()
    job = Submitted(made, place, *words)
    job.run = folder / f"run-{round_}"
    job.folder = job.run / "jobs" / f"slurm-{job.id}"
    return job, start


def jobs(options: Options) -> list[Figure]:
    """Submission to first step, beside a bare job; then USR1, and requeue to training again."""
    if reason := why_not():
        print(f"not measured: {reason}")
        return []
    bares, ours, saving, again, delays = [], [], [], [], []
    with cluster() as (made, folder):
        for i in range(1 if options.quick else 3):
            bares.append(bare(made, folder))
            job, start = submit(made, folder, i)
            ours.append(
                wait_for(lambda job=job, start=start: stepped(job, start), what=lambda job=job: job.log) - start
            )
            wait_for(
                lambda job=job: list(job.run.glob("teachers/*/checkpoints/*/latest.json")), what=lambda job=job: job.log
            )
            signalled = time.time()
            made.call("scancel", "--batch", "--signal=USR1", job.id)
            wait_for(lambda job=job: len(job.marks("begun")) == 2, what=lambda job=job: job.log)
            requeued, begun = job.marks("requeue")[0], job.marks("begun")[1]
            first = wait_for(lambda job=job, begun=begun: stepped(job, begun), what=lambda job=job: job.log)
            saving.append(requeued - signalled)
            delays.append(begun - requeued)
            again.append(first - begun)
            made.call("scancel", job.id)
            wait_for(lambda job=job: made.state(job.id) == "CANCELLED", 60)
            print(
                json.dumps({"bare": bares[-1], "kdscale": ours[-1], "saving": saving[-1], "again": again[-1]}),
                flush=True,
            )
    overhead = statistics.median(b - a for a, b in zip(bares, ours, strict=True))
    back = statistics.median(a + b for a, b in zip(saving, again, strict=True))
    return [
        Figure("submission to first step, bare job of Slurm and Ray", statistics.median(bares), "s"),
        Figure("submission to first step, kdscale", statistics.median(ours), "s"),
        Figure("submission to first step, beyond Slurm's and Ray's own", overhead, "s", "< 5"),
        Figure("USR1 to requeue: saving", statistics.median(saving), "s"),
        Figure("scheduler's delay", statistics.median(delays), "s"),
        Figure("requeue to training again, beyond the scheduler's delay", back, "s", "< 30"),
    ]


if __name__ == "__main__":
    main(__doc__.splitlines()[0], [jobs])
