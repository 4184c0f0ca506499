"""Words for what a picture shows: kinds of things, countable nouns, their plurals.

Everything is read from the annotation (caption, category, subcategory); where it does
not say clearly, there is no kind or no noun, and no question is asked about it.
"""

import re
from dataclasses import dataclass
from typing import TypedDict

from data_pipelines.prepare.colors import SPELLINGS


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split(","))


class Annotation(TypedDict):
    """A line of captions.jsonl, its texts in clean lower case."""

    image: str
    caption: str
    concept: str
    category: str
    subcategory: str
    keywords: list[str]
    source: str
    license: str


# kind → how it is asked about
KINDS: dict[str, str] = {
    "animal": "an animal",
    "arrow": "an arrow",
    "building": "a building",
    "clock": "a clock",
    "clothing": "clothing",
    "drink": "a drink",
    "face": "a face",
    "flag": "a flag",
    "food": "food",
    "hand": "a hand",
    "heart": "a heart",
    "instrument": "a musical instrument",
    "map": "a map",
    "person": "a person",
    "plant": "a plant",
    "shape": "a shape",
    "sign": "a sign",
    "tool": "a tool",
    "vehicle": "a vehicle",
    "weather": "weather",
}

# The first prefix of "category/subcategory" that fits decides; None asks nothing.
_KINDS_BY_PREFIX: tuple[tuple[str, str | None], ...] = (
    ("activities", None),
    ("animals & nature/animal-", "animal"),
    ("animals & nature/plant-", "plant"),
    ("animals/animals/fantasy", None),
    ("animals/animals", "animal"),
    ("buildings/buildings/furniture", None),
    ("buildings/", "building"),
    ("flags/", "flag"),
    ("food & drink/dishware", None),
    ("food & drink/drink", "drink"),
    ("food & drink/", "food"),
    ("food/food/beverages", "drink"),
    ("food/food/", "food"),
    ("geography/geography/astronomy", None),
    ("geography/", "map"),
    ("objects/clothing", "clothing"),
    ("objects/musical-instrument", "instrument"),
    ("objects/tool", "tool"),
    ("people & body/body-parts", None),
    ("people & body/hand", "hand"),
    ("people & body/person-symbol", None),
    ("people & body/", "person"),
    ("people/people/bodypart", None),
    ("people/people/clothing", "clothing"),
    ("people/people/smilies", "face"),
    ("people/", "person"),
    ("plants/", "plant"),
    ("shapes/shapes/arrows", "arrow"),
    ("signs_and_symbols/signs_and_symbols/clocks", "clock"),
    ("signs_and_symbols/signs_and_symbols/flags", "flag"),
    ("signs_and_symbols/signs_and_symbols/weather", "weather"),
    ("smileys & emotion/face-costume", None),
    ("smileys & emotion/face-", "face"),
    ("smileys & emotion/heart", "heart"),
    ("symbols/arrow", "arrow"),
    ("symbols/geometric", "shape"),
    ("symbols/warning", "sign"),
    ("symbols/transport-sign", "sign"),
    ("tools/tools/toys", None),
    ("tools/", "tool"),
    ("transportation/transportation/roadsigns", "sign"),
    ("transportation/transportation/vehicles", "vehicle"),
    ("travel & places/place-building", "building"),
    ("travel & places/sky & weather", "weather"),
    ("travel & places/time", "clock"),
    ("travel & places/transport-", "vehicle"),
)

# Kinds that a picture of the first may show as well: never asked as a wrong one.
_OVERLAPS: dict[str, frozenset[str]] = {
    "arrow": frozenset({"shape", "sign"}),
    "clothing": frozenset({"person"}),
    "drink": frozenset({"food"}),
    "face": frozenset({"person", "shape"}),
    "flag": frozenset({"map", "shape", "sign"}),
    "food": frozenset({"drink", "plant", "animal"}),
    "hand": frozenset({"person", "sign"}),
    "heart": frozenset({"shape", "sign"}),
    "map": frozenset({"flag", "shape", "sign"}),
    "person": frozenset({"clothing", "face", "hand", "tool", "vehicle"}),
    "plant": frozenset({"food"}),
    "shape": frozenset({"sign"}),
    "sign": frozenset({"arrow", "flag", "map", "person", "shape"}),
    "weather": frozenset({"shape", "sign"}),
}

# Captions whose subcategory says more than is true of them.
_NO_KIND = _listed(
    "anchor,backpack,baby bottle,brick,broken chain,bus stop,chains,clinking glasses,"
    "clutch bag,construction,crown,folding hand fan,fuel pump,gem stone,hair pick,"
    "handbag,horizontal traffic light,ice,link,lipstick,love letter,motorway,oil drum,"
    "parachute,pouring liquid,prayer beads,purse,railway track,ring,ring buoy,rock,"
    "satellite,seat,shopping bags,station,stop sign,teapot,tumbler glass,"
    "vertical traffic light,watch,wheel,wood"
)
_WEATHER = re.compile(r"sun|cloud|rain|snow|tornado|fog|wind|cyclone|lightning")

_CATEGORIES = frozenset(
    {
        "activities",
        "animals & nature",
        "food & drink",
        "objects",
        "smileys & emotion",
        "symbols",
        "travel & places",
    }
)
_THINGS = _listed(
    "animal-amphibian,animal-bird,animal-bug,animal-mammal,animal-marine,"
    "animal-reptile,arts & crafts,award-medal,book-paper,clothing,computer,dishware,"
    "drink,event,face-costume,food-asian,food-fruit,food-prepared,food-sweet,"
    "food-vegetable,game,geometric,heart,hotel,household,light & video,lock,mail,"
    "medical,musical-instrument,office,phone,place-building,plant-flower,plant-other,"
    "science,sky & weather,sound,sport,tool,transport-air,transport-ground,"
    "transport-water,writing"
)
# Captions of those subcategories that name no countable thing of their own.
_NO_THINGS = _listed(
    "accordion,amphora,bacon,badminton,blossom,bouquet,bowling,bread,butter,candy,"
    "comet,construction,cooking,coral,custard,cyclone,dango,dna,dodo,falafel,feather,"
    "fire,flatbread,fog,fondue,garlic,herb,hibiscus,hook,hyacinth,ice,label,lacrosse,"
    "leafy,ledger,link,locked,lotus,luggage,mate,memo,metro,microbe,motorway,phoenix,"
    "pick,popcorn,ribbon,rock,rosette,sake,salt,sari,sauropod,seat,shower,skis,soap,"
    "spaghetti,sparkler,station,sushi,tamale,tennis,thread,tornado,unlocked,wing,"
    "wood,zzz"
)
_TWO_WORDS = _listed(
    "polar bear,water buffalo,palm tree,potted plant,maple leaf,rice ball,hot dog,"
    "bell pepper,hot pepper,birthday cake,safety pin,light bulb,movie camera,"
    "alarm clock,flying saucer,police car,fire engine,motor boat,oil drum,"
    "soccer ball,teddy bear,magic wand,honey pot,shopping cart,floppy disk"
)
_IRREGULAR = {
    "bison": "bison",
    "blowfish": "blowfish",
    "cactus": "cacti",
    "deer": "deer",
    "fish": "fish",
    "goose": "geese",
    "knife": "knives",
    "leaf": "leaves",
    "mango": "mangoes",
    "mosquito": "mosquitoes",
    "ox": "oxen",
    "potato": "potatoes",
    "scarf": "scarves",
    "shrimp": "shrimp",
    "snowman": "snowmen",
    "squid": "squid",
    "tomato": "tomatoes",
    "water buffalo": "water buffalo",
    "wolf": "wolves",
}
_CONSONANT_SOUND = re.compile(r"(uni|eu|ewe|one|u[bstk][aei])")
_SIZES = ("large", "pointed", "up", "suit")


@dataclass(frozen=True)
class Noun:
    """A countable noun: one, several, and what kind of thing it names, if any."""

    singular: str
    plural: str
    kind: str | None

    @property
    def with_article(self) -> str:
        """Such as 'an apple'."""
        return f"{article(self.singular)} {self.singular}"


def kind_of(annotation: Annotation) -> str | None:
    """The kind of thing that an annotation names, one of KINDS or None."""
    place = f"{annotation['category']}/{annotation['subcategory']}"
    caption = annotation["caption"]
    if caption in _NO_KIND:
        return None
    if place == "travel & places/sky & weather" and not _WEATHER.search(caption):
        return None
    for prefix, kind in _KINDS_BY_PREFIX:
        if place.startswith(prefix):
            return kind
    return None


def may_be(kind: str, other: str) -> bool:
    """Whether a picture of `kind` may fairly be called `other` as well."""
    return kind == other or other in _OVERLAPS.get(kind, frozenset())


def noun_of(annotation: Annotation) -> Noun | None:
    """The countable noun of a picture that shows one plain thing, else None.

    Colours are left out: 'red apple' gives 'apple'.
    """
    if (
        annotation["category"] not in _CATEGORIES
        or annotation["subcategory"] not in _THINGS
    ):
        return None
    words = [w for w in annotation["caption"].split() if w not in SPELLINGS]
    if annotation["subcategory"] in ("geometric", "heart"):
        words = [word for word in words if word not in _SIZES]
    name = " ".join(words)
    if not re.fullmatch(r"[a-z]+( [a-z]+)?", name) or name in _NO_THINGS:
        return None
    if " " in name and name not in _TWO_WORDS:
        return None
    if name.endswith("s") and not name.endswith(("ss", "us", "is")):
        return None  # already a plural
    return Noun(name, plural(name), kind_of(annotation))


def article(phrase: str) -> str:
    """'a' or 'an', by the sound that `phrase` begins with."""
    vowel = phrase[:1] in "aeiou" and not _CONSONANT_SOUND.match(phrase)
    return "an" if vowel or phrase.startswith("hour") else "a"


def plural(noun: str) -> str:
    """The plural of a noun of one or two words."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    *first, last = noun.split()
    if last in _IRREGULAR:
        return " ".join([*first, _IRREGULAR[last]])
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"
