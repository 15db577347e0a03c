"""Small real images, and files about them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(colour: str = "red", size_px: tuple[int, int] = (100, 50), form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size_px, colour).save(file, format=form)
    return file.getvalue()


def save(path: Path, colour: str = "red", size_px: tuple[int, int] = (100, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(colour, size_px, "JPEG" if path.suffix == ".jpg" else "PNG"))
    return path


def json_file(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def json_lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path
