"""The scripts of many families: from a cache where nothing changed, else made by some processes.

Pure: the same registry and templates give the same texts on every machine. The cache is addressed
by content, so that it may be deleted, damaged or out of date without an effect other than time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import multiprocessing
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from generator import ROOT, registry
from generator.registry import TEMPLATES, Entry, RegistryError

if typing.TYPE_CHECKING:
    from generator.transform import Templates

CACHE = ROOT / ".nox" / "cache" / "render"
WORTH = 24  # this many scripts are worth the start of more processes


def render(
    entries: Mapping[str, Entry],
    families: Iterable[str] = (),
    templates: Path = TEMPLATES,
    cache: Path = CACHE,
) -> dict[str, str]:
    """The scripts of `families`, of all `entries` where none is named: file name -> text.

    Raises:
        RegistryError: there is no such family, or not the one for which a template was written.
        TemplateError: a template cannot be made into the script of one of the families.
    """
    chosen = registry.select(entries, families)
    references = registry.template_families(templates)
    for architecture in sorted({entry.architecture for entry in chosen.values()}):
        if references[architecture] not in entries:
            lacks = f"has no [{references[architecture]}], for which the template was written"
            raise RegistryError(f"registry/{architecture}.toml {lacks}")
    pairs = [(entry, entries[references[entry.architecture]]) for entry in chosen.values()]
    addresses = dict(zip(chosen, _addresses(pairs, templates, cache), strict=True))
    texts = {family: _read(path) for family, path in addresses.items()}
    # Neighbours share their machinery, which each process formats only once.
    missing = sorted((p for p in pairs if not texts[p[0].family]), key=lambda p: p[0].architecture)
    for (entry, _), text in zip(missing, _made(missing, templates), strict=True):
        texts[entry.family] = text
        _write(addresses[entry.family], text)
    if len(chosen) == len(entries):
        for path in set(cache.glob("*")) - set(addresses.values()):
            path.unlink()
    return {entry.script: texts[family] for family, entry in chosen.items()}


def _made(pairs: list[tuple[Entry, Entry]], templates: Path) -> Iterator[str]:
    """The scripts of the first of each pair, made anew."""
    make = functools.partial(_script, templates)
    if len(pairs) < WORTH:
        yield from map(make, pairs)
        return
    context = multiprocessing.get_context("spawn")  # the same on every system, safe with threads
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), context) as pool:
        yield from pool.map(make, pairs, chunksize=8)


def _script(templates: Path, pair: tuple[Entry, Entry]) -> str:
    return _templates(templates).script(*pair)


@functools.cache
def _templates(directory: Path) -> Templates:
    from generator.transform import (
        Templates,
    )  # libcst and black take a second that a full cache saves

    return Templates(directory)


def _addresses(pairs: list[tuple[Entry, Entry]], templates: Path, cache: Path) -> Iterator[Path]:
    """Where the cache has the scripts: named by the hash of all that they are made from."""
    here = Path(__file__).parent
    names = ("__init__", "registry", "source", "transform", "render")
    code = [here / f"{name}.py" for name in names]
    versions = [importlib.metadata.version(name) for name in ("black", "libcst")]
    common = _hash(
        *versions, *(path.read_bytes() for path in [*code, *sorted(templates.glob("_*.py"))])
    )
    template = functools.cache(lambda name: (templates / f"{name}.py").read_bytes())
    for entry, reference in pairs:
        yield cache / _hash(common, template(entry.architecture), repr(reference), repr(entry))


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d\n" % len(data) + data)
    return digest.hexdigest()


def _read(path: Path) -> str:
    """The text stored at `path`; "" if there is none, or if it is damaged."""
    try:
        digest, text = path.read_bytes().decode().split("\n", 1)
    except (OSError, ValueError):
        return ""
    return text if digest == _hash(text) else ""


def _write(path: Path, text: str) -> None:
    """Store `text` at `path`, behind the hash by which `_read` knows that it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{_hash(text)}\n{text}".encode())
