"""What a face is: numbers, how one is made up, and what can be seen on it."""

import dataclasses

VERSION = 1  # Raise this number whenever a change alters the pictures or the labels.

ATTRIBUTES = tuple(
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips "
    "Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair "
    "Heavy_Makeup High_Cheekbones "
    "Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin "
    "Pointy_Nose Receding_Hairline "
    "Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings "
    "Wearing_Hat Wearing_Lipstick "
    "Wearing_Necklace Wearing_Necktie Young".split()
)
NOT_DRAWN = {
    "Attractive", "Bags_Under_Eyes", "Blurry", "Chubby", "Double_Chin",
    "High_Cheekbones", "Pointy_Nose", "Sideburns", "Wearing_Necklace",
    "Wearing_Necktie",
}  # fmt: skip
DRAWN = tuple(name for name in ATTRIBUTES if name not in NOT_DRAWN)

HAIR_COLOURS = {
    "black": (30, 26, 29),
    "brown": (104, 64, 38),
    "blond": (232, 192, 112),
    "gray": (176, 177, 182),
}
EYE_COLOURS = (
    (82, 52, 32),
    (60, 38, 26),
    (112, 82, 44),
    (76, 122, 168),
    (84, 130, 96),
    (122, 134, 146),
)
FRAME_COLOURS = (
    (22, 20, 24),
    (30, 24, 22),
    (74, 38, 20),
    (120, 22, 34),
    (22, 40, 92),
    (30, 30, 34),
)
LIPSTICKS = ((196, 18, 44), (206, 36, 88), (150, 14, 48), (222, 50, 58))


@dataclasses.dataclass(frozen=True)
class Face:
    """All that `draw` needs to know about one face. Angles are in degrees, lengths in
    pixels.
    """

    male: bool
    young: bool
    smiling: bool
    mouth_open: bool
    glasses: bool
    sunglasses: bool  # dark lenses; counts only with glasses
    hat: bool
    hat_style: int  # 0 knitted hat, 1 cap, 2 hat with a brim
    hair_colour: str  # a key of HAIR_COLOURS
    bald: bool
    receding: bool
    bangs: bool
    wavy: bool
    hair_length: (
        float  # 0 short, 1 far below the shoulders; from 0.3 it can be seen below a hat
    )
    beard: str  # "none", "stubble", "goatee" or "full"
    mustache: bool
    lipstick: bool
    makeup: bool
    bushy_brows: bool
    arched_brows: bool
    rosy_cheeks: bool
    big_nose: bool
    big_lips: bool
    narrow_eyes: bool
    oval_face: bool
    pale_skin: bool
    earrings: bool
    yaw: float  # to the right of the picture
    tilt: float  # clockwise
    scale: float
    shift: tuple  # (right, down)
    gaze: tuple  # (right, down)
    light: float  # -1 from the left, 1 from the right
    brightness: float
    skin: float  # 0 light, 1 dark
    width: float  # added to half the width of the head
    chin: float  # added to the height of the chin
    nose: float  # added to the length of the nose
    mouth: float  # added to half the width of the mouth
    brow: float  # added to the height of the brows
    volume: float  # thickness of the hair above the head
    parting: float  # -1 left, 1 right
    hair_tint: float  # -1 darker, 1 lighter
    eye_colour: tuple
    lip_colour: tuple
    clothes: tuple
    hat_colour: tuple
    frame_colour: tuple
    frame_shape: float  # 0 round lenses, 1 square lenses
    background: tuple  # two colours
    detail: int  # seed of small things: strands of hair, spots in the background


# Making up a face


def sample_face(rng):
    """Return a random `Face`. `rng` is a `numpy.random.Generator`.

    The traits hang together loosely, as they do in life: most men have short hair, most
    grey hair is not young. Only the beard and the mustache need a man.
    """

    def chance(p):
        return bool(rng.random() < p)

    def between(low, high):
        return low + (high - low) * float(rng.random())

    def one_of(options, weights=None):
        weights = weights or [1 / len(options)] * len(options)
        place = float(rng.random())
        for option, weight in zip(options, weights):
            place -= weight
            if place < 0:
                return option
        return options[-1]

    def bright_colour():
        return hsv(between(0, 1), between(0.15, 0.85), between(0.2, 0.95))

    male, young = chance(0.46), chance(0.68)
    skin = between(0, 1)
    weights = [0.33, 0.36, 0.28, 0.03] if young else [0.18, 0.2, 0.17, 0.45]
    bald = chance((0.17 if young else 0.32) if male else 0.025)
    receding = not bald and chance((0.16 if young else 0.36) if male else 0.04)
    beard = (
        one_of(("none", "stubble", "goatee", "full"), [0.38, 0.18, 0.21, 0.23])
        if male
        else "none"
    )
    kind = one_of(
        ("short", "medium", "long"), [0.8, 0.12, 0.08] if male else [0.15, 0.3, 0.55]
    )
    low, high = {"short": (0.0, 0.2), "medium": (0.35, 0.55), "long": (0.6, 1.0)}[kind]
    smiling, glasses = chance(0.48), chance(0.22)
    base = hsv(between(0, 1), between(0.05, 0.6), between(0.25, 0.9))
    return Face(
        male=male,
        young=young,
        smiling=smiling,
        mouth_open=chance(0.6 if smiling else 0.32),
        glasses=glasses,
        sunglasses=glasses and chance(0.2),
        hat=chance(0.14),
        hat_style=int(rng.integers(3)),
        hair_colour=one_of(tuple(HAIR_COLOURS), weights),
        bald=bald,
        receding=receding,
        bangs=not bald and not receding and chance(0.22 if male else 0.34),
        wavy=chance(0.4),
        hair_length=between(low, high),
        beard=beard,
        mustache=male
        and chance({"none": 0.25, "stubble": 0.2, "goatee": 0.5, "full": 0.7}[beard]),
        lipstick=chance(0.03 if male else 0.55),
        makeup=chance(0.02 if male else 0.42),
        bushy_brows=chance(0.3 if male else 0.12),
        arched_brows=chance(0.12 if male else 0.4),
        rosy_cheeks=chance(0.1 if male else 0.25),
        big_nose=chance(0.32 if male else 0.18),
        big_lips=chance(0.2 if male else 0.3),
        narrow_eyes=chance(0.18),
        oval_face=chance(0.35),
        pale_skin=chance(0.12),
        earrings=chance(0.06 if male else 0.38),
        yaw=between(-15, 15),
        tilt=between(-6, 6),
        scale=between(0.96, 1.04),
        shift=(between(-2, 2), between(-2, 2)),
        gaze=(between(-2, 2), between(-0.8, 0.8)),
        light=between(-1, 1),
        brightness=between(0.88, 1.08),
        skin=skin,
        width=between(-1.2, 1.2),
        chin=between(-1.2, 1.2),
        nose=between(-1.5, 2),
        mouth=between(-1.5, 1.5),
        brow=between(-1, 1.5),
        volume=between(5, 10),
        parting=between(-1, 1),
        hair_tint=between(-1, 1),
        eye_colour=one_of(EYE_COLOURS),
        lip_colour=one_of(LIPSTICKS),
        clothes=bright_colour(),
        hat_colour=bright_colour(),
        frame_colour=one_of(FRAME_COLOURS),
        frame_shape=between(0, 1),
        background=(base, mix(base, bright_colour(), between(0.3, 0.9))),
        detail=int(rng.integers(2**31)),
    )


def hair_can_be_seen(face):
    """True if there is hair on the head and no hat hides all of it."""
    return not face.bald and (not face.hat or face.hair_length >= 0.3)


def attributes(face):
    """Return a dict from each of the 40 `ATTRIBUTES` to True or False, as it can be
    seen in the picture.

    What a hat or dark lenses hide is False. `No_Beard` is False with stubble, a goatee
    or a full beard; a mustache alone is no beard. Attributes that are not in `DRAWN`
    are always False.
    """
    hair, top = hair_can_be_seen(face), not face.hat
    eyes = not (face.glasses and face.sunglasses)
    seen = {
        "5_o_Clock_Shadow": face.beard == "stubble",
        "Arched_Eyebrows": face.arched_brows,
        "Bald": face.bald and top,
        "Bangs": face.bangs and not face.bald and not face.receding and top,
        "Big_Lips": face.big_lips,
        "Big_Nose": face.big_nose,
        "Black_Hair": hair and face.hair_colour == "black",
        "Blond_Hair": hair and face.hair_colour == "blond",
        "Brown_Hair": hair and face.hair_colour == "brown",
        "Bushy_Eyebrows": face.bushy_brows,
        "Eyeglasses": face.glasses,
        "Goatee": face.beard == "goatee",
        "Gray_Hair": hair and face.hair_colour == "gray",
        "Heavy_Makeup": face.makeup and eyes,
        "Male": face.male,
        "Mouth_Slightly_Open": face.mouth_open,
        "Mustache": face.mustache,
        "Narrow_Eyes": face.narrow_eyes and eyes,
        "No_Beard": face.beard == "none",
        "Oval_Face": face.oval_face,
        "Pale_Skin": face.pale_skin,
        "Receding_Hairline": face.receding and not face.bald and top,
        "Rosy_Cheeks": face.rosy_cheeks,
        "Smiling": face.smiling,
        "Straight_Hair": hair and not face.wavy,
        "Wavy_Hair": hair and face.wavy,
        "Wearing_Earrings": face.earrings,
        "Wearing_Hat": face.hat,
        "Wearing_Lipstick": face.lipstick,
        "Young": face.young,
    }
    return {name: bool(seen.get(name, False)) for name in ATTRIBUTES}


# Colours


def mix(a, b, share):
    """Return the colour that is `share` of the way from colour `a` to colour `b`."""
    return tuple(x + (y - x) * share for x, y in zip(a, b))


def darker(colour, factor):
    """Return the colour times `factor`."""
    return tuple(x * factor for x in colour)


def hsv(hue, saturation, value):
    """Return the RGB colour (0 to 255) of a hue, saturation and value from 0 to 1."""
    wheel = (max(0.0, min(1.0, abs((hue * 6 + k) % 6 - 3) - 1)) for k in (0, 4, 2))
    return tuple(255 * value * (1 - saturation * (1 - x)) for x in wheel)
