"""Names that modules had until 2026-11: saved model cards say `import projected_grpo.peft`."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from short_runs import forked

SCRIPT = """
import importlib, sys, warnings

for old, new in (("peft", "peft"), ("callback", "trainer"), ("trl_env", "trl")):
    sys.modules.pop(f"projected_grpo.{old}", None)  # another test may have imported it
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        earlier = importlib.import_module(f"projected_grpo.{old}")
    told = [str(w.message) for w in caught if w.category is DeprecationWarning]
    assert f"projected_grpo.{old} is now projected_grpo.integrations.{new}" in told, told
    now = importlib.import_module(f"projected_grpo.integrations.{new}")
    public = {k: v for k, v in vars(now).items() if not k.startswith("_")}
    assert public and all(vars(earlier)[k] is v for k, v in public.items()), old
print(now.__file__)
"""


def test_every_old_name_imports_warns_and_gives_the_same_objects() -> None:
    process = forked(exec, SCRIPT, {})  # where torch is imported already
    process.join()
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="builds a wheel with uv")
def test_so_it_is_in_a_wheel(tmp_path: Path) -> None:
    source = Path(__file__).parents[2]
    subprocess.run(["uv", "build", "-q", "--wheel", "-o", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{SCRIPT}"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith(str(tmp_path / "site"))
