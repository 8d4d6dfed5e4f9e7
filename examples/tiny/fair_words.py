"""Word lists by which a caption names a class: its own stems wherever they stand, and its kind's plain noun.

Unlike `EventWords`, a longer stem of another class hides nothing: "church bells toll" names a bell. The lists were
fixed before any caption of the present pipeline was judged with them.
"""

import json
import re
from functools import cache

from named import WORDS

KINDS = {
    "drum": "kick drum|snare drum|tom drum|drum loop|timpani|bongo conga|taiko drum|tabla|steel drum|timbales",
    "cymbal": "hi hat|ride cymbal|cymbal crash",
    "guitar": "acoustic guitar|electric guitar|distorted guitar|bass guitar",
    "piano": "piano|electric piano",
    "organ": "electric organ|church organ",
    "speech speak talk voice": "speech man|speech woman|speech child",
    "cry cries": "crying man|baby crying",
    "growl roar snarl": "bear growl|big cat roar|monster growl",
    "engine vehicle": "car engine|truck or bus|motorcycle|traffic",
    "motor machine engine": "motor",
    "horn": "vehicle horn|train horn or whistle|ship horn|french horn",
    "whistle": "whistle|train horn or whistle",
    "bell": "bell|church bell|cowbell|tubular bells|doorbell|agogo",
    "door": "door|metal door or gate|car door|doorbell",
    "water": "waves|running water|dripping water|water splash|pouring or drinking|bubbles",
    "glass": "glass breaking|glass clink|glass rub",
    "insect buzz": "buzzing insect",
    "insect": "crickets and insects",
    "gun$ guns": "gunshot|gun handling",
    "clap": "applause or cheering|clapping or snapping",
    "bird": "bird song|crow caw|owl hoot|seagull cry|pigeon coo|parrot|peacock call|woodpecker|wing flap|penguin call",
    "howl": "wolf or coyote howl",
    "saw$ saws sawing": "power tool|hand saw|chainsaw",
    "scrap": "furniture scrape|scraping|gravel scrape",
    "creak": "wood creak",
    "squeak": "squeak|squeaky toy",
    "hiss air$": "fan or air",
    "wood": "wood impact|wood creak|woodblock",
    "metal": "metal impact|metal door or gate",
    "plastic": "plastic impact",
    "rock$ rocks stone": "rock impact|rubble dump",
    "music song band$": "rock music|jazz music|classical music|folk music|electronic music|brass band",
    "boom": "explosion",
    "synth": "synth bass|synth lead|synth pad|electronic music",
    "crowd": "crowd talking|applause or cheering",
    "leaves": "rustling leaves",
    "train": "train|train horn or whistle",
    "noise": "static noise",
    "step": "footsteps",
    "chime": "chimes|doorbell",
    "string": "string section|pizzicato strings",
    "toy": "squeaky toy|windup toy",
    "bass$": "bass guitar|double bass|synth bass",
    "flute": "flute|pan flute|shakuhachi",
    "ball": "ball",
    "key": "keys and small metal",
    "keyboard": "keyboard typing",
    "cart wheel": "cart wheels",
    "siren": "siren",
    "paper": "paper",
    "ice": "ice crack",
}


@cache
def patterns() -> dict[str, re.Pattern]:
    """Class → pattern of its words."""
    words = json.loads(WORDS.read_text(encoding="utf-8"))
    for stems, classes in KINDS.items():
        for name in classes.split("|"):
            words[name] = [*words[name], *stems.split()]
    return {name: re.compile("|".join(map(_pattern, stems)), re.IGNORECASE) for name, stems in words.items()}


def names(caption: str, label: str) -> bool:
    """Whether a caption holds a word of the class's list."""
    return bool(patterns()[label].search(caption))


def _pattern(stem: str) -> str:
    """At the start of a word; a stem that ends with "$" is a whole one."""
    return r"\b" + re.escape(stem.rstrip("$")) + (r"\b" if stem.endswith("$") else "")
