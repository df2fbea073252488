"""
Whether an installed soledad is whole: a script, not a test, for it installs things.

``python tests/installed.py`` installs a copy of this checkout in a new virtual environment in each way that
the README names, and looks from a folder that is not the copy; with ``--here`` it looks at the environment
that it runs in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

#: The checkout that this file is part of.
CHECKOUT = Path(__file__).resolve().parent.parent

#: What ``pip install`` is given for each way of installing, before the folder.
WAYS: dict[str, list[str]] = {"wheel": [], "editable": ["--editable"]}

#: What a copy of the checkout leaves out: a fresh clone does not have it.  Above all ``build``, out of which
#: modules that were removed long ago would come back into a wheel.
MADE = (".*", "build", "dist", "_build", "*.egg-info", "_trial_temp*", "__pycache__", "dropin.cache")

#: What is run, and what its output must have in it; ``{bin}`` is the environment's folder of scripts.
CHECKS = [
    (["{bin}/twist", "--help"], "soledad "),
    (["{bin}/twist", "soledad", "--help"], "--data-dir"),
    (["{bin}/soledad-server", "--help"], "--data-dir"),
    (["{bin}/python", "-c", "import soledad, pathlib; print(list(pathlib.Path(soledad.__file__).parent.iterdir()))"],
     "py.typed"),
]  # fmt: skip


def run(command: list[str], folder: Path) -> str:
    """
    Return what ``command`` prints, errors too, when it is run in ``folder``.

    :raise SystemExit: it failed; its output is in the message.
    """
    done = subprocess.run(command, cwd=folder, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def look(scripts: Path, folder: Path) -> None:
    """
    Carry out the checks with the environment that has its scripts in ``scripts``.

    Each is run twice: the first time Twisted writes its list of plugins, the second time it reads it.

    :raise SystemExit: something is missing.
    """
    for command, expected in CHECKS * 2:
        spelt = [word.format(bin=scripts) for word in command]
        output = run(spelt, folder)
        if expected not in output:
            raise SystemExit(f"{' '.join(spelt)} does not tell of {expected!r}:\n{output}")


def install_and_look(way: str, folder: Path) -> None:
    """Install the checkout in one of the `WAYS` in a new environment below ``folder``, and carry out the checks."""
    source, environment = folder / way / "source", folder / way / "environment"
    shutil.copytree(CHECKOUT, source, ignore=shutil.ignore_patterns(*MADE))
    venv.create(environment, with_pip=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, *WAYS[way], f"{source}[server]"], folder)
    look(environment / "bin", folder)


def main(arguments: list[str]) -> None:
    """Look at this environment (``--here``), or at a new one for each way of installing."""
    with tempfile.TemporaryDirectory() as folder:
        if arguments == ["--here"]:
            look(Path(sysconfig.get_path("scripts")), Path(folder))
            return
        for way in WAYS:
            install_and_look(way, Path(folder))
            print(f"installed as {way}: whole")


if __name__ == "__main__":
    main(sys.argv[1:])
