"""Reading faces in CelebA's layout: a small folder packed as Kaggle packs it."""

import numpy as np
import pytest
from PIL import Image

from utils import datasets, faces
from utils.course import CourseError


@pytest.fixture
def kaggle(tmp_path):
    """Six pictures whose colour tells their number, in the layout of Kaggle's CelebA;
    csv rows in another order.
    """
    folder = tmp_path / "img_align_celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for number in range(1, 7):
        pixels = np.zeros((218, 178, 3), "uint8")
        pixels[20:198] = 40 * number  # the middle 178 x 178
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=95)
    order = [4, 1, 6, 3, 2, 5]
    head = "image_id," + ",".join(faces.ATTRIBUTES)
    rows = [
        f"{number:06d}.jpg," + ",".join(["1" if number > 3 else "-1"] * 40)
        for number in order
    ]
    (tmp_path / "list_attr_celeba.csv").write_text("\n".join([head, *rows]) + "\n")
    rows = [f"{number:06d}.jpg,{0 if number < 5 else number - 4}" for number in order]
    (tmp_path / "list_eval_partition.csv").write_text(
        "\n".join(["image_id,partition", *rows]) + "\n"
    )
    return tmp_path


def test_a_folder_of_the_readers_own_is_read(kaggle, monkeypatch):
    monkeypatch.setenv("CELEBA_DIR", str(kaggle))
    data = datasets.faces()
    assert data.slug == "celeba" and len(data.attributes) == 6
    assert data.files("train") == [f"{number:06d}.jpg" for number in (1, 2, 3, 4)]
    assert data.files("validation") == ["000005.jpg"] and data.files("test") == [
        "000006.jpg"
    ]
    assert list(data.attributes.columns) == list(faces.ATTRIBUTES)


def test_labels_are_joined_by_name_and_not_by_position(kaggle):
    data = datasets.read_faces(kaggle, "CelebA", "celeba")
    names = list(data.attributes.index)
    brightness = data.pixels(names).mean(axis=(1, 2, 3))
    assert np.allclose(brightness, [40 * int(name[:6]) for name in names], atol=2)
    assert list(data.attributes["Smiling"]) == [int(name[:6]) > 3 for name in names]


def test_pictures_are_cut_to_the_middle_before_they_are_resized(kaggle):
    data = datasets.read_faces(kaggle, "CelebA", "celeba")
    seen = []
    pixels = data.pixels(
        ["000006.jpg"], progress=lambda done, total: seen.append((done, total))
    )
    assert pixels.shape == (1, 64, 64, 3) and pixels.dtype == np.uint8
    assert pixels.min() > 200, "the black bands above and below the middle are cut off"
    assert seen[-1] == (1, 1)


def test_a_few_faces_are_taken_from_all_parts(kaggle):
    """CelebA's parts follow one another, so the first few files would all be for
    training.
    """
    data = datasets.read_faces(kaggle, "CelebA", "celeba", count=3)
    assert len(data.attributes) == 3
    assert data.files("train") and data.files("test")


def test_the_two_nested_folders_may_be_one(kaggle):
    nested = kaggle / "img_align_celeba" / "img_align_celeba"
    for path in list(nested.iterdir()):
        path.rename(kaggle / "img_align_celeba" / path.name)
    nested.rmdir()
    assert len(datasets.read_faces(kaggle, "CelebA", "celeba").attributes) == 6


def test_own_pictures_may_have_any_size_ending_and_header(kaggle):
    folder = kaggle / "img_align_celeba" / "img_align_celeba"
    sizes = {1: (64, 64), 2: (200, 160), 3: (90, 300)}
    for number, size in sizes.items():  # width, height
        pixels = np.full((size[1], size[0], 3), 40 * number, "uint8")
        side = min(size)
        top, left = (size[1] - side) // 2, (size[0] - side) // 2
        outside = np.ones(pixels.shape[:2], bool)
        outside[top : top + side, left : left + side] = False
        pixels[outside] = 255
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=95)
    (folder / "000004.jpg").rename(folder / "000004.JPG")
    with Image.open(folder / "000005.jpg") as picture:
        picture.save(folder / "000005.png")
    (folder / "000005.jpg").unlink()
    for name in ("list_attr_celeba.csv", "list_eval_partition.csv"):
        text = (kaggle / name).read_text().replace("image_id", "filename")
        text = text.replace("000005.jpg", "000005.png").replace("-1", "0")
        (kaggle / name).write_text(text.replace("000004.jpg", " 000004.jpg "))
    data = datasets.read_faces(kaggle, "CelebA", "celeba")
    names = [
        f"{n:06d}.{e}" for n, e in enumerate(["jpg"] * 3 + ["JPG", "png", "jpg"], 1)
    ]
    assert list(data.attributes.index) == names
    assert list(data.attributes["Smiling"]) == [False] * 3 + [True] * 3
    assert data.files("test") == ["000006.jpg"]
    brightness = data.pixels(names).mean(axis=(1, 2, 3))
    assert np.allclose(brightness, [40 * n for n in range(1, 7)], atol=3)


LABELS, PARTS = "list_attr_celeba.csv", "list_eval_partition.csv"
TWICE = "\n000001.jpg" + ",1" * 40


@pytest.mark.parametrize(
    "name, old, new, line",
    [
        (LABELS, "000002.jpg,-1", "000002.jpg,no", "not a table .*write 1 and -1"),
        (LABELS, "000002.jpg", "000001.jpg", "two rows for 000001.jpg"),
        (LABELS, "\n000004", TWICE + "\n000004", "two rows for 000001.jpg"),
        (PARTS, "000002.jpg,0", "000002.jpg,7", "says 7 of a picture: write 0"),
        (PARTS, "000002.jpg,0", "000002.jpg,", "has no value for 000002.jpg"),
    ],
)  # fmt: skip
def test_a_table_with_mistakes_is_one_clear_line(kaggle, name, old, new, line):
    text = (kaggle / name).read_text()
    assert old in text
    (kaggle / name).write_text(text.replace(old, new, 1))
    with pytest.raises(CourseError, match=line) as info:
        datasets.read_faces(kaggle, "CelebA", "celeba")
    assert "\n" not in str(info.value)


def test_pictures_without_a_row_are_left_out_and_counted(kaggle, capsys):
    table = kaggle / LABELS
    lines = [x for x in table.read_text().splitlines() if not x.startswith("000002")]
    table.write_text("\n".join(lines))
    parts = kaggle / PARTS
    parts.write_text(parts.read_text().replace("000005.jpg,1\n", ""))
    data = datasets.read_faces(kaggle, "CelebA", "celeba")
    assert list(data.attributes.index) == [f"{n:06}.jpg" for n in (1, 3, 4, 6)]
    assert list(data.partition.index) == list(data.attributes.index)
    assert "no row in one of the tables: 2 of 6" in capsys.readouterr().out
    assert list(data.attributes["Smiling"]) == [False, False, True, True]


def test_how_many_pictures_are_used_is_said(kaggle, capsys):
    datasets.read_faces(kaggle, "CelebA", "celeba", count=3)
    assert "Of 6 pictures, 3 are used" in capsys.readouterr().out


def test_tables_with_semicolons_hidden_files_and_16_bits_are_read(kaggle):
    for name in (LABELS, PARTS):
        (kaggle / name).write_text((kaggle / name).read_text().replace(",", ";"))
    folder = kaggle / "img_align_celeba" / "img_align_celeba"
    (folder / "._000001.jpg").write_bytes(b"what macOS leaves")
    deep = np.full((100, 100), 127 * 256, "uint16")
    Image.fromarray(deep).save(folder / "000003.png")
    (folder / "000003.jpg").unlink()
    for name in (LABELS, PARTS):
        text = (kaggle / name).read_text()
        (kaggle / name).write_text(text.replace("000003.jpg", "000003.png"))
    data = datasets.read_faces(kaggle, "CelebA", "celeba")
    assert len(data.attributes) == 6
    assert (data.pixels(["000003.png"]) == 127).all()


def test_what_is_missing_or_broken_is_one_clear_line(kaggle):
    def complaint():
        with pytest.raises(CourseError) as info:
            datasets.read_faces(kaggle, "CelebA", "celeba")
        assert "\n" not in str(info.value)
        return str(info.value)

    folder = kaggle / "img_align_celeba" / "img_align_celeba"
    (folder / "000006.jpg").write_bytes(b"not a jpg")
    data = datasets.read_faces(kaggle, "CelebA", "celeba")
    with pytest.raises(
        CourseError, match="000006.jpg is not a picture that can be read"
    ):
        data.pixels(["000001.jpg", "000006.jpg"])
    text = (kaggle / "list_attr_celeba.csv").read_text()
    (kaggle / "list_attr_celeba.csv").write_text(text.replace(".jpg", ".bmp"))
    assert "no row for any of 6 pictures" in complaint()
    (kaggle / "list_attr_celeba.csv").write_text(text)
    (kaggle / "list_eval_partition.csv").unlink()
    assert "list_eval_partition.csv is missing" in complaint()
    (kaggle / "list_attr_celeba.csv").unlink()
    assert "list_attr_celeba.csv is missing" in complaint()
    with pytest.raises(CourseError, match="No jpg or png files in"):
        datasets.read_faces(kaggle / "nowhere", "CelebA", "celeba")


def test_drawn_faces_are_read_by_the_same_loader(tmp_path, monkeypatch):
    monkeypatch.delenv("CELEBA_DIR", raising=False)
    monkeypatch.delenv("COURSE_FACES", raising=False)
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    data = datasets.faces(12)
    assert data.slug == "drawn-faces" and len(data.attributes) == 12
    name = data.files("train")[0]
    expected = faces.attributes(faces.nth_face(0, int(name[:6])))
    assert dict(data.attributes.loc[name]) == expected
    assert data.pixels([name]).std() > 10


def test_celeba_is_fetched_only_when_asked_for_and_its_terms_are_told(
    kaggle, monkeypatch, capsys
):
    kagglehub = pytest.importorskip("kagglehub")
    monkeypatch.delenv("CELEBA_DIR", raising=False)
    monkeypatch.setenv("COURSE_FACES", "celeba")
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: str(kaggle))
    assert len(datasets.faces(count=4).attributes) == 4
    assert "non-commercial research" in capsys.readouterr().out

    def no_network(handle):
        raise ConnectionError("no network")

    monkeypatch.setattr(kagglehub, "dataset_download", no_network)
    with pytest.raises(CourseError, match="could not be downloaded .*CELEBA_DIR"):
        datasets.faces()
    monkeypatch.setenv("COURSE_FACES", "cats")
    with pytest.raises(CourseError, match="COURSE_FACES is 'cats'"):
        datasets.faces()


def test_a_picture_that_a_telephone_turned_is_turned_back(kaggle):
    folder = kaggle / "img_align_celeba" / "img_align_celeba"
    pixels = np.zeros((80, 80, 3), "uint8")
    pixels[:40] = 255
    exif = Image.Exif()
    exif[274] = 6  # to be shown a quarter turn clockwise
    Image.fromarray(pixels).save(folder / "000002.jpg", exif=exif)
    picture = datasets.read_faces(kaggle, "", "").pixels(["000002.jpg"])[0]
    assert picture[:, 40:].mean() > 240 and picture[:, :24].mean() < 15
