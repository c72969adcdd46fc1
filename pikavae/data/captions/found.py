"""Finds the caption of each picture of a folder in lists and in files beside it, and warns of oddities.

A picture's caption is the first of these that is not empty: a row of a list that names its path; a file of its name; a
row that names a missing file, if only this picture is like it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pikavae.data.captions.beside import JSON_SUFFIX, caption_of_file, is_same_caption, match, read_caption_file
from pikavae.data.captions.clean import clean_caption
from pikavae.data.captions.empty import GUESSED
from pikavae.data.captions.metadata import UNMATCHED_ROWS, MetadataCaptions, read_captions
from pikavae.data.files.listing import LIST_SUFFIXES, FoundFile, Listing, is_metadata, printable, suffix_of
from pikavae.data.files.rows import OUTDATED_ROWS, SECOND_CAPTIONS, SetAside

MOST_LISTS = 20
"""The most files of a folder that are tried as lists; more of them are captions of single pictures."""
MOST_EXAMPLES = 3
IN_LISTS, IN_TEXT, IN_JSON = "lists such as metadata.csv", "text files beside them", "JSON files beside them"
NOT_READ = "captions beside pictures"


@dataclass
class FolderCaptions:
    """Holds the captions of a folder.

    Attributes:
        listed: captions from lists, by the name of a picture; they do not count for pictures in `chosen`.
        chosen: the caption file by the path of a picture.
        columns: the lists' column, if there are lists.
        counts: the number of pictures by origin of the caption.
        set_aside: rows that name no picture, and second captions of one.
        ignored: caption files that do not count, and other files that hold no captions.
        warnings: what to know about the captions.
    """

    listed: dict[str, object] = field(default_factory=dict)
    chosen: dict[str, FoundFile] = field(default_factory=dict)
    columns: dict[str, str | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    set_aside: list[SetAside] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def find_captions(listing: Listing, wanted: str | None) -> FolderCaptions:
    """Find the caption of every picture; remove the tables that are lists from the listing.

    Args:
        listing: the listing of the folder.
        wanted: the configured caption column; None to guess it.

    Raises:
        UserError: a metadata file cannot be understood.
    """
    beside = match(listing.pictures, listing.captions)
    matched = {file.path for files in beside.values() for file in files}
    orphans = [found for found in listing.captions if found.path not in matched]
    tables = [found for found in listing.tables if is_metadata(found.path)]
    listing.tables = [found for found in listing.tables if not is_metadata(found.path)]
    candidates, untried = _candidates([*listing.lists, *tables, *orphans])
    metadata = read_captions(listing.root, candidates, [printable(f.path) for f in listing.pictures], wanted)
    found = FolderCaptions(set_aside=metadata.set_aside, columns={"caption": metadata.column} if metadata.read else {})
    differing, likened = _choose(found, listing, metadata, beside)
    unread = [*untried, *metadata.unread]
    found.ignored["other"] += len(unread)
    found.ignored = +found.ignored
    found.warnings = [
        *_about_lists(metadata, is_all=not found.counts),
        *_about_likened(likened),
        *_about_second(differing),
    ]
    if not found.counts and unread:
        found.warnings.append(_about_unread(unread, metadata.unread))
    return found


def _candidates(files: Sequence[FoundFile]) -> tuple[list[str], list[str]]:
    """Return the files that may be lists, and those that are not, by their suffix or number."""
    lists = [found.path for found in files if found.suffix in LIST_SUFFIXES]
    in_folder = Counter(path.rpartition("/")[0] for path in lists if not is_metadata(path))
    tried = [path for path in lists if is_metadata(path) or in_folder[path.rpartition("/")[0]] <= MOST_LISTS]
    return tried, sorted({found.path for found in files} - {*tried})


def _choose(
    found: FolderCaptions,
    listing: Listing,
    metadata: MetadataCaptions,
    beside: dict[str, list[FoundFile]],
) -> tuple[list[str], list[tuple[str, str]]]:
    """Give each picture its caption; a row of `distant` that gives none counts as missing.

    Returns:
        The pictures with a differing second caption; pairs of the name in a row and the picture that it was taken for.
    """
    counts: Counter[str] = Counter()
    differing: list[str] = []
    likened: list[tuple[str, str]] = []
    for picture in listing.pictures:
        name = printable(picture.path)
        files = beside.get(picture.path, [])
        if len(files) > 1:
            files = sorted(files, key=lambda found: found.stat.st_size == 0)
        listed = metadata.captions.get(name)
        if listed is not None and clean_caption(listed).text:
            found.listed[name], others = listed, files
            counts[IN_LISTS] += 1
            found.ignored[NOT_READ] += len(files)
        elif files and not (name in metadata.distant and _is_empty(listing.root, files[0])):
            found.chosen[picture.path], *others = files
            listed = None
            counts[IN_JSON if files[0].suffix == JSON_SUFFIX else IN_TEXT] += 1
        else:
            others = []
            if name in metadata.distant:
                _, row_name, listed = metadata.distant.pop(name)
                likened.append((row_name, name))
            if listed is not None:
                found.listed[name] = listed
                counts[IN_LISTS] += bool(clean_caption(listed).text)
        if others:
            own = listed if listed is not None else _content(listing.root, files[0])
            unlike = [other for other in others if not is_same_caption(own, _content(listing.root, other))]
            if unlike:
                differing.append(name)
            if listed is None:
                reason = f"{printable(files[0].path)} is beside it and counts"
                found.set_aside += [SetAside(printable(other.path), reason, SECOND_CAPTIONS) for other in unlike]
    found.counts = {where: number for where, number in sorted(counts.items()) if number}
    metadata.num_missing += len(metadata.distant)
    for label, row_name, _ in metadata.distant.values():
        found.set_aside.append(SetAside(label, f"names {row_name!r}, which is not there", UNMATCHED_ROWS))
    if sum(counts.values()) == len(listing.pictures):
        found.set_aside = [
            item._replace(kind=OUTDATED_ROWS) if item.kind == UNMATCHED_ROWS else item for item in found.set_aside
        ]
    return differing, likened


def _is_empty(root: Path, file: FoundFile) -> bool:
    return not clean_caption(_content(root, file)).text


def _content(root: Path, file: FoundFile) -> object:
    try:
        return caption_of_file(file.path, read_caption_file(root / file.path)[0])
    except OSError:
        return None


def _about_lists(metadata: MetadataCaptions, *, is_all: bool) -> list[str]:
    """Return sentences about the lists; `is_all` means that no picture has a caption."""
    lists = _examples(printable(file) for file in metadata.read)
    warnings = []
    if metadata.num_missing:
        first = f" ({metadata.set_aside[0].name} {metadata.set_aside[0].reason})" if metadata.set_aside else ""
        rows = "1 row" if metadata.num_missing == 1 else f"{metadata.num_missing:,} rows"
        verb = "names" if metadata.num_missing == 1 else "name"
        lead = "No picture has a caption: " if is_all else ""
        warnings.append(f"{lead}{rows} of {lists} {verb} no picture that is there{first}.")
    if metadata.read and metadata.column is None:
        warnings.append(f"No column of {lists} is plainly one of captions; name it in data.caption_column.")
    if metadata.twice:
        pictures = sorted(set(metadata.twice))
        warnings.append(
            f"{_have(pictures)} several captions in {lists} ({_examples(pictures)}): the first counts, "
            f"of several files that of the deeper folder."
        )
    warnings += [
        f"{printable(file)} is not read as a list of captions: {reason}."
        for file, reason in metadata.unread.items()
        if "data.caption_column" in reason
    ]
    guessed = [printable(file) for file, note in metadata.encodings.items() if note == GUESSED]
    if guessed:
        warnings.append(f"{_examples(guessed)}: read as Windows-1252; save as UTF-8 if letters are wrong.")
    return warnings


def _about_likened(likened: Sequence[tuple[str, str]]) -> list[str]:
    if not likened:
        return []
    row_name, picture = likened[0]
    return [
        f"{_have(name for _, name in likened)} the caption of a row that names another file, which is not there, "
        f"because no other picture is like it ({row_name!r} for {picture!r})."
    ]


def _about_second(differing: Sequence[str]) -> list[str]:
    if not differing:
        return []
    return [
        f"{_have(differing)} captions that differ ({_examples(differing)}): a row of a list counts "
        f"before files beside the picture, and of these .txt before .caption before .json."
    ]


def _about_unread(unread: Sequence[str], reasons: dict[str, str]) -> str:
    kinds = Counter(suffix_of(path) or "without a suffix" for path in unread)
    counted = " and ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
    first = sorted(unread)[0]
    why = reasons.get(first, "its name is like none of the pictures'")
    return (
        f"No picture has a caption, although other files are there that may hold some ({counted}, such as "
        f"{printable(first)}: {why}); name them as the pictures, 000.txt beside 000.png, or list them in metadata.csv."
    )


def _have(pictures: Iterable[str]) -> str:
    number = len(list(pictures))
    return f"{number:,} pictures have" if number > 1 else "1 picture has"


def _examples(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:MOST_EXAMPLES]) + (", ..." if len(listed) > MOST_EXAMPLES else "")
