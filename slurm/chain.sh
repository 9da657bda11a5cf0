#!/bin/bash
# For sites with short time limits or without requeueing: a chain of jobs, each of which goes on where the one before it
# ended. Edit RECIPE, RUN and the #SBATCH lines in teachers.sbatch and student.sbatch first, then, where you would run kdscale:
#
#     slurm/chain.sh [TEACHER_JOBS [STUDENT_JOBS]]      # 4 and 2, of 4 hours each
#
# A job that finds its work done ends within seconds. `kdscale status RUN` and `kdscale logs RUN` show the whole chain,
# `kdscale cancel RUN` ends all of it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
before=
link() {  # script: after the one before it, however that ended (at its time limit it ends with 143)
  before=$(sbatch --parsable ${before:+--dependency=afterany:$before} "$here/$1" | cut -d ';' -f 1)
  echo "$1: job $before"
}
for ((i = 0; i < ${1:-4}; i++)); do link teachers.sbatch; done
for ((i = 0; i < ${2:-2}; i++)); do link student.sbatch; done
