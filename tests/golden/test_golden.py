"""Runs give the numbers that they gave before: the same bits on the same kind of machine, nearly the same elsewhere."""

import json
from pathlib import Path

import pytest
from golden.cases import CASES, Case, differences, machine, measured

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_numbers_are_as_kept(case: Case, tmp_path: Path) -> None:
    kept = json.loads(case.file.read_text())
    unlike = differences(measured(case, tmp_path), kept["numbers"], exact=kept["machine"] == machine())
    assert not unlike, "\n".join(unlike)
