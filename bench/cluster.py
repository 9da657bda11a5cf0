"""What a cluster's job costs beyond Slurm and Ray: from submission to the first step, from a requeue to training again, and a row for W&B.

    python bench/cluster.py --json [--quick]

Two virtual nodes of a real Slurm on this machine (it needs root and Slurm's packages, `make slurm`). Slurm's and Ray's own start is
that of a bare job, measured in turn with kdscale's: the same number of nodes, `ray start` on each, and a driver that waits for
them and takes one step with torch on a worker of each. A first step is taken when the status of a member shows it, which is written
after the step. The same with a Ray of two nodes that is there already, and a bare job of its Job API. Logging is that of a job's
tracker: metrics.jsonl and the W&B client together.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from figures import Figure, Options, main

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.fake_wandb_server import FakeWandb
from support.place import Place, write_recipe
from support.ray_cluster import RayCluster, ray_cluster
from support.ray_cluster import why_not as why_no_ray
from support.virtual_slurm import Slurm, Submitted, slurm, wait_for, why_not

from kdscale.recipe import WandB
from kdscale.tracking.identity import Identity
from kdscale.tracking.job import JobTracker

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


def logging(options: Options) -> list[Figure]:
    """Milliseconds of a row of two scalars: into metrics.jsonl alone, W&B offline, online, and with a server that hangs."""
    steps = 500 if options.quick else 2000
    found = {}
    before = dict(os.environ)
    os.environ.update(WANDB_BASE_URL="http://127.0.0.1:9", WANDB_ERROR_REPORTING="false")
    try:
        found["metrics.jsonl alone"] = rows("off", steps)
        found["W&B offline"] = rows("offline", steps)
        with FakeWandb() as server:
            os.environ.update({**server.env(), "WANDB_API_KEY": "f" * 40})
            found["W&B online"] = rows("online", steps, server.url)
            found["W&B online, a server that hangs"] = rows("online", steps, server.url, server)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return [
        Figure(
            f"a row of two scalars, {name}, median", statistics.median(times), "ms", None if name[0] == "m" else "< 1"
        )
        for name, times in found.items()
    ]


def rows(
    mode: Literal["online", "offline", "off"], steps: int, base_url: str | None = None, hangs: FakeWandb | None = None
) -> list[float]:
    """Milliseconds of each row of a job."""
    times = []
    settings = WandB(mode=mode, base_url=base_url)
    with tempfile.TemporaryDirectory(prefix="kdscale-bench-") as folder:
        who = Identity("bench", f"bench-{mode}-{hangs is not None}", "teacher", "bench")
        with JobTracker(Path(folder), "teachers", "seed-0", 0, settings, lambda: who) as job:
            if hangs is not None:
                hangs.fault("", status=200, times=100_000, delay=60)
            for step in range(steps):
                start = time.perf_counter()
                job.log(step, loss=1 / (step + 1), lr=0.1)
                times.append(1000 * (time.perf_counter() - start))
    return times


def ray_jobs(options: Options) -> list[Figure]:
    """Submission to first step through the Job API of a Ray that is there, beside a bare job."""
    if reason := why_no_ray():
        print(f"not measured: {reason}")
        return []
    bares, ours = [], []
    with tempfile.TemporaryDirectory(prefix="kdscale-bench-") as folder, ray_cluster(Path(folder), cpus=2) as made:
        for i in range(1 if options.quick else 3):
            bares.append(bare_ray(made, Path(folder)))
            ours.append(kdscale_ray(made, Path(folder), i))
            print(json.dumps({"bare": bares[-1], "kdscale": ours[-1]}), flush=True)
    overhead = statistics.median(b - a for a, b in zip(bares, ours, strict=True))
    return [
        Figure("Job API: submission to first step, bare job of Ray", statistics.median(bares), "s"),
        Figure("Job API: submission to first step, kdscale", statistics.median(ours), "s"),
        Figure("Job API: submission to first step, beyond Ray's own", overhead, "s", "< 5"),
    ]


def bare_ray(made: RayCluster, folder: Path) -> float:
    """Seconds from the submission of a bare job to its first step."""
    sent = folder / "sent"
    sent.mkdir(exist_ok=True)
    (sent / "driver.py").write_text(DRIVER)
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(made.token)}
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", made.address]
    start = time.time()
    done = subprocess.run(
        [*command, "--working-dir", str(sent), "--", "python", "driver.py"],
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    steps = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("STEP")]
    assert steps, done.stdout + done.stderr
    return steps[0] - start


def kdscale_ray(made: RayCluster, folder: Path, round_: int) -> float:
    """The same of a run whose data stage is done."""
    place = write_recipe(folder, {"teachers": TEACHERS, "student": {"gpus": 0}})
    run = folder / f"ray-run-{round_}"
    place.kdscale("data", "tiny.yaml", "--out", str(run))
    where = ("--address", made.address, "--token", str(made.token), "--out", str(run))
    start = time.time()
    place.kdscale("submit", "ray", "tiny.yaml", *where, "--stage", "teachers")

    def first() -> float | None:
        states = [json.loads(path.read_text()) for path in run.glob("teachers/*/status.json")]
        return min((state["time"] for state in states if state.get("step")), default=None)

    seconds: float = wait_for(first) - start
    place.kdscale("cancel", str(run))
    place.kdscale("logs", str(run), "--follow")
    return seconds


if __name__ == "__main__":
    main(__doc__.splitlines()[0], [jobs, ray_jobs, logging])
