"""The titles and texts of PDF and Word files."""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path

from ...documents import cleaned
from ...errors import DataError
from ...extras import importing
from .html import row_blocks
from .lines import MAX_BYTES, whole_bytes

__all__ = ["parse_docx", "parse_pdf"]


def parse_pdf(path: Path) -> tuple[str, str]:
    """Title and text of a PDF file, a blank line between its pages.

    Raises:
        DataError: if it cannot be read, or has no text, as scanned pages have none.
        MissingExtraError: if pypdf is not installed.
    """
    with importing("pypdf", extra="readers"):
        import pypdf
    data = whole_bytes(path)
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of each oddity of a file that it can read
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError("encrypted", path=path)
        title = str((reader.metadata and reader.metadata.title) or "")
        pages = [page.extract_text().strip() for page in reader.pages]
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes it raise errors of any kind
        raise DataError(f"not a PDF file that can be read: {error}", path=path) from error
    text = cleaned("\n\n".join(page for page in pages if page))
    if not text.strip():
        raise DataError("no text in its pages: scanned ones need OCR first", path=path)
    return " ".join(cleaned(title).split()), text


def parse_docx(path: Path) -> tuple[str, str]:
    """Title and text of a Word file: paragraphs with a blank line between them, the row of a table as one line.

    Raises:
        DataError: if it cannot be read.
        MissingExtraError: if python-docx is not installed.
    """
    with importing("docx", extra="readers"):
        import docx
        from docx.table import Table
    data = whole_bytes(path)
    blocks, heading = [], ""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            if sum(part.file_size for part in parts.infolist()) > 4 * MAX_BYTES:
                raise DataError(f"larger than {4 * MAX_BYTES >> 20} MiB when unzipped", path=path)
        document = docx.Document(io.BytesIO(data))
        for block in document.iter_inner_content():
            if isinstance(block, Table):
                for row in block.rows:
                    blocks += row_blocks([[cell.text] for cell in dict.fromkeys(row.cells) if cell.text.strip()])
            elif block.text.strip():
                style = (block.style and block.style.name) or ""
                if not heading and style.startswith(("Title", "Heading")):
                    heading = block.text
                blocks.append(block.text.strip())
        title = document.core_properties.title or heading
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes it raise errors of any kind
        raise DataError(f"not a Word file that can be read: {error}", path=path) from error
    return " ".join(cleaned(title).split()), cleaned("\n\n".join(blocks))
