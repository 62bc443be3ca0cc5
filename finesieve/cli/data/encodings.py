"""Bytes become text: by their byte order mark, else as UTF-8; what is neither is refused.

The advice in a refusal has to work for the file at hand, so it depends on what the bytes look like.
"""

from __future__ import annotations

import codecs

from finesieve.errors import DataError

# UTF-32's mark begins with that of UTF-16, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE = 4096  # bytes


def decode(name: str, raw: bytes) -> str:
    """Return the text of a file.

    Args:
        name: of the file, for messages.
        raw: its bytes.

    Raises:
        DataError: where the bytes are no text in UTF-8, UTF-16 or UTF-32.
    """
    encoding = encoding_of(raw)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding not in ("utf-8", "utf-8-sig"):
            raise DataError(
                f"{name} begins as {encoding.upper()} text, but byte {error.start} does not fit "
                "it: was the file cut, or put together from several?"
            ) from None
        raise DataError(_not_utf8(name, raw, error)) from None


def encoding_of(raw: bytes) -> str:
    """Returns the encoding that a file's bytes begin in: that of its mark, or what is likely.

    Args:
        raw: its bytes; the first `SAMPLE` do.
    """
    marked = next((e for mark, e in _MARKS if raw.startswith(mark)), None)
    return marked or _utf16_without_mark(raw[:SAMPLE]) or "utf-8"


def _utf16_without_mark(sample: bytes) -> str | None:
    """Returns the encoding if it is UTF-16, in whose Western text every second byte is 0; else
    None."""
    for encoding, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[0::2])):
        if zeros and zeros.count(0) > 0.8 * len(zeros):
            return encoding
    return None


def _not_utf8(name: str, raw: bytes, error: UnicodeDecodeError) -> str:
    line = raw[: error.start].count(b"\n") + 1
    what = f"{name}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8"
    good = len(raw.decode("utf-8", "ignore").encode())  # bytes that are
    wide = good - sum(byte < 0x80 for byte in raw)  # of these, in letters of several bytes
    if wide > 4 * (len(raw) - good):  # Western or Cyrillic bytes hardly ever form such letters
        return (
            f"{what}, though {wide} other bytes beyond ASCII are: the file is damaged, or put "
            "together from files in different encodings. Mend this line, or drop what cannot be "
            "read with `iconv -c -f utf-8 -t utf-8 IN > OUT`"
        )
    if sum(byte > 0x7F for byte in raw) > len(raw) / 4:  # no Western language has so many
        return (
            f"{what}; the file is in another encoding: convert it with `iconv -f ENCODING -t utf-8 "
            "IN > OUT`, where ENCODING is likely to be windows-1251 (Cyrillic), gb18030 (Chinese), "
            "cp932 (Japanese), cp949 (Korean), windows-1256 (Arabic) or windows-1253 (Greek)"
        )
    return (
        f"{what}; the file is probably in the encoding of Western Windows: convert it with "
        "`iconv -f windows-1252 -t utf-8 IN > OUT`, and look whether its letters are right then; "
        "from Excel, save it as 'CSV UTF-8'"
    )
