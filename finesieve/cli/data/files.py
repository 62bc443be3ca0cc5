"""A file is found, unpacked if it is packed, and read by what it is, whatever its name says."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from finesieve.cli.data.delimited import read_delimited
from finesieve.cli.data.encodings import SAMPLE, decode, encoding_of
from finesieve.cli.data.formats import (
    is_conll,
    is_fasttext,
    read_arrow,
    read_conll,
    read_fasttext,
    read_json,
    read_parquet,
)
from finesieve.errors import DataError

Row = dict[str, Any]
READ = (".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet", ".arrow", ".feather", ".txt")
PACKED = (".gz", ".bz2", ".xz", ".zip")
CONLL = (".conll", ".bio", ".iob", ".iob2")
_SHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_OTHERS = (*_SHEETS, ".zst", ".tar", ".tgz", ".7z", ".rar", ".pkl", ".pickle", ".npy", ".pt")

_ZIP = b"PK\x03\x04"
_UNPACK: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", gzip.decompress),
    (b"BZh", bz2.decompress),
    (b"\xfd7zXZ\x00", lzma.decompress),
)


def is_file_name(source: str) -> bool:
    """Returns whether a source that does not exist was meant as a file, not as a hub dataset."""
    return source.lower().endswith((*READ, *CONLL, *PACKED, *_OTHERS))


def read_file(path: Path) -> tuple[list[Row], list[str]]:
    """Return the rows of a file, and notes for the user.

    Raises:
        DataError: where there is no such file, or it cannot be read; with the remedy.
    """
    if not path.exists():
        raise DataError(f"no file {path}{_suggested(path)}")
    if path.is_dir():
        raise DataError(_folder(path))
    name, kind = str(path), path.name.lower()
    for ending in PACKED:
        kind = kind.removesuffix(ending)
    if kind == path.name.lower():  # readers of their own, which do not need all in memory
        if kind.endswith(".parquet"):
            return read_parquet(path), []
        if kind.endswith((".arrow", ".feather")):
            return read_arrow(path), []
    try:
        raw = path.read_bytes()
        for mark, unpack in _UNPACK:
            if raw.startswith(mark):
                raw = unpack(raw)
                break
        else:
            if path.name.lower().endswith(PACKED[:-1]):
                raise OSError(f"it is not packed as {path.suffix} says")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if raw.startswith(_ZIP):
        name, kind, raw = _only_member(path, raw)
    _refuse_others(name, kind, raw)
    return _read_text(name, kind, decode(name, raw))


def encoding_if_plain(path: Path) -> str | None:
    """Returns the encoding of a file that is text in UTF-8 and not packed, by its first bytes; None
    for another.

    Raises:
        DataError: for what is no text at all, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(SAMPLE)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if start.startswith((*(mark for mark, _ in _UNPACK), _ZIP)):
        return None
    _refuse_others(str(path), path.name.lower(), start)
    encoding = encoding_of(start)
    return encoding if encoding in ("utf-8", "utf-8-sig") else None


def _read_text(name: str, kind: str, content: str) -> tuple[list[Row], list[str]]:
    """Reads a text file by its ending, or without one of ours by what the first line looks like."""
    if kind.endswith((".csv", ".tsv")):
        return read_delimited(name, content, "\t" if kind.endswith(".tsv") else None)
    if kind.endswith((".jsonl", ".json", ".ndjson")):
        return read_json(name, content), []
    if kind.endswith(CONLL) or is_conll(content):
        return read_conll(name, content), []
    if is_fasttext(content):
        return read_fasttext(name, content), []
    if content.lstrip().startswith(("{", "[")):
        return read_json(name, content), []
    return read_delimited(name, content, None)


def _suggested(path: Path) -> str:
    """Returns a hint at a file of a like name, with the same ending where there is one."""
    folder = path.parent if path.parent.exists() else Path()
    names = [p.name for p in folder.iterdir() if p.is_file()]
    same = [n for n in names if Path(n).suffix.lower() == path.suffix.lower()]
    for some in (same, names):
        stems = {Path(n).stem: n for n in some}
        if near := get_close_matches(path.stem, stems, n=1):
            return f"; did you mean {stems[near[0]]}?"
    if not path.parent.exists():
        return f": there is no folder {path.parent}"
    return f"; there {'is' if len(same) == 1 else 'are'} {', '.join(sorted(same)[:5])}" * bool(same)


def _folder(path: Path) -> str:
    inside = sorted(p.name for p in path.rglob("*") if p.name.lower().endswith(READ[:-1]))
    shown = f"; it holds {', '.join(inside[:5])}{', ...' if len(inside) > 5 else ''}"
    hint = ""
    if (path / "dataset_info.json").exists():  # Dataset.save_to_disk
        hint = "; write the dataset with its to_parquet(FILE), and give that file"
    return (
        f"{path} is a folder; expected a file: {', '.join(READ)} (also {', '.join(PACKED)})"
        + (shown if inside else "")
        + hint
    )


def _only_member(path: Path, raw: bytes) -> tuple[str, str, bytes]:
    """Returns name, ending and bytes of the one file in a zip archive.

    Raises:
        DataError: if there are several, or it is no table.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            inside = [
                i.filename
                for i in archive.infolist()
                if not i.is_dir() and not i.filename.startswith("__MACOSX/")
            ]
            if any(n.startswith(("xl/", "content.xml", "Index/")) for n in inside):
                raise DataError(_sheet(str(path)))
            data = [n for n in inside if n.lower().endswith(READ[:-1])] or inside
            if len(data) != 1:
                shown = ", ".join(data[:5]) + (", ..." if len(data) > 5 else "")
                raise DataError(
                    f"{path} holds {len(data)} files ({shown}); expected one: unpack it, and "
                    "give the file"
                )
            content = archive.read(data[0])
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if data[0].lower().endswith((".parquet", ".arrow", ".feather")):
        raise DataError(f"{path} holds {data[0]}: unpack it, and give that file")
    return f"{path} ({data[0]})", data[0].lower(), content


def _refuse_others(name: str, kind: str, raw: bytes) -> None:
    """Raises `DataError` for what is no text, with what to do instead."""
    if kind.endswith(_SHEETS) or raw.startswith(b"\xd0\xcf\x11\xe0"):  # Excel until 2003
        raise DataError(_sheet(name))
    if raw.startswith(b"PAR1") or raw.startswith(b"ARROW1"):
        ending = ".parquet" if raw.startswith(b"PAR1") else ".arrow"
        raise DataError(f"{name} is a {ending[1:]} file: give it the ending {ending}, unpacked")
    if raw.startswith(b"\x28\xb5\x2f\xfd"):
        raise DataError(f"{name} is packed with zstd: unpack it with `unzstd`, and give the file")
    if raw[257:262] == b"ustar":
        raise DataError(f"{name} is a tar archive: unpack it with `tar -xf`, and give the file")
    if kind.endswith((".pkl", ".pickle", ".npy", ".pt")):
        raise DataError(
            f"{name} is no table of texts: with pandas, write it with "
            "to_csv(path, index=False) or to_parquet(path)"
        )
    start = raw[:512].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise DataError(
            f"{name} is a web page, not a table: the download probably saved a page about the "
            "file (a login, a link that needs 'raw')"
        )
    if start.startswith(b"version https://git-lfs"):
        raise DataError(
            f"{name} is a pointer of Git LFS, not the data: fetch it with `git lfs pull`"
        )


def _sheet(name: str) -> str:
    return (
        f"{name} is a spreadsheet: save it as 'CSV UTF-8' there, or convert it with pandas: "
        "pandas.read_excel(IN).to_csv(OUT, index=False)"
    )
