"""The commands of Proving Ground, as Nox sessions: `nox --list` shows them, `make` wraps them.

All of them run in one shared environment (`tools/environment.py`), so Nox makes none of its own.
Arguments after `--` reach every session named: `nox -s matrix publish -- --device cpu`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))  # the `nox` command does not look here by itself

from tools.environment import SetupError, interpreter

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "check", "tests"]  # these change no file

TYPED = ("crosscheck", "faults", "generator", "tools", "templates", "noxfile.py")
FORMATTED = (*TYPED, "tests")  # `regenerate` formats fixed_tests, `check` compares it byte by byte


def run(session: nox.Session, *arguments: str, program: str = "python") -> None:
    """Run `program` of the shared environment, which is built first where need be."""
    try:
        python = interpreter()
    except SetupError as problem:
        session.error(str(problem))
    command = python if program == "python" else str(Path(python).with_name(program))
    # An interrupted matrix still writes how far it came; Nox's own patience is 0.3 s.
    session.run(command, *arguments, external=True, interrupt_timeout=30)


@nox.session
def discover(session: nox.Session) -> None:
    """Learn the facts of the installed transformers into the registry: slow [-- family …]."""
    run(session, "-m", "generator", "discover", *session.posargs)


@nox.session
def regenerate(session: nox.Session) -> None:
    """Write fixed_tests from the registry and the templates [-- family …]."""
    run(session, "-m", "generator", "regenerate", *session.posargs)


@nox.session
def check(session: nox.Session) -> None:
    """Fail if fixed_tests is not what `regenerate` would write [-- family …]."""
    run(session, "-m", "generator", "check", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Say which families of the installed transformers have a script, in docs/ and README.md."""
    run(session, "-m", "generator", "coverage")


@nox.session
def bench_generator(session: nox.Session) -> None:
    """Say how long regenerate and check take, beside libcst and black alone [-- family …]."""
    run(session, "-m", "generator", "bench", *session.posargs)


@nox.session
def matrix(session: nox.Session) -> None:
    """Run the scripts on devices, here or in a cluster, into results/ [-- --device cpu …]."""
    run(session, "-m", "tools", "matrix", *session.posargs)


@nox.session
def combine(session: nox.Session) -> None:
    """Put the parts of a run together that `matrix -- --shard K/N` made [-- folder …]."""
    run(session, "-m", "tools", "combine", *session.posargs)


@nox.session
def archive(session: nox.Session) -> None:
    """Fetch the runs that a branch of the Git remote keeps [-- --push sends those here too]."""
    run(session, "-m", "tools", "archive", *session.posargs)


@nox.session
def rehearse(session: nox.Session) -> None:
    """Do here what the nightly workflow does, in a clone [-- --family a,b …]."""
    run(session, "-m", "tools", "rehearse", *session.posargs)


@nox.session
def ingest(session: nox.Session) -> None:
    """Rebuild the database from results/, which `matrix` does too when it ends."""
    run(session, "-m", "tools", "ingest", *session.posargs)


@nox.session
def publish(session: nox.Session) -> None:
    """Render the reports, the dashboard and the summary in README.md from the database."""
    run(session, "-m", "tools", "publish", *session.posargs)


@nox.session
def dashboard(session: nox.Session) -> None:
    """Show a run while it goes on, and all runs, in a browser of this machine [-- --port N]."""
    run(session, "-m", "tools", "dashboard", *session.posargs)


@nox.session
def bench_dashboard(session: nox.Session) -> None:
    """Say how the dashboard does with a long history, and what changes it finds, in docs/."""
    run(session, "-m", "tools", "bench_dashboard", *session.posargs)


@nox.session
def history(session: nox.Session) -> None:
    """Say which runs there are and what changed, tag or prune them [-- --fail-on-regression …]."""
    run(session, "-m", "tools", "history", *session.posargs)


@nox.session
def benchmark(session: nox.Session) -> None:
    """Measure models of full size: latency, memory, tokens [-- --family a,b --batch 1,8 …]."""
    run(session, "-m", "tools", "benchmark", *session.posargs)


@nox.session
def devices(session: nox.Session) -> None:
    """Say which devices this machine has, and why it lacks the others."""
    run(session, "-m", "tools", "devices", *session.posargs)


@nox.session
def node(session: nox.Session) -> None:
    """Make this machine one of several that run the matrix [-- --cluster HOST:PORT]."""
    run(session, "-m", "tools", "node", *session.posargs)


@nox.session
def simulate(session: nox.Session) -> None:
    """Replay recorded runs on other numbers of machines, into docs/ [-- --nodes 1,4,16 …]."""
    run(session, "-m", "tools", "simulate", *session.posargs)


@nox.session
def bench_runner(session: nox.Session) -> None:
    """Compare the ways to run scripts on this machine, into docs/ [-- --family a,b …]."""
    run(session, "-m", "tools", "bench_runner", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Say how many faults put into models the scripts catch, in docs/ [-- --operator a,b …]."""
    run(session, "-m", "faults", *session.posargs)


@nox.session
def browsers(session: nox.Session) -> None:
    """Install what webgpu and webnn need: onnxruntime-web, a Chromium if it may."""
    run(session, "-m", "tools", "browsers")


@nox.session
def serve_bundles(session: nox.Session) -> None:
    """Let browsers judge all models, those of phones too [-- --lan --port N --family a,b]."""
    run(session, "-m", "tools", "serve_bundles", *session.posargs)


@nox.session
def crosscheck(session: nox.Session) -> None:
    """Compare models with independent implementations of them, into docs/ [-- family …]."""
    run(session, "-m", "crosscheck", *session.posargs)


@nox.session
def upgrade(session: nox.Session) -> None:
    """Take the newest release of a package into constraints.txt [-- transformers]."""
    run(session, "-m", "tools", "upgrade", *session.posargs)


@nox.session
def reduce(session: nox.Session) -> None:
    """Write a short script that shows one failing check [-- --family bamba --checks cache]."""
    run(session, "-m", "tools", "reduce", *session.posargs)


@nox.session
def compare(session: nox.Session) -> None:
    """Say what a release of transformers or torch changes [-- --transformers OLD NEW …]."""
    run(session, "-m", "tools", "compare", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Test the generator, the tools and the templates [-- pytest's arguments]."""
    run(session, "-m", "pytest", *(session.posargs or ["-n", "2", "-m", "not slow", "tests"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, types, spelling and schemas."""
    run(session, "-m", "ruff", "check", ".")
    run(session, "-m", "black", "--check", *FORMATTED)
    run(session, "-m", "mypy", *TYPED)
    run(session, "-m", "codespell_lib")
    schemas = sorted(map(str, Path("tools/schemas").glob("*.json")))
    run(session, "-m", "check_jsonschema", "--check-metaschema", *schemas)
    for kind, files in (
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-actions", ".github/actions/*/action.yml"),
        ("dependabot", ".github/dependabot.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
    ):
        names = sorted(map(str, Path().glob(files)))
        run(session, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{kind}", *names)
    run(session, "--offline", "--quiet", ".github", program="zizmor")


@nox.session(name="format")
def format_code(session: nox.Session) -> None:
    """Sort the imports and format the code that is written by hand."""
    run(session, "-m", "ruff", "check", "--select", "I", "--fix", *FORMATTED)
    run(session, "-m", "black", *FORMATTED)
