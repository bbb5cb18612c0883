"""The folder of scripts is brought in line with what was rendered, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from generator import BANNER, __main__, registry, sync
from generator.__main__ import main
from generator.render import render
from generator.sync import SyncError

FILES = {f"test_hf_{name}.py": f"# {name}\n{BANNER} {name}`\n" for name in ("bert", "vit")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is in line with FILES, and has a README."""
    sync.apply(sync.changes(FILES, tmp_path / "scripts", complete=True))
    (tmp_path / "scripts" / "README.md").write_text("By hand.\n")
    return tmp_path / "scripts"


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_bytes().decode() for path in folder.glob("*.py")}


def test_what_is_in_line_is_left_alone(folder: Path) -> None:
    assert contents(folder) == FILES
    assert sync.changes(FILES, folder, complete=True) == []


def test_an_edited_script_is_restored(folder: Path) -> None:
    path = folder / "test_hf_bert.py"
    path.write_text(path.read_text() + "print()\n")
    needed = sync.changes(FILES, folder, complete=True)
    assert "-print()" in sync.describe(needed)
    sync.apply(needed)
    assert contents(folder) == FILES


def test_line_ends_count(folder: Path) -> None:
    path = folder / "test_hf_bert.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert [change.path for change in sync.changes(FILES, folder, complete=True)] == [path]


def test_a_deleted_script_is_written_again(folder: Path) -> None:
    (folder / "test_hf_vit.py").unlink()
    needed = sync.changes(FILES, folder, complete=True)
    assert sync.describe(needed) == "test_hf_vit.py is missing"
    sync.apply(needed)
    assert contents(folder) == FILES


def test_a_script_of_no_family_is_deleted_when_all_are_rendered(folder: Path) -> None:
    bert = {"test_hf_bert.py": FILES["test_hf_bert.py"]}
    assert sync.changes(bert, folder, complete=False) == []
    needed = sync.changes(bert, folder, complete=True)
    assert sync.describe(needed) == "test_hf_vit.py belongs to no family"
    sync.apply(needed)
    assert contents(folder) == bert


@pytest.mark.parametrize("name", ["test_hf_vit.py", "mine.py", "notes.txt"])
def test_a_file_of_somebody_else_is_not_touched(folder: Path, name: str) -> None:
    (folder / name).write_text("# mine\n")
    verb = "overwrite" if name in FILES else "delete"
    with pytest.raises(SyncError, match=f"Refusing to {verb} non-generated file .*{name}"):
        sync.changes(FILES, folder, complete=True)
    assert (folder / name).read_text() == "# mine\n"


def test_what_python_and_editors_leave_does_not_matter(folder: Path) -> None:
    (folder / "__pycache__").mkdir()
    (folder / ".test_hf_bert.py.swp").write_text("")
    assert sync.changes(FILES, folder, complete=True) == []


def test_a_long_difference_is_cut(folder: Path) -> None:
    files = {f"test_hf_y{n}.py": f"{BANNER}\n" for n in range(20)}
    files |= {"test_hf_bert.py": FILES["test_hf_bert.py"] + "x\n" * 500}
    text = sync.describe(sync.changes(files, folder, complete=True))
    assert len(text.splitlines()) < 200
    assert "more lines" in text
    assert "… 17 more files" in text


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of scripts of the commands: an empty one."""
    monkeypatch.setattr(sync, "SCRIPTS", tmp_path / "fixed_tests")
    return tmp_path / "fixed_tests"


def test_the_scripts_of_this_repository_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0, capsys.readouterr().out


def test_check_says_what_mends_it(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "bert"]) == 1
    said = capsys.readouterr().out
    assert "test_hf_bert.py is missing" in said
    assert "`python -m generator regenerate bert`" in said
    assert not scripts.exists()
    assert main(["regenerate", "bert"]) == 0
    assert main(["check", "bert"]) == 0
    assert main(["check", "bert"]) == 0
    assert main(["check"]) == 1


def test_one_family_is_regenerated_beside_the_others(scripts: Path) -> None:
    assert main(["regenerate", "bert", "roberta"]) == 0
    assert main(["regenerate", "bert"]) == 0
    assert contents(scripts) == render(registry.load(), ["bert", "roberta"])


def test_errors_are_one_line(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["regenerate", "brt"]) == 1
    line = "error: there is no family 'brt' in the registry (did you mean 'bert'?)\n"
    assert capsys.readouterr().err == line
    scripts.mkdir()
    (scripts / "test_hf_bert.py").write_text("# mine\n")
    assert main(["regenerate", "bert"]) == 1
    assert "Refusing to overwrite non-generated file" in capsys.readouterr().err


def test_a_wrong_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["regenrate"])
    assert "regenerate" in capsys.readouterr().err
    assert str(__main__.__doc__).startswith("`python -m generator")
