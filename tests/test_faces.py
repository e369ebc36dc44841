"""Tests of the drawn faces: what is drawn, what the labels say, and how a set is written."""

import csv
import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils import face_files, faces

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
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def plain(number, **changes):
    """Return a random face that looks straight ahead, with nothing that hides other things, then changed."""
    face = dataclasses.replace(
        face_files.nth_face(11, number), male=True, hat=False, glasses=False, sunglasses=False, bald=False,
        receding=False, bangs=False, beard="none", mustache=False, makeup=False, yaw=0.0, tilt=0.0, scale=1.0,
        shift=(0.0, 0.0),
    )  # fmt: skip
    return dataclasses.replace(face, **changes)


def small(face):
    """Return the face as a network gets it: cropped to 178 x 178, then 64 x 64, shape (64, 64, 3)."""
    image = faces.draw(face).crop((0, 20, 178, 198)).resize((64, 64), Image.Resampling.BILINEAR)
    return np.asarray(image, float)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small complete set, drawn in one go by two workers. Tests must not change it."""
    return face_files.draw_set(tmp_path_factory.mktemp("faces") / "whole", COUNT, SEED, processes=2)


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of the complete set that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# The pictures and their labels


def test_a_face_has_the_size_of_celeba():
    image = faces.draw(face_files.nth_face(0, 1))
    assert (image.size, image.mode) == ((178, 218), "RGB")


def test_the_same_numbers_make_the_same_face():
    first, second = (faces.sample_face(np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert faces.draw(first).tobytes() == faces.draw(second).tobytes()


def test_no_two_faces_are_alike():
    pictures = np.stack([small(face_files.nth_face(0, k))[::2, ::2].ravel() for k in range(200)]).astype(np.float32)
    squares = (pictures**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * pictures @ pictures.T + np.eye(200) * 1e9
    assert np.sqrt(distances.min() / pictures.shape[1]) > 8  # in grey levels, of 255


def test_the_eyes_are_where_celeba_has_them():
    def darkest(face, x, y):
        window = np.asarray(faces.draw(face).convert("L"), float)[y - 9 : y + 10, x - 9 : x + 10]
        rows, columns = np.nonzero(window < window.min() + 12)
        return columns.mean() + x - 9, rows.mean() + y - 9

    for x in (69, 107):
        found = [
            darkest(plain(k, gaze=(0, 0), narrow_eyes=False, pale_skin=True, eye_colour=(120, 130, 140)), x, 111)
            for k in range(6)
        ]
        assert np.abs(np.mean(found, axis=0) - (x, 111)).max() < 5


def test_the_names_are_those_of_celeba():
    assert ",".join(("image_id", *faces.ATTRIBUTES)) == HEADER
    assert set(faces.DRAWN) <= set(faces.ATTRIBUTES)
    assert tuple(faces.attributes(face_files.nth_face(0, 1))) == faces.ATTRIBUTES


def test_labels_say_what_is_drawn():
    for k in range(300):
        face = face_files.nth_face(5, k)
        seen = faces.attributes(face)
        assert all(type(value) is bool for value in seen.values())
        assert not any(seen[name] for name in faces.ATTRIBUTES if name not in faces.DRAWN)
        assert (seen["Male"], seen["Young"], seen["Smiling"]) == (face.male, face.young, face.smiling)
        assert (seen["Eyeglasses"], seen["Wearing_Hat"]) == (face.glasses, face.hat)
        assert (seen["No_Beard"], seen["Goatee"]) == (face.beard == "none", face.beard == "goatee")
        assert (seen["5_o_Clock_Shadow"], seen["Mustache"]) == (face.beard == "stubble", face.mustache)
        colours = [seen[f"{name}_Hair"] for name in ("Black", "Blond", "Brown", "Gray")]
        visible = not face.bald and (not face.hat or face.hair_length >= 0.3)
        assert sum(colours) == visible
        assert seen["Straight_Hair"] + seen["Wavy_Hair"] == visible
        assert seen["Bald"] + seen["Bangs"] + seen["Receding_Hairline"] <= 1 - face.hat
        assert face.male or not (face.mustache or face.beard != "none")


def test_what_is_hidden_has_no_label():
    bald, hat = plain(1, bald=True), plain(1, hat=True, hair_length=0.1, bangs=True, hair_colour="blond")
    assert faces.attributes(bald)["Bald"] and not faces.attributes(dataclasses.replace(bald, hat=True))["Bald"]
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
    one, other = (small(dataclasses.replace(below, **{hidden: value})) for value in (off, on))
    change = np.abs(one - other)
    change[24:34] = 0  # the brows have the colour of the hair
    assert change.mean() < 0.1


# What is set, to what, the label that follows, and where it shows: left, top, right and bottom of the place, in
# pixels from the point between the eyes.
FOREHEAD, EYES, MOUTH, HAIR = (-32, -52, 32, -24), (-34, -12, 34, 16), (-24, 30, 24, 56), (-52, -70, 52, -20)
BROWS, LOW, NOSE, CHEEKS = (-36, -32, 36, -10), (-36, 30, 36, 72), (-18, 8, 18, 32), (-40, 8, 40, 34)
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
    ("Wearing_Lipstick", dict(lipstick=False), dict(lipstick=True), (-16, 38, 16, 50), 7),
    ("Heavy_Makeup", dict(makeup=False), dict(makeup=True), EYES, 3),
    ("Bushy_Eyebrows", dict(bushy_brows=False), dict(bushy_brows=True), BROWS, 4),
    ("Arched_Eyebrows", dict(arched_brows=False), dict(arched_brows=True), BROWS, 4),
    ("Rosy_Cheeks", dict(rosy_cheeks=False), dict(rosy_cheeks=True), CHEEKS, 5),
    ("Big_Nose", dict(big_nose=False), dict(big_nose=True), NOSE, 5),
    ("Big_Lips", dict(big_lips=False), dict(big_lips=True), MOUTH, 2),
    ("Narrow_Eyes", dict(narrow_eyes=False), dict(narrow_eyes=True), EYES, 5),
    ("Oval_Face", dict(oval_face=False), dict(oval_face=True), (-56, -20, 56, 76), 8),
    ("Pale_Skin", dict(pale_skin=False), dict(pale_skin=True), CHEEKS, 20),
    ("Wearing_Earrings", dict(earrings=False), dict(earrings=True), (-56, 16, 56, 40), 3),
]


@pytest.mark.parametrize("name, before, after, place, least", SHOWN, ids=[row[0] for row in SHOWN])
def test_an_attribute_changes_its_label_and_its_place(name, before, after, place, least):
    left, right = (int((88 + x) * 64 / 178) for x in place[::2])
    top, bottom = (int((111 - 20 + y) * 64 / 178) for y in place[1::2])
    changes = []
    for k in range(6):
        without, having = plain(k, **before), plain(k, **after)
        labels = faces.attributes(without)[name], faces.attributes(having)[name]
        assert labels == ((True, False) if name == "Young" else (False, True))
        changes.append(np.abs(small(having) - small(without))[top:bottom, left:right].mean())
    assert np.mean(changes) > least, changes
    assert np.min(changes) > least / 8, changes


def test_a_smile_lifts_the_corners_of_the_mouth():
    def lift(face):
        """Return how far (pixels) the dark line between the lips is higher 12 pixels from the middle."""
        grey = np.asarray(faces.draw(face).convert("L"), float)[144:166]
        middle = 88 + round(4 * np.sin(np.radians(face.yaw)))
        rows = [grey[:, x - 1 : x + 2].mean(axis=1).argmin() for x in (middle, middle - 12, middle + 12)]
        return rows[0] - (rows[1] + rows[2]) / 2

    for k in range(8):
        changes = dict(mouth_open=False, pale_skin=True, lipstick=False, mouth=0.0)
        assert lift(plain(k, smiling=True, **changes)) >= 2
        assert lift(plain(k, smiling=False, **changes)) <= 1


def test_every_drawn_attribute_is_tested():
    assert {row[0] for row in SHOWN} | {"Brown_Hair", "Straight_Hair"} == set(faces.DRAWN)


def test_every_attribute_is_frequent_enough():
    seen = [faces.attributes(face_files.nth_face(1, k)) for k in range(2000)]
    share = {name: np.mean([labels[name] for labels in seen]) for name in faces.DRAWN}
    assert min(share.values()) > 0.065, share
    for name in ("Eyeglasses", "Blond_Hair", "Smiling", "Wearing_Hat", "Mustache", "Bangs", "Gray_Hair", "Goatee"):
        assert 0.08 < share[name] < 0.6, (name, share[name])
    assert 0.4 < share["Male"] < 0.52 and 0.6 < share["Young"] < 0.75 and 0.65 < share["No_Beard"] < 0.85
    # Glasses, hats and smiles tell nothing about the gender.
    for name in ("Eyeglasses", "Wearing_Hat", "Smiling"):
        of_men, of_women = (np.mean([s[name] for s in seen if s["Male"] is male]) for male in (True, False))
        assert abs(of_men - of_women) < 0.08


# The set on disk


def test_layout(whole):
    names = sorted(p.name for p in (whole / IMAGES).iterdir())
    assert names == [f"{k:06}.jpg" for k in range(1, COUNT + 1)]
    for name in names:
        with Image.open(whole / IMAGES / name) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (178, 218), "RGB")
    manifest = json.loads((whole / face_files.MANIFEST).read_text())
    assert (manifest["seed"], manifest["count"], manifest["version"]) == (SEED, COUNT, faces.VERSION)


def test_attribute_table(whole):
    lines = (whole / "list_attr_celeba.csv").read_text().splitlines()
    assert lines[0] == HEADER
    assert len(lines) == COUNT + 1
    for k, row in enumerate(csv.DictReader(lines), start=1):
        assert row.pop("image_id") == f"{k:06}.jpg"
        seen = faces.attributes(face_files.nth_face(SEED, k))
        assert row == {name: "1" if seen[name] else "-1" for name in faces.ATTRIBUTES}


def test_partition_table(whole):
    lines = (whole / "list_eval_partition.csv").read_text().splitlines()
    assert lines[0] == "image_id,partition"
    assert [line.split(",")[0] for line in lines[1:]] == [f"{k:06}.jpg" for k in range(1, COUNT + 1)]
    assert [int(line.split(",")[1]) for line in lines[1:]] == [0] * 16 + [1] * 2 + [2] * 2


def test_a_picture_belongs_to_its_labels(whole):
    for k in (1, COUNT):
        with Image.open(whole / IMAGES / f"{k:06}.jpg") as image:
            stored = np.asarray(image, float)
        assert np.abs(stored - np.asarray(faces.draw(face_files.nth_face(SEED, k)), float)).mean() < 4


def test_a_set_depends_on_the_seed_alone(whole, tmp_path):
    again = face_files.draw_set(tmp_path / "again", COUNT, SEED, processes=1)
    assert contents(again) == contents(whole)
    other = contents(face_files.draw_set(tmp_path / "other", 3, SEED + 1, processes=1))
    same = contents(whole)
    assert all(other[name] != same[name] for name in other if name.endswith(".jpg"))


def test_a_complete_set_is_left_alone(whole, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("nothing is to be written")

    monkeypatch.setattr(face_files, "_write", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert face_files.draw_set(whole, COUNT, SEED) == whole


def test_an_interrupted_set_is_finished(whole, copied):
    (copied / face_files.MANIFEST).unlink()
    (copied / "list_attr_celeba.csv").unlink()
    for k in (2, 9):
        (copied / IMAGES / f"{k:06}.jpg").unlink()
    half = copied / IMAGES / "000005.jpg"
    half.write_bytes(half.read_bytes()[:1500])
    for k in (9, 12):
        (copied / IMAGES / f"{k:06}.jpg.part").write_bytes(b"half a picture")
    kept = copied / IMAGES / "000001.jpg"
    os.utime(kept, (1, 1))
    calls = []
    face_files.draw_set(copied, COUNT, SEED, processes=2, progress=lambda done, total: calls.append((done, total)))
    assert contents(copied) == contents(whole)
    assert kept.stat().st_mtime == 1  # what was there is not drawn again
    assert calls[0] == (COUNT - 3, COUNT) and calls[-1] == (COUNT, COUNT) and calls == sorted(calls)


def test_a_manifest_is_not_trusted_when_files_are_missing_or_cut(whole, copied):
    (copied / IMAGES / "000003.jpg").unlink()
    half = copied / IMAGES / "000004.jpg"
    half.write_bytes(half.read_bytes()[:-20])
    face_files.draw_set(copied, COUNT, SEED, processes=1)
    assert contents(copied) == contents(whole)
    half.write_bytes(half.read_bytes()[:-20])  # now the number of files agrees
    face_files.draw_set(copied, COUNT, SEED, processes=1)
    assert contents(copied) == contents(whole)


@pytest.mark.parametrize("change", ["seed", "version"])
def test_a_set_with_other_settings_is_redrawn(copied, tmp_path, change):
    mine = {"notes.txt": b"mine", str(IMAGES / "notes.txt"): b"mine too"}
    for name, content in mine.items():
        (copied / name).write_bytes(content)
    if change == "version":  # as if an earlier version had drawn it
        for name in (face_files.MANIFEST, face_files.MARKER):
            settings = json.loads((copied / name).read_text())
            (copied / name).write_text(json.dumps({**settings, "version": faces.VERSION - 1}))
    for k in range(1, COUNT + 1):
        os.utime(copied / IMAGES / f"{k:06}.jpg", (1, 1))
    face_files.draw_set(copied, 4, SEED + (change == "seed"), processes=1)
    expected = face_files.draw_set(tmp_path / "fresh", 4, SEED + (change == "seed"), processes=1)
    assert contents(copied) == {**contents(expected), **mine}
    assert min(p.stat().st_mtime for p in (copied / IMAGES).iterdir()) > 1


@pytest.mark.parametrize("name", [str(IMAGES / "000001.jpg"), str(IMAGES / "202599.jpg"), "list_attr_celeba.csv"])
def test_a_foreign_folder_is_refused_and_untouched(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"not ours")
    with pytest.raises(ValueError, match="choose another folder") as caught:
        face_files.draw_set(tmp_path, 3)
    assert "\n" not in str(caught.value) and Path(name).name in str(caught.value)
    assert contents(tmp_path) == {name: b"not ours"}


def test_foreign_pictures_among_ours_are_refused(copied):
    (copied / IMAGES / "202599.jpg").write_bytes(b"not ours")
    before = contents(copied)
    for seed in (SEED, SEED + 1):
        with pytest.raises(ValueError, match="202599.jpg"):
            face_files.draw_set(copied, COUNT, seed)
    assert contents(copied) == before


@pytest.mark.parametrize("wrong", [dict(count=0), dict(count=10**6), dict(seed=-1), dict(processes=0)])
def test_numbers_that_make_no_sense(tmp_path, wrong):
    with pytest.raises(ValueError, match="must be"):
        face_files.draw_set(tmp_path / "set", **{"count": 2, **wrong})
    assert not (tmp_path / "set").exists()


def test_a_worker_that_fails(tmp_path, monkeypatch):
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ImportError('Pillow is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="Pillow is broken") as caught:
        face_files.draw_set(tmp_path / "set", 4, processes=2)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    assert not (tmp_path / "set" / face_files.MANIFEST).exists()


def test_workers_stop_with_the_call(tmp_path, monkeypatch):
    started, popen = [], subprocess.Popen

    def start(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    def interrupt(done, total):
        if done > 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        face_files.draw_set(tmp_path / "set", 5000, SEED, processes=2, progress=interrupt)
    assert len(started) == 2 and all(worker.returncode not in (None, 0) for worker in started)
    assert not (tmp_path / "set" / face_files.MANIFEST).exists() and (tmp_path / "set" / face_files.MARKER).exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="choose a folder that you may write to") as caught:
        face_files.draw_set(tmp_path / "file" / "set", 2)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(face_files.os, "replace", full)
    with pytest.raises(OSError, match="No space left on device.*free some space"):
        face_files.draw_set(tmp_path / "set", 2)
    assert not [name for name in contents(tmp_path) if name.endswith(".part")]


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_disk_that_fills_up_while_workers_draw(tmp_path):
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        "from utils import face_files; sys.exit(face_files.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, str(tmp_path / "set"), "--count=2"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "File too large" in ended.stderr.splitlines()[-1] and "free some space" in ended.stderr.splitlines()[-1]
    assert not [name for name in contents(tmp_path) if name.endswith((".jpg", ".part", face_files.MANIFEST))]


def test_command_line(whole, tmp_path):
    command = [sys.executable, "-m", "utils.face_files", str(tmp_path / "set"), f"--count={COUNT}", f"--seed={SEED}"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"{COUNT} of {COUNT} faces" in ended.stderr
    assert contents(tmp_path / "set") == contents(whole)
