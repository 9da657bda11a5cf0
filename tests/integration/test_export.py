"""A run's models as files, and the README's program that serves one."""

import contextlib
import io
import json
import re
import tarfile
from pathlib import Path

import pytest
from support.place import sentence

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.filterwarnings("ignore")
def test_the_program_of_the_readme_classifies_a_picture(copy, monkeypatch) -> None:
    made = json.loads(copy.kdscale("export", "runs/tiny", "student", "--to", "onnx", "--json")[0])
    assert made["samples"] == made["same"] == 359
    assert made["difference"] <= 1e-3
    shard = sorted((copy.run / "data").rglob("test-*.tar"))[0]
    with tarfile.open(shard) as tar:
        names = [name for name in tar.getnames() if name.endswith(".png")][:40]
        pictures = [tar.extractfile(name).read() for name in names]
        labels = [int(tar.extractfile(name.replace(".png", ".cls")).read()) for name in names]
    (program,) = re.findall(r"```python\n(import json.*?)```", README.read_text(), re.S)
    monkeypatch.chdir(Path(made["path"]).parent)
    right = 0
    for picture, label in zip(pictures, labels, strict=True):
        Path("picture.png").write_bytes(picture)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(program, {})
        right += out.getvalue().strip() == made["about"]["classes"][label]
    assert right > 30


def test_only_what_is_finished_and_known_is_exported(copy) -> None:
    out, _ = copy.kdscale("export", "runs/tiny", "seed-1", "--to", "safetensors", "--out", "one.safetensors")
    assert "one.safetensors" in out
    assert (copy.folder / "one.safetensors").exists()
    (copy.run / "students" / "control-seed-0" / "done.json").unlink()
    _, err = copy.kdscale("export", "runs/tiny", "control", code=2)
    assert "control-seed-0 is not finished" in sentence(err)
    _, err = copy.kdscale("export", "runs/tiny", "seed-9", code=2)
    assert "has no model seed-9; it has student-seed-0" in sentence(err)
    assert not (copy.run / "export").exists()
