"""Tests of the drawn faces: what is drawn, what the labels say, and how a set is
written.
"""

import csv
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils import faces
from utils.course import CourseError
from utils.faces import files

REPOSITORY = Path(__file__).resolve().parent.parent
COUNT, SEED = 20, 7
IMAGES = Path("img_align_celeba/img_align_celeba")
# The header of list_attr_celeba.csv as CelebA has it.
HEADER = (
    "image_id,5_o_Clock_Shadow,Arched_Eyebrows,Attractive,Bags_Under_Eyes,Bald,Bangs,Big_Lips,Big_Nose,Black_Hair,"
    "Blond_Hair,Blurry,Brown_Hair,Bushy_Eyebrows,Chubby,Double_Chin,Eyeglasses,Goatee,Gray_Hair,Heavy_Makeup,"
    "High_Cheekbones,Male,Mouth_Slightly_Open,Mustache,Narrow_Eyes,No_Beard,Oval_Face,Pale_Skin,Pointy_Nose,"
    "Receding_Hairline,Rosy_Cheeks,Sideburns,Smiling,Straight_Hair,Wavy_Hair,Wearing_Earrings,Wearing_Hat,"
    "Wearing_Lipstick,Wearing_Necklace,Wearing_Necktie,Young"
)


def contents(folder):
    """Return a dict from relative path to bytes of every file below a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def plain(number, **changes):
    """Return a random face that looks straight ahead, with nothing that hides other
    things, then changed.
    """
    face = dataclasses.replace(
        faces.nth_face(11, number), male=True, hat=False, glasses=False,
        sunglasses=False, bald=False, receding=False, bangs=False, beard="none",
        mustache=False, makeup=False, yaw=0.0, tilt=0.0, scale=1.0, shift=(0.0, 0.0),
    )  # fmt: skip
    return dataclasses.replace(face, **changes)


def small(face):
    """Return the face as a network gets it: cropped to 178 x 178, then 64 x 64, shape
    (64, 64, 3).
    """
    image = (
        faces.draw(face)
        .crop((0, 20, 178, 198))
        .resize((64, 64), Image.Resampling.BILINEAR)
    )
    return np.asarray(image, float)


def sheet():
    """Return sixty faces of all kinds, 36 by 44 pixels each, as one picture: a row with
    hats, a row with glasses, and three of chance.

    After a change of the drawing that is wanted, write it anew:
    `python -c "from tests import test_faces as t; t.sheet().save('tests/faces.png')"`
    """
    changes = [{"hat": True, "hat_style": n % 3} for n in range(12)]
    changes += [{"glasses": True, "sunglasses": n % 3 == 0} for n in range(12)]
    changes += [{}] * 36
    pictures = [
        faces.draw(dataclasses.replace(faces.nth_face(3, n), **change)).resize(
            (36, 44), Image.Resampling.BOX
        )
        for n, change in enumerate(changes)
    ]
    rows = [np.hstack(pictures[start : start + 12]) for start in range(0, 60, 12)]
    return Image.fromarray(np.vstack(rows))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small complete set, drawn in one go. Tests must not change it."""
    return faces.draw_set(tmp_path_factory.mktemp("faces") / "whole", COUNT, SEED)


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of the complete set that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# The pictures and their labels


def test_a_face_has_the_size_of_celeba():
    image = faces.draw(faces.nth_face(0, 1))
    assert (image.size, image.mode) == ((178, 218), "RGB")


def test_the_same_numbers_make_the_same_face():
    first, second = (faces.sample_face(np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert faces.draw(first).tobytes() == faces.draw(second).tobytes()


def test_no_two_faces_are_alike():
    pictures = np.stack(
        [small(faces.nth_face(0, k))[::2, ::2].ravel() for k in range(200)]
    ).astype(np.float32)
    squares = (pictures**2).sum(axis=1)
    distances = (
        squares[:, None]
        + squares[None, :]
        - 2 * pictures @ pictures.T
        + np.eye(200) * 1e9
    )
    assert np.sqrt(distances.min() / pictures.shape[1]) > 8  # in grey levels, of 255


def test_the_eyes_are_where_celeba_has_them():
    def darkest(face, x, y):
        window = np.asarray(faces.draw(face).convert("L"), float)[
            y - 9 : y + 10, x - 9 : x + 10
        ]
        rows, columns = np.nonzero(window < window.min() + 12)
        return columns.mean() + x - 9, rows.mean() + y - 9

    for x in (69, 107):
        found = [
            darkest(
                plain(
                    k,
                    gaze=(0, 0),
                    narrow_eyes=False,
                    pale_skin=True,
                    eye_colour=(120, 130, 140),
                ),
                x,
                111,
            )
            for k in range(6)
        ]
        assert np.abs(np.mean(found, axis=0) - (x, 111)).max() < 5


def test_the_names_are_those_of_celeba():
    assert ",".join(("image_id", *faces.ATTRIBUTES)) == HEADER
    assert set(faces.DRAWN) <= set(faces.ATTRIBUTES)
    assert tuple(faces.attributes(faces.nth_face(0, 1))) == faces.ATTRIBUTES


def test_labels_say_what_is_drawn():
    for k in range(300):
        face = faces.nth_face(5, k)
        seen = faces.attributes(face)
        assert all(type(value) is bool for value in seen.values())
        assert not any(
            seen[name] for name in faces.ATTRIBUTES if name not in faces.DRAWN
        )
        assert (seen["Male"], seen["Young"], seen["Smiling"]) == (
            face.male,
            face.young,
            face.smiling,
        )
        assert (seen["Eyeglasses"], seen["Wearing_Hat"]) == (face.glasses, face.hat)
        assert (seen["No_Beard"], seen["Goatee"]) == (
            face.beard == "none",
            face.beard == "goatee",
        )
        assert (seen["5_o_Clock_Shadow"], seen["Mustache"]) == (
            face.beard == "stubble",
            face.mustache,
        )
        colours = [seen[f"{name}_Hair"] for name in ("Black", "Blond", "Brown", "Gray")]
        visible = not face.bald and (not face.hat or face.hair_length >= 0.3)
        assert sum(colours) == visible
        assert seen["Straight_Hair"] + seen["Wavy_Hair"] == visible
        assert seen["Bald"] + seen["Bangs"] + seen["Receding_Hairline"] <= 1 - face.hat
        assert face.male or not (face.mustache or face.beard != "none")


def test_what_is_hidden_has_no_label():
    bald, hat = (
        plain(1, bald=True),
        plain(1, hat=True, hair_length=0.1, bangs=True, hair_colour="blond"),
    )
    assert (
        faces.attributes(bald)["Bald"]
        and not faces.attributes(dataclasses.replace(bald, hat=True))["Bald"]
    )
    hidden = faces.attributes(hat)
    assert not hidden["Bangs"] and not hidden["Blond_Hair"]
    assert faces.attributes(dataclasses.replace(hat, hair_length=0.8))["Blond_Hair"]
    dark = dict(glasses=True, sunglasses=True)
    assert faces.attributes(plain(1, narrow_eyes=True))["Narrow_Eyes"]
    assert not faces.attributes(plain(1, narrow_eyes=True, **dark))["Narrow_Eyes"]


@pytest.mark.parametrize("hidden", ["bald", "bangs", "receding", "wavy", "hair_colour"])
def test_a_hat_hides_short_hair(hidden):
    off, on = ("black", "blond") if hidden == "hair_colour" else (False, True)
    below = plain(2, hat=True, hat_style=0, hair_length=0.1)
    one, other = (
        small(dataclasses.replace(below, **{hidden: value})) for value in (off, on)
    )
    change = np.abs(one - other)
    change[24:34] = 0  # the brows have the colour of the hair
    assert change.mean() < 0.1


# What is set, to what, the label that follows, and where it shows: left, top, right and
# bottom of the place, in pixels from the point between the eyes.
FOREHEAD, EYES, MOUTH, HAIR = (
    (-32, -52, 32, -24),
    (-34, -12, 34, 16),
    (-24, 30, 24, 56),
    (-52, -70, 52, -20),
)
BROWS, LOW, NOSE, CHEEKS = (
    (-36, -32, 36, -10),
    (-36, 30, 36, 72),
    (-18, 8, 18, 32),
    (-40, 8, 40, 34),
)
SHOWN = [
    ("Eyeglasses", dict(glasses=False), dict(glasses=True), EYES, 12),
    ("Wearing_Hat", dict(hat=False), dict(hat=True), (-50, -84, 50, -28), 20),
    ("Smiling", dict(smiling=False), dict(smiling=True), MOUTH, 5),
    ("Mouth_Slightly_Open", dict(mouth_open=False), dict(mouth_open=True), MOUTH, 6),
    ("Blond_Hair", dict(hair_colour="brown"), dict(hair_colour="blond"), HAIR, 25),
    ("Gray_Hair", dict(hair_colour="black"), dict(hair_colour="gray"), HAIR, 25),
    ("Black_Hair", dict(hair_colour="brown"), dict(hair_colour="black"), HAIR, 8),
    ("Bald", dict(bald=False), dict(bald=True), HAIR, 15),
    ("Bangs", dict(bangs=False), dict(bangs=True), FOREHEAD, 12),
    ("Receding_Hairline", dict(receding=False), dict(receding=True), FOREHEAD, 6),
    ("Wavy_Hair", dict(wavy=False), dict(wavy=True), HAIR, 2),
    ("Male", dict(male=False), dict(male=True), (-50, 20, 50, 80), 5),
    ("Young", dict(young=True), dict(young=False), (-40, -42, 40, 46), 1.5),
    ("5_o_Clock_Shadow", dict(beard="none"), dict(beard="stubble"), LOW, 7),
    ("Goatee", dict(beard="none"), dict(beard="goatee"), (-14, 52, 14, 70), 10),
    ("No_Beard", dict(beard="full"), dict(beard="none"), LOW, 10),
    ("Mustache", dict(mustache=False), dict(mustache=True), (-20, 30, 20, 40), 10),
    (
        "Wearing_Lipstick",
        dict(lipstick=False),
        dict(lipstick=True),
        (-16, 38, 16, 50),
        7,
    ),
    ("Heavy_Makeup", dict(makeup=False), dict(makeup=True), EYES, 3),
    ("Bushy_Eyebrows", dict(bushy_brows=False), dict(bushy_brows=True), BROWS, 4),
    ("Arched_Eyebrows", dict(arched_brows=False), dict(arched_brows=True), BROWS, 4),
    ("Rosy_Cheeks", dict(rosy_cheeks=False), dict(rosy_cheeks=True), CHEEKS, 5),
    ("Big_Nose", dict(big_nose=False), dict(big_nose=True), NOSE, 5),
    ("Big_Lips", dict(big_lips=False), dict(big_lips=True), MOUTH, 2),
    ("Narrow_Eyes", dict(narrow_eyes=False), dict(narrow_eyes=True), EYES, 5),
    ("Oval_Face", dict(oval_face=False), dict(oval_face=True), (-56, -20, 56, 76), 8),
    ("Pale_Skin", dict(pale_skin=False), dict(pale_skin=True), CHEEKS, 20),
    (
        "Wearing_Earrings",
        dict(earrings=False),
        dict(earrings=True),
        (-56, 16, 56, 40),
        3,
    ),
]


@pytest.mark.parametrize(
    "name, before, after, place, least", SHOWN, ids=[row[0] for row in SHOWN]
)
def test_an_attribute_changes_its_label_and_its_place(
    name, before, after, place, least
):
    left, right = (int((88 + x) * 64 / 178) for x in place[::2])
    top, bottom = (int((111 - 20 + y) * 64 / 178) for y in place[1::2])
    changes = []
    for k in range(6):
        without, having = plain(k, **before), plain(k, **after)
        labels = faces.attributes(without)[name], faces.attributes(having)[name]
        assert labels == ((True, False) if name == "Young" else (False, True))
        changes.append(
            np.abs(small(having) - small(without))[top:bottom, left:right].mean()
        )
    assert np.mean(changes) > least, changes
    assert np.min(changes) > least / 8, changes


def test_a_smile_lifts_the_corners_of_the_mouth():
    def lift(face):
        """Return how far (pixels) the dark line between the lips is higher 12 pixels
        from the middle.
        """
        grey = np.asarray(faces.draw(face).convert("L"), float)[144:166]
        middle = 88 + round(4 * np.sin(np.radians(face.yaw)))
        rows = [
            grey[:, x - 1 : x + 2].mean(axis=1).argmin()
            for x in (middle, middle - 12, middle + 12)
        ]
        return rows[0] - (rows[1] + rows[2]) / 2

    for k in range(8):
        changes = dict(mouth_open=False, pale_skin=True, lipstick=False, mouth=0.0)
        assert lift(plain(k, smiling=True, **changes)) >= 2
        assert lift(plain(k, smiling=False, **changes)) <= 1


def test_every_drawn_attribute_is_tested():
    assert {row[0] for row in SHOWN} | {"Brown_Hair", "Straight_Hair"} == set(
        faces.DRAWN
    )


def test_every_attribute_is_frequent_enough():
    seen = [faces.attributes(faces.nth_face(1, k)) for k in range(2000)]
    share = {name: np.mean([labels[name] for labels in seen]) for name in faces.DRAWN}
    assert min(share.values()) > 0.065, share
    for name in (
        "Eyeglasses",
        "Blond_Hair",
        "Smiling",
        "Wearing_Hat",
        "Mustache",
        "Bangs",
        "Gray_Hair",
        "Goatee",
    ):
        assert 0.08 < share[name] < 0.6, (name, share[name])
    assert (
        0.4 < share["Male"] < 0.52
        and 0.6 < share["Young"] < 0.75
        and 0.65 < share["No_Beard"] < 0.85
    )
    # Glasses, hats and smiles tell nothing about the gender.
    for name in ("Eyeglasses", "Wearing_Hat", "Smiling"):
        of_men, of_women = (
            np.mean([s[name] for s in seen if s["Male"] is male])
            for male in (True, False)
        )
        assert abs(of_men - of_women) < 0.08


# The set on disk


def test_layout(whole):
    names = sorted(p.name for p in (whole / IMAGES).iterdir())
    assert names == [f"{k:06}.jpg" for k in range(1, COUNT + 1)]
    for name in names:
        with Image.open(whole / IMAGES / name) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (178, 218), "RGB")
    manifest = json.loads((whole / files.MANIFEST).read_text())
    assert (manifest["seed"], manifest["count"], manifest["version"]) == (
        SEED,
        COUNT,
        faces.VERSION,
    )


def test_attribute_table(whole):
    lines = (whole / "list_attr_celeba.csv").read_text().splitlines()
    assert lines[0] == HEADER
    assert len(lines) == COUNT + 1
    for k, row in enumerate(csv.DictReader(lines), start=1):
        assert row.pop("image_id") == f"{k:06}.jpg"
        seen = faces.attributes(faces.nth_face(SEED, k))
        assert row == {name: "1" if seen[name] else "-1" for name in faces.ATTRIBUTES}


def test_partition_table(whole):
    lines = (whole / "list_eval_partition.csv").read_text().splitlines()
    assert lines[0] == "image_id,partition"
    assert [line.split(",")[0] for line in lines[1:]] == [
        f"{k:06}.jpg" for k in range(1, COUNT + 1)
    ]
    assert [int(line.split(",")[1]) for line in lines[1:]] == [0] * 16 + [1] * 2 + [
        2
    ] * 2


def test_a_picture_belongs_to_its_labels(whole):
    for k in (1, COUNT):
        with Image.open(whole / IMAGES / f"{k:06}.jpg") as image:
            stored = np.asarray(image, float)
        assert (
            np.abs(
                stored - np.asarray(faces.draw(faces.nth_face(SEED, k)), float)
            ).mean()
            < 4
        )


def test_a_set_depends_on_the_seed_alone(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(files.course, "cores", lambda: 1)
    again = faces.draw_set(tmp_path / "again", COUNT, SEED)
    assert contents(again) == contents(whole)
    other = contents(faces.draw_set(tmp_path / "other", 3, SEED + 1))
    same = contents(whole)
    assert all(other[name] != same[name] for name in other if name.endswith(".jpg"))


def refuse(*_, **__):
    raise AssertionError("nothing is to be drawn")


def test_a_complete_set_is_left_alone(whole, monkeypatch):
    monkeypatch.setattr(files, "_draw_images", refuse)
    assert faces.draw_set(whole, COUNT, SEED) == whole


def test_a_set_of_the_first_edition_is_left_alone(copied, monkeypatch):
    (copied / "drawn_faces_started.json").write_text("{}")
    monkeypatch.setattr(files, "_draw_images", refuse)
    assert faces.draw_set(copied, COUNT, SEED) == copied


def test_an_interrupted_set_is_finished_and_never_taken_for_whole(
    tmp_path, monkeypatch
):
    def interrupt(done, total):
        if done == 8:
            raise KeyboardInterrupt

    many = 200
    whole = faces.draw_set(tmp_path / "whole", many, SEED)

    folder = tmp_path / "set"
    with monkeypatch.context() as one_core, pytest.raises(KeyboardInterrupt):
        one_core.setattr(files.course, "cores", lambda: 1)
        faces.draw_set(folder, many, SEED, progress=interrupt)
    assert not folder.exists(), "half a set has no name that anybody would read"
    (part,) = tmp_path.glob("set*.part")
    assert len(list((part / IMAGES).iterdir())) < many / 2, "what waits is not drawn"
    kept = part / IMAGES / "000001.jpg"
    os.utime(kept, (1, 1))
    (part / IMAGES / "000002.jpg").write_bytes(b"")  # as after a power cut
    calls = []
    faces.draw_set(folder, many, SEED, progress=lambda *numbers: calls.append(numbers))
    assert contents(folder) == contents(whole)
    assert (folder / IMAGES / "000001.jpg").stat().st_mtime == 1, "not drawn again"
    assert calls[-1] == (many, many) and calls == sorted(calls)
    assert not list(tmp_path.glob("set*.part"))


@pytest.mark.parametrize(
    "damage", ["missing", "cut", "no table", "cut table", "other settings"]
)
def test_a_damaged_set_is_drawn_anew(whole, copied, damage):
    image = copied / IMAGES / "000004.jpg"
    if damage == "missing":
        image.unlink()
    elif damage == "cut":
        image.write_bytes(image.read_bytes()[:-20])
    elif damage == "cut table":
        table = copied / files.ATTRIBUTE_FILE
        table.write_text(table.read_text()[:-200])
    elif damage == "no table":
        (copied / files.PARTITION_FILE).unlink()
    else:
        settings = json.loads((copied / files.MANIFEST).read_text())
        changed = {**settings, "version": faces.VERSION - 1}
        (copied / files.MANIFEST).write_text(json.dumps(changed))
    faces.draw_set(copied, COUNT, SEED)
    assert contents(copied) == contents(whole)


@pytest.mark.parametrize(
    "name", ["notes.txt", "list_mine.csv", str(IMAGES / "200001.jpg"), "mine"]
)
def test_files_of_others_are_refused_and_left_alone(copied, tmp_path, name):
    folder = copied
    if name == "mine":  # a folder of the reader's own that looks like a set
        folder, name = tmp_path / "mine", str(IMAGES / "000001.jpg")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"mine")
    before = contents(folder)
    with pytest.raises(CourseError, match=f"such as {Path(name).name}: move them away"):
        faces.draw_set(folder, COUNT, SEED + 1)
    assert contents(folder) == before


@pytest.mark.parametrize("wrong", [dict(count=0), dict(count=10**6), dict(seed=-1)])
def test_numbers_that_make_no_sense(tmp_path, wrong):
    with pytest.raises(ValueError, match="must be"):
        faces.draw_set(tmp_path / "set", **{"count": 2, **wrong})
    assert not (tmp_path / "set").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CourseError, match="file/set cannot be written .*COURSE_OUTPUT"):
        faces.draw_set(tmp_path / "file" / "set", 2)


DRAW = """
import sys
from pathlib import Path
from utils import faces
faces.draw_set(Path(sys.argv[1]), 200, 3)
"""


def draw_in_a_script(folder, code, **settings):
    """The same from a script, which the drawing processes would run from its top."""
    script = folder / "script.py"
    script.write_text(code)
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, str(script), str(folder / "set")]
    return subprocess.Popen(command, env=env, **pipes, **settings)


def test_two_calls_at_once_draw_one_set(tmp_path):
    guarded = DRAW.replace(
        "faces.draw_set", 'if __name__ == "__main__": faces.draw_set'
    )
    both = [draw_in_a_script(tmp_path, guarded) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(list((tmp_path / "set" / IMAGES).iterdir())) == 200
    assert not list(tmp_path.glob("*.part"))


def test_a_script_without_a_guard_gets_one_line(tmp_path):
    process = draw_in_a_script(tmp_path, DRAW)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert 'put the call under `if __name__ == "__main__":`' in said.splitlines()[-1]


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_disk_that_fills_up_while_faces_are_drawn_is_one_line(tmp_path):
    limited = DRAW.replace(
        "faces.draw_set", 'if __name__ == "__main__": faces.draw_set'
    )
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    limited = f"import resource; {limit}{limited}"
    process = draw_in_a_script(tmp_path, limited)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "cannot be written (File too large): free space" in said.splitlines()[-1]
    assert not (tmp_path / "set").exists()


def test_drawing_works_in_a_notebook_and_its_processes_end(tmp_path, monkeypatch):
    import nbformat

    from tools import chapters

    source = f"from utils import faces; faces.draw_set({str(tmp_path / 'set')!r}, 4, 0)"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    chapters.execute(book, "quick", lambda *_: None)
    assert len(list((tmp_path / "set" / IMAGES).iterdir())) == 4


def test_faces_are_drawn_as_they_were():
    """Every number of the drawing shows somewhere on sixty faces."""
    with Image.open(REPOSITORY / "tests" / "faces.png") as stored:
        kept = np.asarray(stored.convert("RGB"), float)
    off = np.abs(np.asarray(sheet(), float) - kept)
    assert off.max() <= 3, f"off by {off.max():.0f} levels at most"
    # Another exponential function rounds a few numbers otherwise, and not one in 1,000.
    assert (off > 0).mean() < 1e-3, f"{(off > 0).mean():.2%} of all numbers differ"


def test_the_same_numbers_make_the_same_faces_as_long_as_the_version_stays():
    """A set that a reader has drawn belongs to the weights that ship. Whoever changes
    what is drawn raises VERSION, and then these letters.
    """

    def rounded(value):
        if isinstance(value, (tuple, list)):
            return [rounded(part) for part in value]
        return round(float(value), 6) if isinstance(value, float) else value

    records = [dataclasses.asdict(faces.nth_face(3, n)) for n in range(300)]
    plain_records = [{k: rounded(v) for k, v in face.items()} for face in records]
    text = json.dumps(plain_records, sort_keys=True, default=int)
    found = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert (faces.VERSION, found) == (1, "fb09b676d179a19e")
