"""Each way that people store captions, with each mistake that they make: what is read, and what is said.

`python -m tests.faults.captions` prints the table; `tests/data/test_caption_matrix.py` holds every cell to it.
"""

import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.captions.clean import clean_caption
from pikavae.data.captions.empty import caption_warnings
from pikavae.data.sources.open import open_source
from pikavae.errors import UserError

NUMBER = 4
Rows = dict[str, str]
"""The captions by the name of the picture in `train/`."""
Files = dict[str, bytes]


def captions(text: str = "a café cat, number") -> Rows:
    return {f"img_{i}.png": f"{text} {i}" for i in range(NUMBER)}


@dataclass(frozen=True)
class Stored:
    """One way of storing captions.

    Attributes:
        write: the files in the pictures' folder for these rows, with this column of names and that of captions.
        is_list: one file lists all pictures.
        is_text: its files are text, whose encoding may be wrong.
    """

    write: Callable[[Rows, str, str], Files]
    is_list: bool = True
    is_text: bool = True


def delimited(name: str, delimiter: str) -> Callable[[Rows, str, str], Files]:
    def write(rows: Rows, file_column: str, caption_column: str) -> Files:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        writer.writerows([(file_column, caption_column), *rows.items()])
        return {name: text.getvalue().encode()}

    return write


def beside(suffix: str) -> Stored:
    return Stored(lambda rows, *_: {Path(n).stem + suffix: text.encode() for n, text in rows.items()}, is_list=False)


def json_beside(rows: Rows, _: str, caption_column: str) -> Files:
    return {Path(n).stem + ".json": dumped({"id": n, caption_column: text}) for n, text in rows.items()}


def dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def records(rows: Rows, file_column: str, caption_column: str) -> list[dict[str, str]]:
    return [{file_column: name, caption_column: text} for name, text in rows.items()]


def parquet(rows: Rows, file_column: str, caption_column: str) -> Files:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records(rows, file_column, caption_column)), buffer)
    return {"metadata.parquet": buffer.getvalue()}


def coco(rows: Rows, *_: str) -> Files:
    images = [{"id": i, "file_name": name} for i, name in enumerate(rows)]
    return {
        "captions_train.json": dumped(
            {"images": images, "annotations": [{"image_id": i, "caption": t} for i, t in enumerate(rows.values())]}
        )
    }


WAYS: dict[str, Stored] = {
    "000.txt": beside(".txt"),
    "000.caption": beside(".caption"),
    "000.json": Stored(json_beside, is_list=False),
    "metadata.csv": Stored(delimited("metadata.csv", ",")),
    "metadata.tsv": Stored(delimited("metadata.tsv", "\t")),
    "metadata.jsonl": Stored(lambda *a: {"metadata.jsonl": b"\n".join(map(dumped, records(*a)))}),
    "metadata.json": Stored(lambda *a: {"metadata.json": dumped(records(*a))}),
    "metadata.parquet": Stored(parquet, is_text=False),
    "meta_cap.json": Stored(
        lambda rows, _, column: {"meta_cap.json": dumped({n: {column: t} for n, t in rows.items()})}
    ),
    "COCO's json": Stored(coco),
    "captions.csv": Stored(delimited("captions.csv", ",")),
    "captions.txt": Stored(lambda rows, *_: {"captions.txt": "".join(f"{n}\t{t}\n" for n, t in rows.items()).encode()}),
}


def plain(way: Stored, rows: Rows) -> Files:
    return in_train(way.write(rows, "file_name", "text"))


def in_train(files: Files) -> Files:
    return {f"train/{name}": content for name, content in files.items()}


def renamed(rows: Rows, change: Callable[[str], str]) -> Rows:
    return {change(name): text for name, text in rows.items()}


def encoded(encoding: str, mark: bytes = b"") -> Callable[[Stored, Rows], Files | None]:
    def write(way: Stored, rows: Rows) -> Files | None:
        files = plain(way, rows)
        return {n: mark + c.decode().encode(encoding) for n, c in files.items()} if way.is_text else None

    return write


def upper_files(way: Stored, rows: Rows) -> Files:
    return {f"train/{Path(name).name.upper()}": content for name, content in plain(way, rows).items()}


def upper_names(way: Stored, rows: Rows) -> Files:
    return plain(way, renamed(rows, str.upper))


def whole_names(way: Stored, rows: Rows) -> Files:
    """The picture's suffix where there is usually none, and none where there is."""
    if way.is_list:
        return plain(way, renamed(rows, lambda name: Path(name).stem))
    return {name.replace(".", ".png.", 1): content for name, content in plain(way, rows).items()}


def from_above(way: Stored, rows: Rows) -> Files:
    """A list that counts from the folder above; files in a folder beside the pictures'."""
    if way.is_list:
        return in_train(way.write(renamed(rows, lambda name: f"train/{name}"), "file_name", "text"))
    return {f"captions/{name}": content for name, content in plain(way, rows).items()}


def list_above(way: Stored, rows: Rows) -> Files | None:
    """A list above the pictures' folder that names them without it."""
    return way.write(rows, "file_name", "text") if way.is_list else None


def backslashes(way: Stored, rows: Rows) -> Files | None:
    return way.write(renamed(rows, lambda name: f"train\\{name}"), "file_name", "text") if way.is_list else None


def other_columns(way: Stored, rows: Rows) -> Files | None:
    files = in_train(way.write(rows, "Image", "Prompt"))
    return None if files == plain(way, rows) else files


def other_delimiter(way: Stored, rows: Rows) -> Files | None:
    name, *others = way.write(rows, "file_name", "text")
    if others or Path(name).suffix not in {".csv", ".tsv", ".txt"}:
        return None
    table = [["file_name", "text"], *map(list, rows.items())]
    lines = [";".join(f'"{field}"' for field in row) for row in table]
    return {f"train/{name}": b"\xef\xbb\xbf" + "\r\n".join(lines).encode()}


def out_of_date(way: Stored, rows: Rows) -> Files | None:
    """A list above that names files that are gone, while good text files lie beside every picture."""
    if not way.is_list:
        return None
    old = {f"old_{i}.png": f"stale {i}" for i in range(NUMBER)}
    return {**way.write(old, "file_name", "text"), **plain(WAYS["000.txt"], rows)}


def disagreeing(way: Stored, rows: Rows) -> Files | None:
    """Text files beside the pictures that say something else."""
    if way is WAYS["000.txt"]:
        return None
    other = plain(WAYS["000.txt"], dict.fromkeys(rows, "something else"))
    return {**other, **plain(way, rows)}


def cut(way: Stored, rows: Rows) -> Files | None:
    return {name: content[: len(content) * 2 // 3] for name, content in plain(way, rows).items()}


def empty(way: Stored, rows: Rows) -> Files:
    return plain(way, dict.fromkeys(rows, ""))


def unlike(way: Stored, rows: Rows) -> Files:
    return plain(way, {f"other_{i}.png": text for i, text in enumerate(rows.values())})


MISTAKES: dict[str, Callable[[Stored, Rows], Files | None]] = {
    "none": plain,
    "UPPER.CASE files": upper_files,
    "IMG_0 for img_0": upper_names,
    "suffix too many or few": whole_names,
    "from another folder": from_above,
    "list above": list_above,
    "backslashes": backslashes,
    "columns Image, Prompt": other_columns,
    "semicolons, BOM, CRLF": other_delimiter,
    "UTF-8 with BOM": encoded("utf-8", b"\xef\xbb\xbf"),
    "UTF-16": encoded("utf-16"),
    "UTF-16 without BOM": encoded("utf-16-le"),
    "Windows-1252": encoded("cp1252"),
    "Shift JIS": lambda way, _: encoded("shift_jis")(way, captions("猫が跳ぶ")),
    "out-of-date list": out_of_date,
    "text files differ": disagreeing,
    "cut short": cut,
    "all empty": empty,
    "names of other files": unlike,
}


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: captions that are right, pictures, what was said."""

    read: int
    said: tuple[str, ...]
    refused: str = ""

    @property
    def cell(self) -> str:
        if self.refused:
            return "refused"
        return f"{self.read}{'*' if self.said else ''}"


def outcome(way: str, mistake: str, folder: Path) -> Outcome | None:
    """Store captions in this way with this mistake in an empty folder, and read them; None where there is no such."""
    rows = captions()
    files = MISTAKES[mistake](WAYS[way], rows)
    if files is None:
        return None
    for i, name in enumerate(rows):
        (folder / "train").mkdir(exist_ok=True)
        Image.new("RGB", (4, 3), (50 * i, 9, 9)).save(folder / "train" / name)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    source = open_source(str(folder), DataConfig(source=str(folder)), "data.source")
    try:
        found = {p.name: clean_caption(p.caption) for chunk in source.chunks(100) for p in chunk.pictures()}
    except UserError as error:
        return Outcome(0, (), str(error).replace(str(folder), ""))
    notes = Counter[str](caption.note for caption in found.values())
    num_missing = notes["missing"] + notes["empty"]
    said = (*source.warnings, *caption_warnings(len(found), num_missing, notes, {"source": source}))
    read = sum(found[f"train/{name}"].text == text for name, text in rows.items())
    return Outcome(read, said)


def table() -> str:
    """The matrix as Markdown, and below it every sentence that was said, once."""
    lines = [f"| of {NUMBER} captions | {' | '.join(WAYS)} |", f"| --- |{' --- |' * len(WAYS)}"]
    sentences: dict[str, list[str]] = {}
    for mistake in MISTAKES:
        cells = []
        for way in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                found = outcome(way, mistake, Path(folder))
            cells.append("" if found is None else found.cell)
            for sentence in () if found is None else (*found.said, *([found.refused] if found.refused else [])):
                sentences.setdefault(sentence, []).append(f"{way}, {mistake}")
        lines.append(f"| {mistake} | {' | '.join(cells)} |")
    listed = [f"- {' / '.join(cells[:2])}: {sentence}" for sentence, cells in sentences.items()]
    return "\n".join([*lines, "", "`*`: a warning; empty: cannot be. What was said:", "", *listed])


if __name__ == "__main__":
    print(table())
