"""Units of measure, currencies and counted things: the words that may stand after a number without changing it.

The list is closed: a word that is not in it is no unit, so that "5 x", "3 e" and "10 more than x" keep what they say. Words that change
the number ("dozen", "million", "%") are no units either; `quantities` reads them.
"""

from __future__ import annotations

import re
from functools import cache

# One line per unit: its name, then its other singular forms and symbols; plurals are made below.
_MEASURES = """
millimeter millimetre mm | centimeter centimetre cm | decimeter decimetre dm | meter metre m | kilometer kilometre km
micrometer micrometre micron μm um | nanometer nanometre nm
inch in | foot ft | yard yd | mile mi | furlong | league | fathom | lightyear light-year
acre | hectare ha | milliliter millilitre ml mL | centiliter centilitre cl | deciliter decilitre dl | liter litre l L
cc | gallon gal | quart qt | pint pt | cup | tablespoon tbsp | teaspoon tsp | barrel bbl | bushel | cord
milligram mg | gram gramme g gm | kilogram kilogramme kg kilo | ton t. | tonne | pound lb lbs. | ounce oz | stone | carat | grain
nanosecond ns | microsecond μs us | millisecond ms | second sec s | minute min | hour hr h | day | night | week wk | fortnight | month
year yr | decade | century | radian rad | degree deg ° | kelvin | celsius | fahrenheit | rpm | knot | mach
hertz Hz kHz MHz GHz | newton N kN | joule J kJ | calorie cal kcal | watt W | kilowatt kW | megawatt MW | volt V | ampere amp
ohm Ω | coulomb | farad | tesla | pascal Pa kPa | bar | atmosphere atm | psi | mole mol | decibel dB | lumen | candela | horsepower hp
bit | byte | kilobyte KB kB | megabyte MB | gigabyte GB | terabyte TB | pixel
dollar $ usd US$ buck | cent ¢ | euro € eur | sterling £ gbp quid | yen ¥ jpy | yuan rmb | rupee ₹ rs rs. inr | peso | won ₩ | ruble ₽
franc chf | penny | nickel | dime | shilling | shekel ₪ | krona kr
point pt. | unit | percentage-point
"""
_SPECIAL = {
    "feet": "foot", "inches": "inch", "centuries": "century", "hertz": "hertz", "pence": "penny", "pennies": "penny",
    "mph": "mile/hour", "kph": "kilometer/hour", "kmh": "kilometer/hour", "kmph": "kilometer/hour", "fps": "foot/second",
    "mps": "meter/second", "mpg": "mile/gallon", "sqft": "foot^2", "kwh": "kilowatt·hour",
    "gbps": "gigabit/second", "mbps": "megabit/second",
}  # fmt: skip
# Counted things of word problems. They do not tell two answers apart: "18 eggs" is 18.
_COUNTED = """
apple orange pear banana peach plum grape cherry lemon lime mango melon watermelon pineapple strawberry blueberry raspberry berry kiwi
fruit potato tomato carrot onion pepper pumpkin cucumber bean pea vegetable coconut nut almond walnut peanut seed egg loaf loaves bread
cookie cake cupcake muffin pie pizza slice piece sandwich burger hotdog donut doughnut pancake waffle biscuit cracker candy candies
chocolate lollipop gum sweet bagel roll taco burrito meal snack breakfast lunch dinner serving portion drink bottle can jar glass mug bowl
plate spoon fork knife knives pan pot box bag basket bucket crate pack package packet carton case container tray bin barrel tank tin tube
cup stack pile row column group team set pair bunch bundle batch load part share person people man men woman women boy girl child children
kid baby babies adult teen teenager student pupil teacher parent mother father brother sister sibling friend cousin uncle aunt guest
member player worker employee customer client passenger driver visitor tourist patient doctor nurse soldier officer farmer baker painter
artist singer dancer actor reader writer voter resident citizen family families classmate scout camper runner swimmer fan dog cat puppy
puppies kitten horse pony ponies cow bull calf calves sheep goat pig chicken hen rooster duck goose geese turkey bird parrot pigeon eagle
owl fish shark whale dolphin turtle frog snake lizard rabbit bunny bunnies hamster mouse mice rat squirrel fox foxes bear lion tiger
elephant monkey zebra giraffe deer wolf wolves bee ant spider butterfly butterflies insect bug worm crab animal pet book page chapter line
word letter story stories poem article magazine newspaper notebook folder binder paper sheet card postcard stamp envelope sticker poster
picture photo photograph painting drawing crayon pencil pen marker eraser ruler backpack file car truck bus buses van bike bicycle
motorcycle scooter train plane airplane boat ship ferry ferries wagon cart tire wheel seat ticket trip ride lap stop mile flight journey
step stair ball bat racket marble toy doll puzzle game block brick tile lego kite balloon bead ring necklace bracelet earring coin bill
token medal trophy trophies prize gift present flag candle lamp light bulb battery batteries rock stone gem diamond shell stick branch
leaf leaves flower rose tulip daisy daisies lily lilies plant tree bush bushes garden acre field farm barn house home apartment room floor
door window wall roof fence post board plank nail screw bolt rope string ribbon yarn thread button shirt t-shirt pants jean short sock
shoe boot sandal hat cap scarf scarves glove coat jacket sweater dress dresses skirt suit tie uniform blanket towel pillow curtain rug bed
chair table desk shelf shelves cabinet drawer couch class classes school grade lesson course exam test quiz quizzes question problem
answer mistake error assignment homework project vote point goal run win loss losses match matches inning round turn move song album video
movie film show episode channel call message text email phone computer laptop tablet screen camera app website click view download like
follower subscriber job shift task order sale purchase item product thing object unit sample copy copies time way chance option choice
outcome combination permutation arrangement path route solution zero digit number integer factor multiple divisor prime term element
subset side edge face vertex vertices corner angle diagonal triangle square rectangle circle polygon cube sphere dot star hole spot mark
hour cell molecule atom electron proton cycle revolution rotation degree beat note key
"""
_AFTER = (  # what may follow a unit: it says what is measured, not how much
    "old", "tall", "long", "wide", "high", "deep", "thick", "away", "total", "in total", "altogether", "in all", "left", "remaining",
    "each", "apiece", "of age", "in length", "in width", "in height", "in area", "in volume",
)  # fmt: skip
_POWERS = {"squared": 2, "cubed": 3, "square": 2, "cubic": 3, "sq": 2, "sq.": 2, "cu": 3, "cu.": 3}
_AMBIGUOUS = frozenset("mgshlLNJWV")  # letters that are variables as well: units only after a plain number and a blank
_PER = re.compile(r"\s*/\s*|\s+per\s+|\s+an?\s+|\s+for\s+each\s+|\s+for\s+every\s+")
_FOLLOWING = re.compile(r"\s+(?:" + "|".join(sorted(_AFTER, key=len, reverse=True)) + r")$")
_RAISED = re.compile(r"(.+?)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?|([²³]))")
_TEMPERATURE = re.compile(r"(?:degrees?|deg|°)\s*(?:c|f|celsius|fahrenheit|centigrade)\.?$", re.IGNORECASE)
COUNTED = ""
"""The name of all counted things: they are not told apart."""


def unit_name(phrase: str, *, after_number: bool = True) -> str | None:
    """One name for all ways to write a unit; the empty name for counted things, None for what is no unit.

    Args:
        phrase: what stands after the number, its blanks at the beginning included.
        after_number: whether what stands before is a plain number; else letters that are variables as well are no units.

    >>> unit_name(" miles per hour"), unit_name("mph"), unit_name(" sq ft"), unit_name(" cm^2"), unit_name(" eggs")
    ('mile/hour', 'mile/hour', 'foot^2', 'centimeter^2', '')
    >>> unit_name(" x"), unit_name(" more than x"), unit_name(" m"), unit_name("m"), unit_name(" m", after_number=False)
    (None, None, 'meter', None, None)
    """
    text = " ".join(phrase.split())
    if not text or len(text) > 60:
        return None
    if text.startswith("(") and text.endswith(")"):  # 12 (cm)
        text = text[1:-1]
    if text in _AMBIGUOUS and not (after_number and phrase[:1].isspace()):
        return None
    if text in _AFTER:
        return COUNTED
    text = _FOLLOWING.sub("", text)
    if _TEMPERATURE.match(text):
        return "degree " + text.lower().rstrip(".").replace("fahrenheit", "f").replace("celsius", "c").replace("centigrade", "c")[-1]
    if text.startswith(("per ", "/", "a ", "an ", "each ")):  # "$5 per hour": the currency stood before the number
        text = "unit " + text if not text.startswith("each ") else "unit per " + text[5:]
    names = [_product(part) for part in _PER.split(text)]
    if any(name is None for name in names):
        return None
    return "/".join(str(name) for name in names) if any(names) else COUNTED


def _product(text: str) -> str | None:
    """A unit or several that stand together: "square feet", "kilowatt hours", "N·m"."""
    words = re.split(r"[\s·\-]+", text.strip())
    if len(text) > 1 and text.lower() in _units():
        return _units()[text.lower()]
    if not words or len(words) > 4:
        return None
    names: list[str] = []
    power = 1
    for word in words:
        if word.lower() in _POWERS and (word.lower() in ("squared", "cubed")) and names:
            names[-1] = f"{names[-1]}^{_POWERS[word.lower()]}" if names[-1] else ""
        elif word.lower() in _POWERS and power == 1 and len(words) > 1:
            power = _POWERS[word.lower()]
        else:
            name = _single(word)
            if name is None:
                return None
            names.append(f"{name}^{power}" if power > 1 and name else name)
            power = 1
    named = [name for name in names if name]
    return "·".join(named) if named else (COUNTED if names else None)


def _single(word: str) -> str | None:
    """One unit, with or without a power: "cm^2", "hours", "kg"."""
    raised = _RAISED.fullmatch(word)
    if raised:
        name = _single(raised.group(1))
        power = raised.group(2) or {"²": "2", "³": "3"}[raised.group(3)]
        return None if name is None else f"{name}^{power}" if name else COUNTED
    units = _units()
    return units.get(word, units.get(word.lower().rstrip("."), units.get(word.lower())) if len(word) > 1 else None)


@cache
def _units() -> dict[str, str]:
    """Every form of every unit, with the unit's name."""
    units: dict[str, str] = {}
    for word in _COUNTED.split():
        units |= dict.fromkeys((word, *_plurals(word)), COUNTED)
    for line in re.split(r"[|\n]", _MEASURES.strip()):
        name, *others = line.split()
        for form in (name, *others):
            units[form] = name
            if form.isalpha() and (len(form) > 2 or form in ("hr", "yr", "wk", "lb", "oz", "mi", "yd")):
                units |= dict.fromkeys(_plurals(form), name)
    return units | _SPECIAL


def _plurals(word: str) -> tuple[str, ...]:
    if word.endswith(("s", "x", "ch", "sh")):
        return (word + "es",)
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (word[:-1] + "ies", word + "s")
    return (word + "s", word + "es") if word.endswith("o") else (word + "s",)
