"""Write the golden numbers again: python tests/golden/record.py [CASE ...]

Each case is run twice, in two folders; numbers that are not the same twice are not written.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from cases import CASES, Case, differences, machine, measured


def record(case: Case) -> None:
    """Run a case twice and write what it gives."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        numbers = measured(case, Path(first))
        seconds = time.monotonic() - begun
        unlike = differences(measured(case, Path(second)), numbers, exact=True)
    if unlike:
        sys.exit("\n".join([f"{case.name} is not the same twice, and is not written", *unlike]))
    rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in numbers.items())
    text = f'{{\n  "machine": {json.dumps(machine())},\n  "numbers": {{\n{rows}\n  }}\n}}\n'
    case.file.write_text(text)
    print(f"{case.name}: {len(numbers)} models, {seconds:.0f} s a run, the same twice", flush=True)


if __name__ == "__main__":
    for one in CASES:
        if one.name in sys.argv[1:] or not sys.argv[1:]:
            record(one)
