"""Reads datasets of other products: which images they label, and where these are on this machine.

Each format is a function that yields what the file says about each image. `read_dataset` finds the images, and says
which it leaves out.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, TypeVar
from urllib.parse import parse_qs, unquote

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from service.client.errors import InvalidInput
from service.client.files import LabelledFile, read_file
from service.client.folders import SampleSet, SkippedFile, read_class_folders, shown

T = TypeVar("T")

DatasetKind = Literal["azure-custom-vision", "coco", "csv", "label-studio", "lookout-for-vision", "yolo"]

_SPLITS: Final = ("train", "val", "valid", "test")
IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_UPLOAD_PREFIX: Final = re.compile(r"^[0-9a-f]{8}-")
_MAX_LABEL_CHARACTERS: Final = 64
_NEVER_IN_LABELS: Final = frozenset({"Cc", "Cs", "Co", "Zl", "Zp"})
_CLASSIFICATION: Final = "groundtruth/image-classification"


@dataclass(frozen=True, slots=True)
class _Record:
    """What a dataset says about an image.

    Attributes:
        where: names the record in messages.
        sources: paths or addresses of the image, the most likely first.
        labels: its labels. Anole needs exactly one.
        part: the physical part that it shows, if the dataset says so.
    """

    where: str
    sources: tuple[str, ...]
    labels: tuple[str, ...]
    part: str | None = None


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A record that cannot be read."""

    where: str
    reason: str


_Records = Iterator[_Record | _Unreadable]


def read_dataset(kind: DatasetKind, path: str | Path, root: str | Path | None = None) -> SampleSet:
    """Read the labelled images of a dataset.

    No image is downloaded. An address such as ``s3://bucket/parts/7.png`` stands for the file ``parts/7.png`` in
    `root`, or for ``7.png`` in it.

    Args:
        kind: which product wrote it.
        path: the file that the product exports, or the folder of a YOLO dataset.
        root: folder with the images. Default: the folder of `path`. A YOLO dataset takes none.

    Raises:
        InvalidInput: the file is not in the format, no image can be used, or `root` is given for a YOLO dataset.
    """
    path = Path(path)
    if kind == "yolo":
        if root is not None:
            raise InvalidInput("a YOLO dataset takes no root: its images are in the folder of the dataset itself")
        return _read_yolo(path)
    found = _Found(Path(root) if root is not None else path if path.is_dir() else path.parent)
    for record in _FORMATS[kind](path):
        found.add(record)
    if not found.samples:
        raise InvalidInput(
            f"{shown(path)} has no image with one label whose file is in {shown(found.root)}{_first(found.skipped)}"
        )
    return SampleSet(tuple(_with_all_parts(found.samples)), tuple(found.skipped))


class _Found:
    """Collects the samples whose images exist, and the reasons why others are left out.

    Args:
        root: folder with the images.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.samples: list[LabelledFile] = []
        self.skipped: list[SkippedFile] = []
        self._used: dict[Path, str] = {}

    def add(self, record: _Record | _Unreadable) -> None:
        """Read the image of a record, or note why not."""
        reason = record.reason if isinstance(record, _Unreadable) else self._read(record)
        if reason:
            self.skipped.append(SkippedFile(shown(record.where), reason))

    def _read(self, record: _Record) -> str:
        labels = sorted({label for label in map(_normalised, record.labels) if label})
        if not labels:
            return "has no label"
        if len(labels) > 1:
            return f"has {len(labels)} labels ({', '.join(labels)}); Anole needs one per image"
        if fault := _fault_of(labels[0]):
            return fault
        image = next(filter(None, (self._find(source) for source in record.sources)), None)
        if image is None:
            return f"its image is not in {shown(self.root)}; give the folder of the images as root"
        if not image.resolve().is_relative_to(self.root.resolve()):
            return f"its image is a link that leads out of {shown(self.root)}; copy the file there"
        if image in self._used:
            return f"leads to the same file as {self._used[image]}; give the folder that has both as root"
        self._used[image] = record.where
        self.samples.append(LabelledFile(labels[0], image.name, read_file(image), record.part))
        return ""

    def _find(self, source: str) -> Path | None:
        """Return the file of the path or of its longest ending that exists in the folder. None leads out of it."""
        steps = [step for step in PurePosixPath(_path_of(source)).parts if step not in {"/", "."}]
        if ".." in steps:
            return None
        for start in range(len(steps)):
            candidate = self.root.joinpath(*steps[start:])
            if _is_file(candidate):
                return candidate
        return None


def _normalised(text: str) -> str:
    """Return a text as the service compares it: in Unicode NFC, without surrounding blanks."""
    return unicodedata.normalize("NFC", text).strip()


def _fault_of(label: str) -> str:
    """Return why the service would reject a label, as far as that is certain here, or an empty text."""
    if len(label) > _MAX_LABEL_CHARACTERS:
        return f"its label has {len(label)} characters; at most {_MAX_LABEL_CHARACTERS} are allowed"
    if any(unicodedata.category(character) in _NEVER_IN_LABELS for character in label):
        return f"its label {label!r} contains a control character; use plain text"
    return ""


def _path_of(source: str) -> str:
    """Return the path in an address; with the bucket, if it has one."""
    scheme, separator, path = source.replace("\\", "/").partition("://")
    if not separator:
        return scheme
    return unquote(re.split("[?#]", path)[0]) if scheme in {"http", "https"} else path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, such as an image written as an address
        return False


def _with_all_parts(samples: list[LabelledFile]) -> list[LabelledFile]:
    """Return the samples; if some have a part, each of the others gets one of its own."""
    if not any(sample.part for sample in samples):
        return samples
    return [
        sample if sample.part else replace(sample, part=f"{sample.name} of record {index}")
        for index, sample in enumerate(samples)
    ]


def _parsed(kind: type[T] | Any, content: bytes, path: Path, what: str) -> T:
    """Parse JSON. Raises InvalidInput."""
    try:
        parsed: T = TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise InvalidInput(f"{shown(path)} is not {what}: {where or 'it'}: {first['msg']}") from error
    return parsed


class _CamelCase(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Tag(_CamelCase):
    tag_id: str
    tag_name: str | None = None


class _TaggedImage(_CamelCase):
    id: str
    tags: list[_Tag] | None
    original_image_uri: str | None = None
    image_uri: str | None = None


class _NamedTag(BaseModel):
    id: str
    name: str


def _azure_custom_vision(path: Path) -> _Records:
    """Read what the Training API responds to GetImages and GetTags, in one file or in all .json files of a folder.

    An image that was downloaded is found by its id, such as ``<id>.jpg``, or by the name in its address.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    names: dict[str, str] = {}
    images: list[_TaggedImage] = []
    for file in files:
        what = "a response of Custom Vision's GetImages or GetTags"
        entries: list[_TaggedImage | _NamedTag] = _parsed(list[_TaggedImage | _NamedTag], read_file(file), file, what)
        images += [each for each in entries if isinstance(each, _TaggedImage)]
        names |= {each.id: each.name for each in entries if isinstance(each, _NamedTag)}
    if not images:
        raise InvalidInput(f"{shown(path)} has no images; save the response of Custom Vision's GetImages there")
    for image in images:
        addresses = filter(None, (image.original_image_uri, image.image_uri))
        sources = (*(f"{image.id}{suffix}" for suffix in IMAGE_SUFFIXES), *addresses)
        labels = tuple(tag.tag_name or names.get(tag.tag_id, tag.tag_id) for tag in image.tags or ())
        yield _Record(image.id, sources, labels)


class _CocoImage(BaseModel):
    id: int | str
    file_name: str


class _CocoAnnotation(BaseModel):
    image_id: int | str
    category_id: int | str


class _CocoCategory(BaseModel):
    id: int | str
    name: str


class _Coco(BaseModel):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory]


def _coco(path: Path) -> _Records:
    """Read the categories of each image. Boxes and masks are ignored."""
    coco: _Coco = _parsed(_Coco, read_file(path), path, "a COCO file")
    names = _by_id(path, "categories", ((category.id, category.name) for category in coco.categories))
    files = _by_id(path, "images", ((image.id, image.file_name) for image in coco.images))
    labels: dict[str, list[str]] = defaultdict(list)
    for annotation in coco.annotations:
        category = str(annotation.category_id)
        labels[str(annotation.image_id)].append(names.get(category, category))
    for number, file in files.items():
        yield _Record(file, (file,), tuple(labels[number]))


def _by_id(path: Path, what: str, entries: Iterable[tuple[int | str, str]]) -> dict[str, str]:
    """Return names by id. An id may be written as a number in one place and as text in another."""
    names: dict[str, str] = {}
    for number, name in entries:
        if str(number) in names:
            raise InvalidInput(
                f"{shown(path)} has two {what} with the id {number}: {names[str(number)]!r} and {name!r}; give each "
                "an id of its own"
            )
        names[str(number)] = name
    return names


class _Choices(BaseModel):
    choices: list[str] = []


class _Result(BaseModel):
    type: str = ""
    value: _Choices = _Choices()


class _Annotation(BaseModel):
    result: list[_Result] = []
    was_cancelled: bool = False


class _Task(BaseModel):
    id: int | str = ""
    data: dict[str, Any]
    annotations: list[_Annotation] = Field(default=[])


def _label_studio(path: Path) -> _Records:
    """Read the choices of each task of the JSON export. Cancelled annotations do not count.

    Label Studio puts eight characters before the names of uploaded files; both names are tried.
    """
    tasks: list[_Task] = _parsed(list[_Task], read_file(path), path, "a JSON export of Label Studio")
    for task in tasks:
        texts = [str(value) for key, value in task.data.items() if isinstance(value, str) and key != "image"]
        source = str(task.data.get("image") or next(iter(texts), ""))
        local = parse_qs(source.partition("?")[2]).get("d")
        reference = local[0] if local else source
        folder, slash, name = _path_of(reference).rpartition("/")
        original = _UPLOAD_PREFIX.sub("", name)
        results = [result for each in task.annotations if not each.was_cancelled for result in each.result]
        labels = tuple(choice for result in results if result.type == "choices" for choice in result.value.choices)
        sources = (reference, f"{folder}{slash}{original}") if original else (reference,)
        yield _Record(reference or f"task {task.id}", sources, labels)


def _lookout_for_vision(path: Path) -> _Records:
    """Read the lines of a manifest of Lookout for Vision, or of another Ground Truth classification job."""
    for number, line in enumerate(read_file(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry: dict[str, Any] = _parsed(dict[str, Any], line, path, "a manifest")
        except InvalidInput:
            yield _Unreadable(f"line {number}", "is not a JSON object")
            continue
        source = entry.get("source-ref")
        if isinstance(source, str):
            yield _Record(source, (source,), tuple(_ground_truth_labels(entry)))
        else:
            yield _Unreadable(f"line {number}", "has no source-ref")


def _ground_truth_labels(entry: Mapping[str, Any]) -> Iterator[str]:
    for name, metadata in entry.items():
        if name.endswith("-metadata") and isinstance(metadata, dict) and metadata.get("type") == _CLASSIFICATION:
            label = metadata.get("class-name") or entry.get(name.removesuffix("-metadata"))
            if label is not None:
                yield str(label)


def _csv(path: Path) -> _Records:
    """Read a table with the columns file and label, and part if it is known."""
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{shown(path)} is not in UTF-8; save it as CSV UTF-8") from error
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    try:
        yield from _table(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter), path)
    except csv.Error as error:
        raise InvalidInput(f"{shown(path)} is not a CSV table: {error}") from error


def _table(rows: csv.DictReader[str], path: Path) -> _Records:
    columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    if not {"file", "label"} <= columns.keys():
        raise InvalidInput(
            f"the first line of {shown(path)} has the columns {', '.join(columns) or 'none'}; needed: file, label and, "
            "if it is known, part"
        )
    records: dict[PurePosixPath, _Record] = {}
    for row in rows:
        file, label, part = ((row.get(columns.get(name, "")) or "").strip() for name in ("file", "label", "part"))
        label, part = _normalised(label), _normalised(part)
        if not file:
            yield _Unreadable(f"line {rows.line_num}", "names no file")
            continue
        image = PurePosixPath(_normalised(_path_of(file)))  # one file, however its name is encoded
        first = records.setdefault(image, _Record(file, (file,), (), part or None))
        if label in first.labels and part == (first.part or ""):
            yield _Unreadable(f"line {rows.line_num}", f"repeats what an earlier line says about {file}")
        elif part and first.part and part != first.part:
            yield _Unreadable(
                f"line {rows.line_num}", f"gives {file} the part {part}; an earlier line says {first.part}"
            )
        sources, labels = (*first.sources, file), (*first.labels, label)
        records[image] = replace(first, sources=sources, labels=labels, part=first.part or part or None)
    yield from records.values()


def _read_yolo(folder: Path) -> SampleSet:
    """Read the class folders of all splits. Without splits, read the folder itself."""
    splits = [folder / name for name in _SPLITS if (folder / name).is_dir()]
    sets = [(each, read_class_folders(each, skip_empty=True)) for each in splits or [folder]]
    skipped = [
        SkippedFile(each.path if split == folder else f"{split.name}/{each.path}", each.reason)
        for split, found in sets
        for each in found.skipped
    ]
    samples = tuple(sample for _, found in sets for sample in found.samples)
    if not samples:
        raise InvalidInput(f"{shown(folder)} has no class folder with images{_first(skipped)}")
    return SampleSet(samples, tuple(skipped))


def _first(skipped: Sequence[SkippedFile]) -> str:
    return f"; {skipped[0].path}: {skipped[0].reason}" if skipped else ""


_FORMATS: Final[Mapping[str, Callable[[Path], _Records]]] = {
    "azure-custom-vision": _azure_custom_vision,
    "coco": _coco,
    "csv": _csv,
    "label-studio": _label_studio,
    "lookout-for-vision": _lookout_for_vision,
}
