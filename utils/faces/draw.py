"""Draws a face, 178 pixels wide and 218 high, with the eyes where CelebA has them.

All shapes are given in *face coordinates*: pixels to the right of and below the point
between the eyes, for a face that looks straight ahead. `Canvas` turns, shifts and
scales them.
"""

import functools
import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from utils.faces.face import HAIR_COLOURS, darker, hair_can_be_seen, hsv, mix

WIDTH, HEIGHT = 178, 218
MIDDLE = (88, 111)  # where CelebA has the point between the eyes
EYE_X = 19  # half the distance between the eyes
SKIN_TONES = (
    (240, 195, 161),
    (228, 180, 143),
    (206, 152, 112),
    (172, 117, 80),
    (130, 84, 58),
    (94, 61, 46),
)
PALE_SKIN = (252, 225, 210)
INK = (38, 24, 22)


# Colours and curves


def skin_colour(face):
    """Return the colour of the skin in full light."""
    if face.pale_skin:
        return PALE_SKIN
    place = face.skin * (len(SKIN_TONES) - 1.001)
    return mix(SKIN_TONES[int(place)], SKIN_TONES[int(place) + 1], place % 1)


def hair_colour(face):
    """Return the colour of the hair."""
    colour = HAIR_COLOURS[face.hair_colour]
    return darker(colour, 1 + 0.12 * face.hair_tint)


def beard_colour(face):
    """Return the colour of brows and beard: that of the hair, but dark enough to be
    seen on this skin.
    """
    share = {"black": 0.1, "brown": 0.4, "blond": 0.45, "gray": 0.35}[face.hair_colour]
    colour = mix(hair_colour(face), (52, 36, 28), share)
    contrast = abs(sum(skin_colour(face)) - sum(colour)) / 3
    return darker(colour, 0.5) if contrast < 45 else colour


@functools.cache
def _curve(n, closed, steps=4):
    """Return the matrix that turns n points into a smooth curve through them
    (Catmull-Rom), `steps` points for each.
    """
    t = np.linspace(0, 1, steps, endpoint=False)
    weights = 0.5 * np.array(
        [
            -t + 2 * t**2 - t**3,
            2 - 5 * t**2 + 3 * t**3,
            t + 4 * t**2 - 3 * t**3,
            t**3 - t**2,
        ]
    )
    pieces = n if closed else n - 1
    matrix = np.zeros((steps * pieces + (not closed), n))
    for piece in range(pieces):
        for k in range(4):
            point = (piece + k - 1) % n if closed else min(max(piece + k - 1, 0), n - 1)
            matrix[steps * piece : steps * (piece + 1), point] += weights[k]
    if not closed:
        matrix[-1, -1] = 1
    return matrix


@functools.cache
def _slope(n):
    """Return the matrix that gives an open curve through n points its directions."""
    return np.gradient(_curve(n, False), axis=0)


@functools.cache
def _spread(widths, n):
    """Return n numbers that run through `widths`, shape (n, 1)."""
    return np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(widths)), widths)[
        :, None
    ]


@functools.cache
def _blend(few, many):
    """Return the matrix that turns a few values into many that run softly between them
    (a cubic B-spline).
    """
    distance = abs(np.linspace(0, few - 1, many)[:, None] - np.arange(-1, few + 1))
    near, far = np.maximum(1 - distance, 0), np.maximum(2 - distance, 0)
    weights = (far**3 - 4 * near**3) / 6
    weights[:, 1] += weights[:, 0]
    weights[:, -2] += weights[:, -1]
    return weights[:, 1:-1].astype(np.float32)


def smooth(points, closed=True, steps=4):
    """Return a smooth curve through the points, an array of shape (n, 2), with `steps`
    points for each given one.
    """
    return _curve(len(points), closed, steps) @ np.asarray(points, float)


def mirrored(right_side):
    """Return a closed outline from its right half, given from top to bottom."""
    right_side = np.asarray(right_side, float)
    left = right_side[::-1] * (-1, 1)
    return np.concatenate([right_side, left[right_side[::-1, 0] > 0]])


def ribbon(centre, widths):
    """Return the outline of a band around a curve, or of many: the shape of `centre` is
    (n, 2) or (many, n, 2).

    `widths` are spread evenly along the curve.
    """
    points = np.asarray(centre, float)
    n = points.shape[-2]
    centre, along = _curve(n, False) @ points, _slope(n) @ points
    half = _spread(tuple(widths), centre.shape[-2]) / 2
    across = (
        along[..., ::-1]
        * (-1, 1)
        * (half / np.sqrt((along**2).sum(axis=-1, keepdims=True) + 1e-9))
    )
    return np.concatenate([centre + across, (centre - across)[..., ::-1, :]], axis=-2)


def both(right):
    """Return an outline of the right side and its mirror image."""
    right = np.asarray(right, float)
    return [right, right * (-1, 1)]


@functools.cache
def _circle(n):
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def oval(x, y, rx, ry, n=20):
    """Return the outline of an ellipse, shape (n, 2)."""
    return _circle(n) * (rx, ry) + (x, y)


def ripple(outline, height, length, phase):
    """Return a closed outline with waves of this height and length in pixels."""
    along = np.roll(outline, -1, axis=0) - np.roll(outline, 1, axis=0)
    across = np.stack([along[:, 1], -along[:, 0]], axis=1)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    travelled = np.cumsum(np.linalg.norm(along, axis=1) / 2)
    return (
        outline
        + across * (height * np.sin(2 * np.pi * travelled / length + phase))[:, None]
    )


# The canvas


@functools.cache
def _soft_spot(percent):
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    return Image.fromarray(
        (2.55 * percent * np.clip(1 - x**2 - y**2, 0, 1) ** 2).astype(np.uint8)
    )


class Canvas:
    """A picture to paint on in face coordinates. `depth` is how far (pixels) a thing
    stands out of the head.
    """

    EYE_DEPTH = 32

    def __init__(self, face):
        self.face = face
        self.image = Image.new("RGB", (WIDTH, HEIGHT))
        yaw, tilt = math.radians(face.yaw), math.radians(face.tilt)
        self.lean = math.sin(yaw)
        self.turn = face.scale * np.array(
            [[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]]
        )
        self.matrix = np.array([[math.cos(yaw)], [1]]) * self.turn
        self.origin = np.array(MIDDLE) + face.shift
        self.noise = np.random.default_rng(face.detail).random(
            (5, 64)
        )  # a row for each part that needs some

    def lit(self, colour):
        """Return a colour in the light of this picture, as whole numbers."""
        return tuple(
            [max(0, min(255, int(value * self.face.brightness))) for value in colour]
        )

    def place(self, points, depth):
        """Return the pixel positions of points in face coordinates, shape (n, 2)."""
        # The eyes stay in place when the head turns; what is nearer moves ahead and
        # what is farther falls back.
        return points @ self.matrix + (
            self.origin + (depth - self.EYE_DEPTH) * self.lean * self.turn[0]
        )

    def mask(self, outlines, depth, alpha=1.0, blur=0.0):
        """Return (mask, box): a picture of the filled outlines and its place (left,
        top, right, bottom).
        """
        placed = self.place(np.concatenate(outlines), depth)
        edge = 1 + 2 * blur
        (left, top), (right, bottom) = (
            placed.min(axis=0).tolist(),
            placed.max(axis=0).tolist(),
        )
        left, top = max(math.floor(left - edge), 0), max(math.floor(top - edge), 0)
        right, bottom = (
            min(math.ceil(right + edge), WIDTH),
            min(math.ceil(bottom + edge), HEIGHT),
        )
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        # Drawn larger and then reduced, a mask gets smooth edges. Blurred or large ones
        # need less of that.
        fine = 1 if blur >= 0.7 else 2 if (right - left) * (bottom - top) > 1500 else 3
        mask = Image.new("L", ((right - left) * fine, (bottom - top) * fine))
        self.polygons(
            mask,
            outlines,
            (placed - (left, top)) * fine,
            [int(255 * alpha)] * len(outlines),
        )
        if fine > 1:
            mask = mask.reduce(fine)
        if blur:
            mask = mask.filter(ImageFilter.BoxBlur(1.5 * blur))
        return mask, (left, top, right, bottom)

    @staticmethod
    def polygons(image, outlines, placed, paints):
        """Draw outlines on an image. `placed` holds the pixel positions of all their
        points, one after another.
        """
        pen, numbers, start = ImageDraw.Draw(image), placed.ravel().tolist(), 0
        for outline, paint in zip(outlines, paints):
            end = start + 2 * len(outline)
            pen.polygon(numbers[start:end], fill=paint)
            start = end

    def fill(
        self, outlines, colour, depth=0.0, alpha=1.0, blur=0.0, bottom=None, within=None
    ):
        """Paint outlines in a colour, or from `colour` at the top to `bottom`. Return
        their (mask, box).

        `within` is a (mask, box) that the paint must not leave.
        """
        single = isinstance(outlines, np.ndarray) and outlines.ndim == 2
        mask, box = self.mask(
            [outlines] if single else list(outlines), depth, alpha, blur
        )
        if within:
            limit = Image.new("L", mask.size)
            limit.paste(within[0], (within[1][0] - box[0], within[1][1] - box[1]))
            mask = ImageChops.multiply(mask, limit)
        paint = self.lit(colour)
        if bottom is not None:
            paint = Image.new("RGB", (1, 2), paint)
            paint.putpixel((0, 1), self.lit(bottom))
            paint = paint.resize(mask.size, Image.Resampling.BILINEAR)
        self.image.paste(paint, box, mask)
        return mask, box

    def pattern(self, cut, ground, shapes, depth):
        """Paint shapes, a list of (outline, colour), on a ground and cut the result to
        `cut`, a (mask, box).
        """
        mask, box = cut
        fine = 3 if mask.width * mask.height < 1500 else 2
        cloth = Image.new(
            "RGB", (fine * mask.width, fine * mask.height), self.lit(ground)
        )
        outlines = [outline for outline, _ in shapes]
        placed = (self.place(np.concatenate(outlines), depth) - box[:2]) * fine
        self.polygons(
            cloth, outlines, placed, [self.lit(colour) for _, colour in shapes]
        )
        self.image.paste(cloth.reduce(fine), box, mask)

    def glow(self, x, y, rx, ry, colour, alpha, depth=0.0):
        """Paint a soft spot."""
        (cx, cy), s = self.place(np.array((x, y)), depth).tolist(), self.face.scale
        size = max(1, round(2 * rx * s)), max(1, round(2 * ry * s))
        spot = _soft_spot(round(alpha * 100)).resize(size, Image.Resampling.BILINEAR)
        self.image.paste(
            self.lit(colour), (round(cx - size[0] / 2), round(cy - size[1] / 2)), spot
        )


# The shape of the head


def head_width(face):
    """Return half the width of the head at the eyes."""
    return (37.5 if face.oval_face else 43.5) + face.width


def chin_height(face):
    """Return how far the chin is below the eyes."""
    return (69 if face.oval_face else 62.5) + face.chin


def jaw(face):
    """Return the right side of the jaw from the ear to the chin, shape (4, 2)."""
    w, chin = head_width(face), chin_height(face)
    corner, tip = (0.89, 0.5) if face.male else (0.76, 0.27)
    return np.array(
        [(0.98 * w, 12), (corner * w, 0.6 * chin), (tip * w, chin - 6), (0, chin)]
    )


# The parts, from back to front


def draw_background(canvas):
    """Soft clouds of two colours."""
    face, noise = canvas.face, canvas.noise[0]
    first, second = (np.array(colour) for colour in face.background)
    share = noise[:20].reshape(5, 4, 1) * (0.4 + 0.6 * noise[20])
    light = face.brightness * (
        1 + 0.12 * face.light * np.array([[-1], [-0.4], [0.4], [1]])
    )
    small = np.clip((first + (second - first) * share) * light, 0, 255).astype(
        np.float32
    )
    wide = (_blend(4, WIDTH) @ small).reshape(5, -1)
    canvas.image = Image.fromarray(
        (_blend(5, HEIGHT) @ wide).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)
    )


def hair_end(face):
    """Return how far below the eyes the hair reaches at the sides."""
    return (
        -6 + 50 * face.hair_length
        if face.hair_length < 0.3
        else 12 + 88 * face.hair_length
    )


def draw_hair_behind(canvas):
    """The hair behind head and neck."""
    face = canvas.face
    if face.hair_length < 0.3 or not hair_can_be_seen(face):
        return
    w, end = head_width(face) + face.volume, hair_end(face)
    right = [
        (0, -50),
        (0.8 * w, -40),
        (w + 2, 0),
        (w + 5, end - 14),
        (0.8 * w, end + 2),
        (0, end),
    ]
    outline = smooth(mirrored(right), steps=10 if face.wavy else 4)
    if face.wavy:
        outline = ripple(outline, 4.5, 24, face.detail % 7)
    canvas.fill(outline, darker(hair_colour(face), 0.62), depth=-10)


def draw_neck_and_shoulders(canvas):
    """Clothes, neck and the shadow of the chin."""
    face, skin = canvas.face, skin_colour(canvas.face)
    neck, shoulder = (27, 86) if face.male else (19.5, 72)
    clothes = smooth(
        mirrored(
            [
                (0, 84),
                (neck + 4, 79),
                (shoulder - 16, 91),
                (shoulder, 104),
                (shoulder + 4, 140),
            ]
        )
    )
    canvas.fill(clothes, face.clothes, bottom=darker(face.clothes, 0.7))
    low = 86 + 14 * canvas.noise[1, 0]
    collar = mirrored(
        [
            (0, 30),
            (neck, 30),
            (neck, 66),
            (neck + 6, 80),
            (0.4 * neck, low - 4),
            (0, low),
        ]
    )
    bare = canvas.fill(smooth(collar), darker(skin, 0.85))
    shadow = mirrored(jaw(face)[1:]) + (0, 8)
    canvas.fill(shadow, darker(skin, 0.45), depth=4, alpha=0.5, blur=3, within=bare)


def draw_ears(canvas):
    """Both ears."""
    face, skin = canvas.face, skin_colour(canvas.face)
    w = head_width(face)
    ear = smooth([(w - 4, -8), (w + 5, -10), (w + 7, 2), (w + 2, 19), (w - 4, 18)])
    canvas.fill(both(ear), darker(skin, 0.88), depth=-4)
    canvas.fill(
        both(oval(w + 2.5, 2, 2.2, 7)), darker(skin, 0.6), depth=-4, alpha=0.7, blur=1
    )


def draw_head(canvas):
    """The skin of the head, shaded as a round body, with the soft shadows of the eyes
    and cheeks.
    """
    face, skin = canvas.face, skin_colour(canvas.face)
    w, side = head_width(face), jaw(face)
    outline = smooth(
        mirrored([(0, -59), (0.6 * w, -53), (0.94 * w, -31), (w, -6), *side])
    )
    mask, box = canvas.mask([outline], 8)
    size, scale = (box[2] - box[0], box[3] - box[1]), face.scale
    # The shading is soft, so a few points of it are enough; resizing fills in the rest.
    across, down = np.linspace(box[0], box[2], 24), np.linspace(box[1], box[3], 32)

    def spot(x, y, rx, ry, depth):
        cx, cy = canvas.place(np.array((x, y)), depth).tolist()
        return np.exp(-(((down - cy) / (ry * scale)) ** 2))[:, None] * np.exp(
            -(((across - cx) / (rx * scale)) ** 2)
        )

    cx, cy = canvas.place(np.zeros(2), 8).tolist()
    x, y = (across - cx) / (w * scale), ((down - cy) / (62 * scale))[:, None]
    shade = 1.03 + 0.24 * face.light * x - 0.17 * x**2 - 0.07 * y - 0.08 * y**2
    shade += 0.1 * spot(0, -36, 16, 9, 26) + 0.08 * spot(
        0, chin_height(face) - 9, 7, 5, 34
    )
    for s in (-1, 1):
        shade += 0.1 * spot(s * 25, 18, 8, 7, 26) - 0.18 * spot(
            s * EYE_X, -4, 12, 9, 30
        )
    if face.bald and not face.hat:
        shade += 0.22 * spot(12 * face.light, -48, 14, 6, 10)
    # Skin gets redder in the shade: green and blue fade more than red.
    shaded = np.stack(
        [
            face.brightness * tone * (1 + k * (shade - 1))
            for tone, k in zip(skin, (0.8, 1, 1.1))
        ],
        axis=2,
    )
    shaded = Image.fromarray(np.minimum(shaded, 255).astype(np.uint8))
    canvas.image.paste(shaded.resize(size, Image.Resampling.BILINEAR), box, mask)
    if face.rosy_cheeks:
        for s in (-1, 1):
            canvas.glow(s * 25, 20, 19, 15, mix((236, 60, 84), skin, 0.12), 0.68, 27)


def draw_age_lines(canvas):
    """The wrinkles of a face that is not young: forehead, eyes, nose to mouth."""
    face = canvas.face
    if face.young:
        return
    dark = darker(skin_colour(face), 0.42)
    nose = 15 if face.big_nose else 11
    lines = both(ribbon([(nose, 22), (nose + 9, 32), (nose + 11, 44)], (1, 3.4, 1)))
    lines += both(ribbon([(9, 9), (18, 13.5), (28, 9)], (1, 2.8, 1)))
    lines += both(ribbon([(32, -2), (38, -6)], (2, 0.8))) + both(
        ribbon([(32, 2), (38, 4)], (2, 0.8))
    )
    canvas.fill(lines, dark, depth=30, alpha=0.62, blur=0.5)
    forehead = np.array([(-22, 1), (-9, -1), (9, -1), (22, 1)])
    canvas.fill(
        ribbon([forehead + (0, y) for y in (-30, -37)], (1, 2.6, 1)),
        dark,
        depth=27,
        alpha=0.5,
        blur=0.5,
    )


def draw_nose(canvas):
    """Bridge, wings, nostrils and tip."""
    face, skin = canvas.face, skin_colour(canvas.face)
    half, tip = (
        (14.5 if face.big_nose else 8.5),
        24 + face.nose + (3 if face.big_nose else 0),
    )
    dark = darker(skin, 0.5)
    side = -1 if face.light > 0 else 1
    shadow = smooth(
        [
            (side * 4, -8),
            (side * 5, 6),
            (side * (half + 1), tip),
            (side * 3, tip - 2),
            (side * 2, 4),
        ]
    )
    canvas.fill(shadow, dark, depth=38, alpha=0.42, blur=1.4)
    rim = [
        (-half, tip - 4),
        (-half * 0.9, tip + 3),
        (0, tip + 4.5),
        (half * 0.9, tip + 3),
        (half, tip - 4),
    ]
    canvas.fill(
        ribbon(rim, (1.4, 3.6, 2.2, 3.6, 1.4)), dark, depth=40, alpha=0.75, blur=0.7
    )
    bright = mix(skin, (255, 250, 240), 0.6)
    canvas.glow(0, tip - 3, half * 0.7, 6, bright, 0.75, 44)
    canvas.glow(-side * 1.5, 5, 3, 14, bright, 0.5, 40)
    holes = [oval(s * half * 0.5, tip + 2.6, half * 0.24, 1.7) for s in (-1, 1)]
    canvas.fill(holes, darker(skin, 0.22), depth=41, alpha=0.85)


def draw_beard(canvas):
    """Stubble, goatee or full beard; the mustache comes later, over the mouth."""
    face, skin = canvas.face, skin_colour(canvas.face)
    if face.beard == "none":
        return
    w, chin, colour = head_width(face), chin_height(face), beard_colour(face)
    if face.beard == "goatee":
        outline = smooth(
            mirrored([(0, 54), (10, 53), (15, 59), (13, chin + 3), (0, chin + 8)])
        )
        mask = canvas.fill(outline, colour, depth=30, blur=0.8)
    else:
        outer = jaw(face) * (1.01, 1)
        if face.beard == "full":
            outer += [(0, 0), (1, 3), (1, 6), (0, 7)]
        inner = [(0, 54), (14, 53.5), (22, 42), (0.66 * w, 29), (0.86 * w, 6)]
        outline = smooth(mirrored([*inner, *outer]))
        if face.beard == "stubble":
            lip = smooth([(-20, 42), (-13, 33), (0, 31), (13, 33), (20, 42), (0, 40)])
            shade = mix(darker(skin, 0.34), (58, 62, 70), 0.5)
            canvas.fill([outline, lip], shade, depth=18, alpha=0.6, blur=2.2)
            return
        mask = canvas.fill(outline, colour, depth=14, blur=0.9)
    roots = np.stack(
        [w * (2 * canvas.noise[2, :30] - 1), 15 + (chin - 9) * canvas.noise[2, 30:60]],
        axis=1,
    )
    hairs = np.stack([roots, roots * (0.96, 1) + (0, 9)], axis=1)
    canvas.fill(
        ribbon(hairs, (0.6, 1.6, 0.6)),
        mix(colour, (255, 240, 220), 0.22),
        depth=18,
        alpha=0.55,
        within=mask,
    )


def draw_mouth(canvas):
    """Lips, and between them a line or teeth. A smile bends the mouth and makes it
    wider.
    """
    face, skin = canvas.face, skin_colour(canvas.face)
    natural = mix(darker(skin, 0.72), (168, 84, 76), 0.22)
    lips = face.lip_colour if face.lipstick else natural
    half = (21.5 if face.smiling else 15.5) + face.mouth
    bend = -8.5 if face.smiling else -0.6
    gap = (9.5 if face.smiling else 7.5) if face.mouth_open else 0.0
    thick = 2.0 if face.big_lips else 0.9
    x = np.linspace(-1, 1, 13)
    dome = 1 - x**2
    middle = (44 if face.smiling else 43.5) - gap * 0.35 + bend * x**2
    upper_lip = middle - thick * (3.6 * dome**0.7 - 1.1 * np.exp(-((x / 0.16) ** 2)))
    below = middle + gap * dome**0.8
    lower_lip = below + thick * 4.6 * dome**0.9
    u = x * half

    def band(a, b):
        return np.concatenate(
            [np.stack([u, a], axis=1), np.stack([u, b], axis=1)[::-1]]
        )

    depth = 36
    canvas.glow(0, lower_lip[6] + 4, 12, 4, darker(skin, 0.45), 0.5, depth)
    canvas.fill(
        [band(upper_lip, middle), band(below, lower_lip)],
        lips,
        depth,
        bottom=mix(lips, (255, 160, 150), 0.25),
    )
    if face.mouth_open:
        share = 0.62 if face.smiling else 0.34
        teeth = (band(middle, middle + (below - middle) * share), (250, 247, 240))
        canvas.pattern(
            canvas.mask([band(middle, below)], depth), (74, 18, 24), [teeth], depth
        )
    else:
        line = np.stack([u, middle], axis=1)
        canvas.fill(
            ribbon(line, (1.2, 2.4, 2, 2.4, 1.2)),
            mix(darker(lips, 0.32), INK, 0.3),
            depth,
        )
    canvas.glow(0, lower_lip[6] - 2.2 * thick, 6, 2, (255, 235, 230), 0.4, depth)
    folds = both(oval(half + 0.5, middle[0], 1.9, 1.9, 10))
    if face.smiling:
        folds += both(
            ribbon([(half + 4, 28), (half + 6.5, 35), (half + 4, 42)], (0.8, 2, 0.8))
        )
    canvas.fill(folds, darker(skin, 0.4), depth - 3, alpha=0.5, blur=0.7)


def draw_mustache(canvas):
    """The mustache, between nose and mouth."""
    face = canvas.face
    if not face.mustache:
        return
    end = 36 if face.smiling else 41
    halves = both(ribbon([(0, 35), (9, 34.5), (17, 36.5), (23, end)], (7, 8.5, 6.5, 1)))
    mask = canvas.fill(halves, beard_colour(face), depth=38, blur=0.6)
    x = 36 * canvas.noise[3, :12] - 18
    hairs = [[(a, 31), (a * 1.15, 40)] for a in x]
    light = mix(beard_colour(face), (255, 240, 220), 0.22)
    canvas.fill(ribbon(hairs, (0.5, 1.4, 0.5)), light, depth=38, alpha=0.5, within=mask)


def draw_eyes(canvas):
    """Both eyes: white, iris, pupil, a spark of light, lids and lashes."""
    face, skin = canvas.face, skin_colour(canvas.face)
    height = 2.4 if face.narrow_eyes else 6.2 if face.male else 6.8
    lash = mix(INK, darker(skin, 0.2), 0.3)
    if face.makeup:
        lid = smooth([(8, -1), (17, -height - 9), (31, -height - 7), (35, -3)])
        shadow = hsv(0.55 + 0.4 * (face.detail % 97) / 97, 0.62, 0.42)
        canvas.fill(both(lid), shadow, 33, alpha=0.78, blur=1.2)
    upper = np.array(
        [
            (7.5, 1.5),
            (14, -height * 0.75),
            (21, -height),
            (27, -height * 0.55),
            (31, -0.5),
        ]
    )
    lower = np.array([(24, height * 0.55), (15, height * 0.62)])
    opening = canvas.mask(both(smooth(np.concatenate([upper, lower]))), 33)
    iris, balls = face.eye_colour, []
    for s in (-1, 1):
        x, y = s * EYE_X + face.gaze[0], face.gaze[1] - 0.6
        balls += [
            (oval(x, y, 5.8, 5.8), darker(iris, 0.5)),
            (oval(x, y, 4.9, 4.9), iris),
        ]
        balls += [
            (oval(x, y + 2, 3.4, 2.4), mix(iris, (255, 240, 200), 0.35)),
            (oval(x, y, 2.6, 2.6), (12, 10, 12)),
        ]
        balls.append((oval(x + 1.6, y - 2, 1.4, 1.4), (255, 255, 255)))
    canvas.pattern(opening, (246, 243, 240), balls, 33)
    lid = upper if face.male else np.concatenate([upper, [(35, -4.5)]])
    canvas.fill(
        both(ribbon(lid, (1, 2, 2.4, 1.4) if face.male else (1, 3, 4.2, 3.8, 1))),
        lash,
        33,
        alpha=0.9,
    )
    faint = both(ribbon(lower[::-1] + (0, 0.4), (0.6, 1.3, 0.6)))
    faint += both(
        ribbon(upper[:4] - (0, 4.6 if face.narrow_eyes else 3.6), (0.5, 1.5, 0.5))
    )
    canvas.fill(faint, darker(skin, 0.42), 33, alpha=0.55, blur=0.4)


def draw_brows(canvas):
    """Both brows; an arch lifts them towards the outer end."""
    face = canvas.face
    thick = 9.5 if face.bushy_brows else 4.0 if face.male else 3.2
    low = -17.5 - face.brow + (1.5 if face.male else 0)
    arch = 8.0 if face.arched_brows else 1.5
    brow = [(8, low + 1.5), (16, low - 0.5 * arch), (25, low - arch), (34, low + 2.5)]
    brows = both(ribbon(brow, (thick * 0.8, thick, thick * 0.9, 1)))
    canvas.fill(brows, darker(beard_colour(face), 0.72), depth=34, alpha=0.95, blur=0.5)


def hairline(face, noise):
    """Return the lower edge of the hair on the forehead from right to left, shape (n,
    2).
    """
    w = head_width(face)
    if face.receding:
        right = [
            (0.88 * w, -24),
            (0.76 * w, -45),
            (0.5 * w, -57),
            (0.2 * w, -50),
            (0, -47),
        ]
        return np.array(right + [(-x, y) for x, y in right[-2::-1]])
    if face.bangs:
        x = np.linspace(0.86, -0.86, 12) * w
        y = -27.5 + 2.2 * np.cos(np.arange(12) * math.pi) + 2.4 * noise[:12] - 1.2
        return np.stack([x, y], axis=1)
    part = 0.45 * w * face.parting
    return np.array(
        [
            (0.88 * w, -22),
            (0.72 * w, -36),
            ((0.6 * w + part) / 2, -43),
            (part, -47.5),
            ((-0.6 * w + part) / 2, -43),
            (-0.72 * w, -36),
            (-0.88 * w, -22),
        ]
    )


def draw_hair(canvas):
    """The hair on top and at the sides."""
    face, noise = canvas.face, canvas.noise[4]
    if not hair_can_be_seen(face):
        return
    colour, w, end = hair_colour(face), head_width(face), hair_end(face)
    thick, top = face.volume, -59 - face.volume
    long = face.hair_length >= 0.3
    if long:
        out, mid = w + thick, 0.5 * (end + 20)
        right = [
            (0.72 * w, end),
            (0.9 * out, end + 2),
            (out + 4, end - 12),
            (out + 2, min(mid, 30)),
            (out, -20),
        ]
        inside = [(0.9 * w, -8), (0.93 * w, 24), (0.7 * w, end)]
    else:
        out = w + 0.55 * thick
        right = [(0.97 * w, end), (w + 4, end - 3), (out, -22)]
        inside = [(0.93 * w, -8), (0.95 * w, end)]
    inside, right = np.array(inside), np.array(right)
    over = np.array([(0.78 * out, -47), (0.42 * out, top + 4), (0, top)])
    outer = np.concatenate(
        [right, over, (over[-2::-1]) * (-1, 1), right[::-1] * (-1, 1)]
    )
    outer = smooth(outer, closed=False, steps=10 if face.wavy else 4)
    if face.wavy:
        outer = ripple(outer, 4.0 if long else 3.4, 22, face.detail % 7)
    line = smooth(hairline(face, noise), closed=False)
    left_inside, right_inside = (
        smooth(inside[::-1] * (-1, 1), closed=False),
        smooth(inside, closed=False),
    )
    edge = np.concatenate([right_inside[::-1], line, left_inside[::-1]])
    cut = canvas.mask([np.concatenate([outer[::-1], edge])], 10)
    shades = [darker(colour, 0.62), mix(colour, (255, 244, 225), 0.26)]
    locks = strands(face, end if long else -10, noise[12:29])
    canvas.pattern(
        cut, colour, [(lock, shades[k % 2]) for k, lock in enumerate(locks)], 10
    )
    if not face.hat:
        shine, aside = mix(colour, (255, 246, 230), 0.4), 6 * face.light
        gloss = ribbon(
            [
                (-0.8 * w, -42),
                (-0.3 * w + aside, -58),
                (0.3 * w + aside, -58),
                (0.8 * w, -42),
            ],
            (3, 9, 3),
        )
        canvas.fill(gloss, shine, depth=10, alpha=0.55, blur=3, within=cut)


def strands(face, end, noise):
    """Return the outlines of strands from the parting to the ends of the hair, shape
    (17, points, 2).
    """
    w, part = head_width(face), 0.45 * head_width(face) * face.parting
    start = (np.linspace(-1, 1, 17) + 0.1 * noise - 0.05)[:, None]
    y = np.linspace(0, 1, 7 if face.wavy else 4)
    side = 1.15 * w * np.sign(start) * (0.55 + 0.45 * abs(start))
    across = part + (side - part) * np.minimum(1, 1.6 * y) ** 0.6
    down = -66 + 20 * abs(start) * y + (end + 50) * y**1.6
    if face.bangs and not face.hat:
        front = abs(start) < 0.72
        across = np.where(front, part + (start * 1.1 * w - part) * y**0.7, across)
        down = np.where(front, -64 + 42 * y, down)
    if face.wavy:
        across = across + 6.0 * np.sin(down / 21 * 2 * np.pi + start * 3) * np.minimum(
            1, 3 * y
        )
    return ribbon(np.stack([across, down], axis=2), (0.8, 3.4, 0.8))


def draw_earrings(canvas):
    """A hoop or a drop at each ear."""
    face = canvas.face
    if not face.earrings:
        return
    x, colour = (
        head_width(face) + 3,
        ((244, 200, 60), (226, 230, 238), (240, 240, 250))[face.detail % 3],
    )
    if face.detail % 2:
        ring = ribbon(
            np.concatenate([oval(x, 28, 6.5, 8), oval(x, 28, 6.5, 8)[:1]]), (3.4, 3.4)
        )
        canvas.fill(both(ring), colour, depth=-2)
    else:
        drops = both(oval(x, 22, 3.4, 3.4)) + both(oval(x, 31, 4.4, 6.5))
        canvas.fill(drops, colour, depth=-2, bottom=darker(colour, 0.75))


def draw_glasses(canvas):
    """Frames with clear or dark lenses."""
    face = canvas.face
    if not face.glasses:
        return
    power = 2 + 2.6 * face.frame_shape  # a superellipse: 2 is round, more is squarer
    circle = _circle(24)
    lens = np.sign(circle) * np.abs(circle) ** (2 / power) * (16, 13) + (19.5, 1.5)
    w = head_width(face)
    if face.sunglasses:
        canvas.fill(both(lens), (20, 20, 26), 40, alpha=0.96, bottom=(62, 56, 60))
    else:
        canvas.fill(both(lens), (225, 240, 250), 40, alpha=0.14)
    canvas.fill(both(ribbon([(35, -3), (w, -4)], (3.6, 3))), face.frame_colour, 22)
    frame = both(ribbon(np.concatenate([lens, lens[:1]]), (4.2, 4.2)))
    canvas.fill(
        [*frame, ribbon([(-4.5, -1), (0, -3), (4.5, -1)], (4, 3.6, 4))],
        face.frame_colour,
        40,
    )
    shine = ribbon([[(s * 19.5 - 9, 4), (s * 19.5 - 4, -6)] for s in (-1, 1)], (2, 2.6))
    canvas.fill(shine, (255, 255, 255), 40, alpha=0.4, blur=0.6)


def draw_hat(canvas):
    """A knitted hat, a cap or a hat with a brim."""
    face = canvas.face
    if not face.hat:
        return
    w, colour = head_width(face) + 5, face.hat_colour
    dark, light = darker(colour, 0.55), mix(colour, (255, 255, 255), 0.3)
    top = -87
    crown = smooth(
        mirrored(
            [
                (0, top),
                (0.55 * w, top + 6),
                (0.95 * w, -54),
                (w + 1, -30),
                (0.6 * w, -34),
                (0, -36),
            ]
        )
    )
    if face.hat_style == 2:
        crown = smooth(
            mirrored(
                [
                    (0, top + 3),
                    (0.5 * w, top),
                    (0.78 * w, top + 10),
                    (0.92 * w, -37),
                    (0, -37),
                ]
            )
        )
    mask = canvas.fill(
        crown, mix(colour, light, 0.4), depth=10, bottom=darker(colour, 0.75)
    )
    if face.hat_style == 0:
        ribs = [
            [(x * 0.45 * w, top), (x * 0.9 * w, -55), (x * w, -28)]
            for x in np.linspace(-0.9, 0.9, 9)
        ]
        canvas.fill(ribbon(ribs, (1, 2, 2)), dark, depth=10, alpha=0.5, within=mask)
        cuff = ribbon(
            [(-w - 2, -31), (-0.5 * w, -38.5), (0.5 * w, -38.5), (w + 2, -31)],
            (13, 14, 13),
        )
        canvas.fill(cuff, light, depth=12, bottom=colour)
    elif face.hat_style == 1:
        seams = both(ribbon([(0, top), (0.6 * w, -58), (0.7 * w, -32)], (1, 1.6, 1)))
        canvas.fill(seams, dark, depth=12, alpha=0.6, within=mask)
        visor = smooth(
            mirrored(
                [(0, -46), (0.5 * w, -43), (0.96 * w, -33), (0.62 * w, -28), (0, -29)]
            )
        )
        canvas.fill(visor, dark, depth=40, bottom=darker(colour, 0.35))
    else:
        band = ribbon([(-0.9 * w, -45), (0, -50), (0.9 * w, -45)], (11, 11))
        canvas.fill(band, darker(colour, 0.35), depth=12, within=mask)
        brim = smooth(
            mirrored(
                [(0, -45), (0.6 * w, -43), (w + 24, -36), (0.6 * w, -30), (0, -29)]
            )
        )
        canvas.fill(brim, light, depth=16, bottom=darker(colour, 0.6))
    shadow = ribbon([(-0.8 * w, -26), (0, -26), (0.8 * w, -26)], (6, 6))
    canvas.fill(shadow, (30, 16, 10), depth=24, alpha=0.25, blur=2)


PARTS = (
    draw_background, draw_hair_behind, draw_neck_and_shoulders, draw_ears, draw_head,
    draw_age_lines, draw_nose, draw_beard, draw_mouth, draw_mustache, draw_eyes,
    draw_hair, draw_brows, draw_earrings, draw_glasses, draw_hat,
)  # fmt: skip


def draw(face):
    """Draw a face. Return a `PIL.Image` in RGB, 178 pixels wide and 218 high."""
    canvas = Canvas(face)
    for part in PARTS:
        part(canvas)
    return canvas.image
