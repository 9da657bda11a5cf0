"""The student's training measured: `python bench/student.py --json [--quick]` from the repository root."""

from figures import Section, main
from softness import soft_targets

SECTIONS: list[Section] = [soft_targets]

if __name__ == "__main__":
    main(__doc__ or "", SECTIONS)
