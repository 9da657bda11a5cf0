"""Runs on a Slurm cluster: a script that people can read, its submission, and what becomes of the job.

    options    what is asked for, checked as far as that goes without a cluster
    script     options -> sbatch script, a pure function (run.sbatch.j2)
    controller Slurm's commands and what they say
    jobs       the jobs of a run: their folders RUN/jobs/slurm-ID, states and logs
    ready      the scripts in slurm/, rendered from stated options

All of Ray's start, requeueing and clean-up is in the script itself, in bash: the nodes of a cluster need no kdscale
outside the container that they may run it in, and whoever must change something for a site can see it.
"""
