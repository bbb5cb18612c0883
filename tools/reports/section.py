"""Parts of hand-written documents that a session writes, between two markers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.reports.data import ReportError
from tools.results import replace


@dataclass(frozen=True)
class Section:
    """The part `name` of a document, which the Nox session `session` writes."""

    name: str
    session: str

    @property
    def begin(self) -> str:
        """The line before it."""
        return f"<!-- {self.name}:begin (written by `nox -s {self.session}`) -->"

    @property
    def end(self) -> str:
        """The line after it."""
        return f"<!-- {self.name}:end -->"

    def put(self, text: str, document: Path) -> bytes:
        """What `document` reads with `text` between the markers. Errors: ReportError."""
        try:
            old = document.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problem = (
                f"cannot be read ({error}): it must hold the lines {self.begin} and {self.end}"
            )
            raise ReportError(f"{document}: {problem}") from error
        for marker in (self.begin, self.end):
            if (found := old.count(marker)) != 1:
                problem = f"appears {found} times" if found else "is missing"
                problem = f"the marker {marker} {problem}: it must stand there once"
                raise ReportError(f"{document}: {problem}")
        before, rest = old.split(self.begin)
        if self.end not in rest:
            problem = f"the marker {self.end} stands before {self.begin}: swap them"
            raise ReportError(f"{document}: {problem}")
        after = rest.split(self.end)[1]
        return f"{before}{self.begin}\n\n{text}\n\n{self.end}{after}".encode()


def update(path: Path, data: bytes) -> bool:
    """Replace the file at `path` by `data`, all of it or nothing; whether that changed anything."""
    if path.is_file() and path.read_bytes() == data:
        return False
    replace(path, data)
    return True
