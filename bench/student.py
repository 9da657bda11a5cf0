"""The student's training measured: `python bench/student.py --json [--quick]` from the repository root."""

from figures import Section, main
from softness import soft_targets
from steps import data_path, deepspeed_overhead, store_steps

SECTIONS: list[Section] = [soft_targets, store_steps, data_path, deepspeed_overhead]

if __name__ == "__main__":
    main(__doc__ or "", SECTIONS)
