"""Datasets in the form that each product documents.

Azure Custom Vision, what the Training API responds to GetImages (before release 3.1: GetTaggedImages) and GetTags:
    https://centralindia.dev.cognitive.microsoft.com/docs/services/Custom_Vision_Training_2.2/operations/5b63704940d86a0fb87aab2a
    https://github.com/MicrosoftDocs/azure-docs-sdk-node/blob/main/docs-ref-autogen/@azure/cognitiveservices-customvision-training/TrainingAPIModels.Image.yml
Amazon Lookout for Vision:
    https://docs.aws.amazon.com/lookout-for-vision/latest/developer-guide/manifest-file-classification.html
    https://docs.aws.amazon.com/lookout-for-vision/latest/developer-guide/manifest-file-segmentation.html
Label Studio: https://labelstud.io/guide/task_format.html and https://labelstud.io/guide/export.html
COCO: https://docs.aws.amazon.com/rekognition/latest/customlabels-dg/md-coco-overview.html and, as Custom Vision's
    migration writes it, https://learn.microsoft.com/en-us/azure/ai-services/computer-vision/how-to/model-customization
YOLO: https://docs.ultralytics.com/datasets/classify
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from service.client import DatasetKind, InvalidInput, SampleSet, read_dataset
from service.domain.version import validate_label
from service.errors import InvalidName


def images(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def document(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def labels(found: SampleSet) -> dict[str, str]:
    return {sample.content.decode(): sample.label for sample in found.samples}


def skipped(found: SampleSet) -> dict[str, str]:
    return {each.path: each.reason for each in found.skipped}


HEMLOCK, CHERRY = "b607964f-7bd6-4a3b-a869-6791fb6aab87", "0a1f2c3d-0000-4a3b-a869-6791fb6aab87"


def custom_vision_image(number: int, *tags: str, named: bool = True) -> dict[str, Any]:
    """An image as GetImages responds."""
    name = {HEMLOCK: "Hemlock", CHERRY: "Japanese Cherry"}
    created = "2017-12-19T15:56:10.3054998Z"
    return {
        "id": f"{number:08d}-e4b1-4e0b-93b2-0d2e5b1f5c4e",
        "created": created,
        "width": 1000,
        "height": 800,
        "resizedImageUri": f"https://irisprodwu2training.blob.core.windows.net/i-7/i-{number}?sv=2017&sig=x",
        "thumbnailUri": f"https://irisprodwu2training.blob.core.windows.net/i-7/t-{number}?sv=2017&sig=x",
        "originalImageUri": f"https://irisprodwu2training.blob.core.windows.net/i-7/o-{number}?sv=2017&sig=x",
        "tags": [{"tagId": tag, "created": created, **({"tagName": name[tag]} if named else {})} for tag in tags],
        "regions": [],
    }


def test_azure_custom_vision_images_are_found_by_id_or_by_address(tmp_path: Path) -> None:
    path = document(
        tmp_path / "images.json",
        [custom_vision_image(1, HEMLOCK), custom_vision_image(2, CHERRY), custom_vision_image(3, HEMLOCK, CHERRY)],
    )
    images(tmp_path, "00000001-e4b1-4e0b-93b2-0d2e5b1f5c4e.jpg", "i-7/o-2", "i-7/o-3")
    found = read_dataset("azure-custom-vision", path)
    assert labels(found) == {"00000001-e4b1-4e0b-93b2-0d2e5b1f5c4e.jpg": "Hemlock", "i-7/o-2": "Japanese Cherry"}
    assert skipped(found) == {
        "00000003-e4b1-4e0b-93b2-0d2e5b1f5c4e": "has 2 labels (Hemlock, Japanese Cherry); Anole needs one per image"
    }


def test_azure_custom_vision_pages_and_tags_are_read_from_a_folder(tmp_path: Path) -> None:
    tag = {"id": HEMLOCK, "name": "Hemlock", "description": None, "type": "Regular", "imageCount": 1}
    document(tmp_path / "tags.json", [tag])
    document(tmp_path / "page-1.json", [custom_vision_image(1, HEMLOCK, named=False)])
    document(tmp_path / "page-2.json", [{**custom_vision_image(2), "tags": None}])
    images(tmp_path / "downloaded", "o-1", "o-2")
    found = read_dataset("azure-custom-vision", tmp_path, tmp_path / "downloaded")
    assert labels(found) == {"o-1": "Hemlock"}
    assert skipped(found) == {"00000002-e4b1-4e0b-93b2-0d2e5b1f5c4e": "has no label"}


def manifest_line(source: str, name: str, label: int, **more: Any) -> str:
    metadata = {
        "confidence": 1,
        "job-name": "labeling-job/auto-label",
        "class-name": name,
        "human-annotated": "yes",
        "creation-date": "2020-11-10T03:37:09.600",
        "type": "groundtruth/image-classification",
    }
    return json.dumps({"source-ref": source, "anomaly-label-metadata": metadata, "anomaly-label": label, **more})


def test_lookout_for_vision_manifests_map_their_bucket_to_a_folder(tmp_path: Path) -> None:
    mask = {
        "internal-color-map": {"1": {"class-name": "scratch", "hex-color": "#2ca02c", "confidence": 0.0}},
        "type": "groundtruth/semantic-segmentation",
    }
    lines = [
        manifest_line("s3://bucket/image/anomaly/abnormal-1.jpg", "anomaly", 1),
        manifest_line("s3://bucket/image/normal/normal-1.jpg", "normal", 0),
        manifest_line(
            "s3://bucket/masked.jpg",
            "anomaly",
            1,
            **{"anomaly-mask-ref": "s3://b/m", "anomaly-mask-ref-metadata": mask},
        ),
        "",
        "not JSON",
        json.dumps({"anomaly-label": 1}),
        json.dumps({"source-ref": "s3://bucket/unlabelled.jpg"}),
        manifest_line("s3://bucket/missing.jpg", "normal", 0),
        manifest_line("s3://bucket/../../secret.jpg", "normal", 0),
    ]
    path = document(tmp_path / "train.manifest", "\n".join(lines))
    root = images(
        tmp_path / "copy", "image/anomaly/abnormal-1.jpg", "normal/normal-1.jpg", "masked.jpg", "unlabelled.jpg"
    )
    images(tmp_path, "secret.jpg")
    found = read_dataset("lookout-for-vision", path, root)
    assert labels(found) == {
        "image/anomaly/abnormal-1.jpg": "anomaly",
        "normal/normal-1.jpg": "normal",
        "masked.jpg": "anomaly",
    }
    missing = f"its image is not in {root}; give the folder of the images as root"
    assert skipped(found) == {
        "line 5": "is not a JSON object",
        "line 6": "has no source-ref",
        "s3://bucket/unlabelled.jpg": "has no label",
        "s3://bucket/missing.jpg": missing,
        "s3://bucket/../../secret.jpg": missing,
    }


def task(number: int, image: str, *choices: list[str], cancelled: bool = False) -> dict[str, Any]:
    """A task as Label Studio exports it, with one annotation for each list of choices."""
    return {
        "id": number,
        "created_at": "2021-03-09T21:52:49.513742Z",
        "updated_at": "2021-03-09T22:16:08.746926Z",
        "project": 83,
        "data": {"image": image},
        "annotations": [
            {
                "id": 1000 + number,
                "result": [
                    {
                        "from_name": "choice",
                        "id": "Dx",
                        "to_name": "image",
                        "type": "choices",
                        "value": {"choices": each},
                    },
                    {
                        "from_name": "tag",
                        "id": "Dy",
                        "to_name": "image",
                        "type": "rectanglelabels",
                        "value": {"x": 50.8, "rectanglelabels": ["Moonwalker"]},
                    },
                ],
                "was_cancelled": cancelled,
                "ground_truth": False,
                "completed_by": 10,
            }
            for each in choices
        ],
        "predictions": [],
    }


def test_label_studio_choices_are_labels(tmp_path: Path) -> None:
    path = document(
        tmp_path / "project.json",
        [
            task(1, "/data/upload/83/3f2a9b1c-weld-1.png", ["crack"]),
            task(2, "/data/local-files/?d=welds%2Fweld-2.png", ["clean"]),
            task(3, "https://example.com/opensource/weld%203.png?token=1", ["clean"], ["clean"]),
            task(4, "s3://bucket/weld-4.png", ["clean"], ["crack"]),
            task(5, "s3://bucket/weld-5.png", ["clean"], cancelled=True),
            task(6, "data:image/png;base64," + "A" * 5000, ["clean"]),
        ],
    )
    images(tmp_path, "weld-1.png", "welds/weld-2.png", "weld 3.png", "weld-4.png", "weld-5.png")
    found = read_dataset("label-studio", path)
    assert labels(found) == {"weld-1.png": "crack", "welds/weld-2.png": "clean", "weld 3.png": "clean"}
    assert list(skipped(found).values())[:2] == [
        "has 2 labels (clean, crack); Anole needs one per image",
        "has no label",
    ]
    assert len(found.skipped) == 3


def coco(*annotations: tuple[int, int]) -> dict[str, Any]:
    return {
        "info": {"description": "COCO 2017 Dataset", "year": 2017},
        "licenses": [],
        "images": [
            {
                "id": number,
                "license": 4,
                "width": 426,
                "height": 640,
                "file_name": f"{number}.jpg",
                "absolute_url": f"https://blobstorage1.blob.core.windows.net/cpgcontainer/{number}.jpg",
            }
            for number in (1, 2, 3)
        ],
        "annotations": [
            {"id": index, "image_id": image, "category_id": category, "iscrowd": 0, "bbox": [1, 2, 3, 4], "area": 12.0}
            for index, (image, category) in enumerate(annotations)
        ],
        "categories": [{"id": 0, "supercategory": "speaker", "name": "echo"}, {"id": 7, "name": "echo dot"}],
    }


def test_coco_images_have_the_category_of_their_annotations(tmp_path: Path) -> None:
    path = document(tmp_path / "annotations.json", coco((1, 0), (1, 0), (2, 0), (2, 7)))
    found = read_dataset("coco", path, images(tmp_path / "val2017", "1.jpg", "2.jpg", "3.jpg"))
    assert labels(found) == {"1.jpg": "echo"}
    assert skipped(found) == {
        "2.jpg": "has 2 labels (echo, echo dot); Anole needs one per image",
        "3.jpg": "has no label",
    }


def test_yolo_splits_are_read_together(tmp_path: Path) -> None:
    images(tmp_path, "train/airplane/1.png", "train/bird/2.png", "val/bird/3.png", "test/bird/4.png")
    images(tmp_path, "val/bird/.DS_Store")
    found = read_dataset("yolo", tmp_path)
    assert labels(found) == {
        "train/airplane/1.png": "airplane",
        "train/bird/2.png": "bird",
        "val/bird/3.png": "bird",
        "test/bird/4.png": "bird",
    }
    assert skipped(found) == {"val/bird/.DS_Store": "hidden"}


def test_yolo_without_splits_is_a_folder_of_class_folders(tmp_path: Path) -> None:
    assert labels(read_dataset("yolo", images(tmp_path, "bird/1.png"))) == {"bird/1.png": "bird"}


@pytest.mark.parametrize("separator", [",", ";"])
def test_csv_columns_are_found_by_name(tmp_path: Path, separator: str) -> None:
    rows = [("Label", "File", "Part"), ("crack", "a/1.png", "17"), ("clean", r"C:\photos\2.png", ""), ("", "3.png", "")]
    text = "\ufeff" + "\r\n".join(separator.join(row) for row in [*rows, ("clean", "", "")])
    found = read_dataset("csv", document(images(tmp_path, "a/1.png", "2.png", "3.png") / "parts.csv", text))
    assert labels(found) == {"a/1.png": "crack", "2.png": "clean"}
    assert [sample.part for sample in found.samples] == ["17", "2.png of record 1"]
    assert skipped(found) == {"3.png": "has no label", "line 5": "names no file"}


def test_csv_without_parts_has_none(tmp_path: Path) -> None:
    path = document(images(tmp_path, "1.png") / "parts.csv", "file,label\n1.png,clean\n")
    assert [sample.part for sample in read_dataset("csv", path).samples] == [None]


def test_a_second_record_of_one_file_is_skipped(tmp_path: Path) -> None:
    path = document(images(tmp_path, "1.png") / "parts.csv", "file,label\na/1.png,clean\nb/1.png,crack\n")
    found = read_dataset("csv", path)
    assert labels(found) == {"1.png": "clean"}
    assert skipped(found) == {"b/1.png": "leads to the same file as a/1.png; give the folder that has both as root"}


@pytest.mark.parametrize(
    "image", ["12345678-", "/data/upload/83/12345678-", "12345678-.", "http://[bad/a0.png", "\x00"]
)
def test_a_label_studio_image_with_an_unusable_name_is_skipped(tmp_path: Path, image: str) -> None:
    path = document(
        images(tmp_path, "1.png") / "project.json", [task(1, image, ["crack"]), task(2, "1.png", ["clean"])]
    )
    found = read_dataset("label-studio", path)
    assert labels(found) == {"1.png": "clean"}
    assert [reason.startswith("its image is not in") for reason in skipped(found).values()] == [True]


def test_a_manifest_line_without_a_label_is_skipped(tmp_path: Path) -> None:
    metadata = {"type": "groundtruth/image-classification"}
    lines = [
        json.dumps({"source-ref": "1.png", "anomaly-label-metadata": metadata}),
        json.dumps({"source-ref": "2.png", "anomaly-label": None, "anomaly-label-metadata": metadata}),
        json.dumps({"source-ref": "3.png", "anomaly-label": 0, "anomaly-label-metadata": metadata}),
        json.dumps({"source-ref": "4.png", "anomaly-label-metadata": {**metadata, "class-name": " "}}),
    ]
    images(tmp_path, "1.png", "2.png", "3.png", "4.png")
    found = read_dataset("lookout-for-vision", document(tmp_path / "m", "\n".join(lines)))
    assert labels(found) == {"3.png": "0"}
    assert skipped(found) == {"1.png": "has no label", "2.png": "has no label", "4.png": "has no label"}


def test_coco_ids_match_as_numbers_and_as_text(tmp_path: Path) -> None:
    path = document(
        images(tmp_path, "1.png") / "coco.json",
        {
            "images": [{"id": "1", "file_name": "1.png"}],
            "annotations": [{"image_id": 1, "category_id": "7"}],
            "categories": [{"id": 7, "name": "echo"}],
        },
    )
    assert labels(read_dataset("coco", path)) == {"1.png": "echo"}


@pytest.mark.parametrize(
    ("what", "first", "second", "message"),
    [
        ("images", {"id": 1, "file_name": "x.png"}, {"id": 1, "file_name": "y.png"}, "id 1: 'x.png' and 'y.png'"),
        ("categories", {"id": 1, "name": "x"}, {"id": "1", "name": "y"}, "two categories with the id 1: 'x' and 'y'"),
    ],
)
def test_coco_ids_that_are_not_unique_are_an_error(
    tmp_path: Path, what: str, first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    path = document(tmp_path / "coco.json", {**coco(), what: [first, second]})
    with pytest.raises(InvalidInput, match=message):
        read_dataset("coco", path)


def test_csv_lines_about_one_file_count_together(tmp_path: Path) -> None:
    rows = ["1.png,x,7", "2.png,x,", "./1.png,y,7", "2.png,x,", "3.png,x,7", "3.png,x,8", "4.png,,", "4.png,x,"]
    path = document(
        images(tmp_path, "1.png", "2.png", "3.png", "4.png") / "parts.csv", "\n".join(["file,label,part", *rows])
    )
    found = read_dataset("csv", path)
    assert labels(found) == {"2.png": "x", "3.png": "x", "4.png": "x"}
    assert skipped(found) == {
        "1.png": "has 2 labels (x, y); Anole needs one per image",
        "line 5": "repeats what an earlier line says about 2.png",
        "line 7": "gives 3.png the part 8; an earlier line says 7",
    }


def test_csv_lines_whose_names_differ_only_in_their_encoding_are_about_one_file(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "stück.png") for form in ("NFC", "NFD"))
    rows = [f"{composed},Späne", f"{decomposed},{unicodedata.normalize('NFD', 'Späne')}"]
    for name in (composed, decomposed):
        folder = tmp_path / str(len(name))
        folder.mkdir()
        path = document(images(folder, name) / "parts.csv", "\n".join(["file,label", *rows]))
        found = read_dataset("csv", path)
        assert labels(found) == {name: "Späne"}
        assert [each.reason for each in found.skipped] == [f"repeats what an earlier line says about {decomposed}"]
        contradicting = document(folder / "other.csv", f"file,label\n{composed},clean\n{decomposed},crack\n")
        with pytest.raises(InvalidInput, match="has 2 labels"):
            read_dataset("csv", contradicting)


@pytest.mark.parametrize(("label", "reason"), [("x" * 65, "65 characters"), ("a\x07b", "a control character")])
def test_a_label_that_the_service_rejects_is_skipped_with_the_reason(tmp_path: Path, label: str, reason: str) -> None:
    path = document(images(tmp_path, "1.png", "2.png") / "parts.csv", f"file,label\n1.png,{label}\n2.png,good\n")
    found = read_dataset("csv", path)
    assert labels(found) == {"2.png": "good"}
    assert [(each.path, reason in each.reason) for each in found.skipped] == [("1.png", True)]
    with pytest.raises(InvalidName):
        validate_label(label)


@pytest.mark.parametrize("label", ["x" * 64, "क्\u200dष", "👩\u200d🔧"])
def test_a_label_that_the_service_accepts_is_read(tmp_path: Path, label: str) -> None:
    path = document(images(tmp_path, "1.png") / "parts.csv", f"file,label\n1.png,{label}\n")
    assert labels(read_dataset("csv", path)) == {"1.png": validate_label(label)}


def test_yolo_takes_no_root(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a YOLO dataset takes no root"):
        read_dataset("yolo", images(tmp_path, "bird/1.png"), tmp_path)


def test_yolo_class_folders_without_images_are_skipped(tmp_path: Path) -> None:
    images(tmp_path, "train/bird/1.png", "train/cat/2.png", "val/bird/3.png")
    for name in ("val/cat", "test"):
        (tmp_path / name).mkdir()
    found = read_dataset("yolo", tmp_path)
    assert sorted(labels(found)) == ["train/bird/1.png", "train/cat/2.png", "val/bird/3.png"]
    assert skipped(found) == {"val/cat": "has no images"}


@pytest.mark.parametrize("name", ["train/bird", "bird", "train"])
def test_yolo_without_any_image_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InvalidInput, match="has no class folder with images"):
        read_dataset("yolo", tmp_path)


def test_a_link_that_leads_out_of_the_root_is_skipped(tmp_path: Path) -> None:
    root = images(tmp_path / "root", "1.png")
    images(tmp_path, "secret.png", "outside/2.png")
    (root / "a.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "inside.png").symlink_to(root / "1.png")
    path = document(tmp_path / "parts.csv", "file,label\na.png,x\nfolder/2.png,x\ninside.png,x\n")
    (tmp_path / "link").symlink_to(root)
    for each in (root, tmp_path / "link"):
        found = read_dataset("csv", path, each)
        assert labels(found) == {"1.png": "x"}
        reason = f"its image is a link that leads out of {each}; copy the file there"
        assert skipped(found) == {"a.png": reason, "folder/2.png": reason}


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("azure-custom-vision", "{}", "is not a response of Custom Vision"),
        ("azure-custom-vision", "[]", "has no images"),
        ("coco", '{"images": 3}', "is not a COCO file"),
        ("coco", "[" * 100_000, "is not a COCO file"),
        ("label-studio", '[{"data": 1}]', "is not a JSON export of Label Studio"),
        ("lookout-for-vision", "", "has no image with one label"),
        ("lookout-for-vision", "\x00", "line 1: is not a JSON object"),
        ("csv", "name,class\n", "the columns name, class; needed: file, label"),
        ("csv", "", "the columns none"),
        ("csv", "file,label\n1.png,clean\n", "its image is not in"),
        ("csv", 'file,label\n"' + "x" * 200_000 + '",y', "is not a CSV table"),
    ],
)
def test_a_file_in_another_form_is_an_error_and_no_traceback(
    tmp_path: Path, kind: DatasetKind, content: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_dataset(kind, document(tmp_path / "export", content))


def test_a_file_that_is_missing_or_not_in_utf8_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        read_dataset("coco", tmp_path / "none.json")
    (tmp_path / "latin.csv").write_bytes(b"file,label\nsch\xf6n.png,x\n")
    with pytest.raises(InvalidInput, match="not in UTF-8"):
        read_dataset("csv", tmp_path / "latin.csv")
