"""The logit store measured: `python bench/store.py --json [--quick]` from the repository root."""

from compression import compression
from figures import Section, main
from frontier import frontier
from selecting import selection
from traffic import joining, scale, writing_and_reading

SECTIONS: list[Section] = [writing_and_reading, joining, scale, selection, compression, frontier]

if __name__ == "__main__":
    main(__doc__ or "", SECTIONS)
