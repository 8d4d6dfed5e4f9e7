"""The event vocabulary of the tiny pipeline: what each class is called in captions, and which words name it."""

import json
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One sound class.

    Attributes:
        label: its name in index files.
        phrases: (finite clause, noun phrase with a participle) pairs, paraphrases of one another.
        keywords: word stems; a caption with a word that begins with one of them names this event. No stem begins a
            word of another class's phrases (a test holds this).
    """

    label: str
    phrases: tuple[tuple[str, str], ...]
    keywords: tuple[str, ...]


def _event(label: str, keywords: str, *phrases: str) -> Event:
    """``phrases`` are "subject | finite verb | participle", the form that keeps the table below readable."""
    pairs = []
    for phrase in phrases:
        subject, finite, participle = (part.strip() for part in phrase.split("|"))
        pairs.append((f"{subject} {finite}", f"{subject} {participle}"))
    return Event(label, tuple(pairs), tuple(keywords.split()))


# The ten classes of ESC-10, of which real recordings exist.
RECORDED = (
    _event("baby_cry", "baby infant newborn cry cries wail",
           "a baby | cries | crying", "an infant | wails | wailing", "a newborn baby | is crying | crying",
           "a baby | wails | wailing and crying"),
    _event("chainsaw", "chainsaw saw sawing",
           "a chainsaw | buzzes | buzzing", "a chainsaw | is revving | revving",
           "a power saw | cuts wood | cutting wood", "a chainsaw | roars | roaring"),
    _event("clock_tick", "clock tick",
           "a clock | ticks | ticking", "a wall clock | is ticking | ticking",
           "a clock | ticks steadily | ticking steadily", "an old clock | ticks | ticking away"),
    _event("dog_bark", "dog puppy bark hound",
           "a dog | barks | barking", "a dog | is barking | barking", "a puppy | barks | barking",
           "a hound | barks | barking"),
    _event("fire_crackling", "fire campfire crackl flames",
           "a fire | crackles | crackling", "a campfire | burns | burning", "flames | crackle | crackling",
           "a fire | is burning and crackling | burning and crackling"),
    _event("helicopter", "helicopter chopper rotor",
           "a helicopter | flies overhead | flying overhead", "a helicopter | hovers | hovering",
           "a chopper | passes by | passing by", "helicopter rotor blades | beat the air | beating the air"),
    _event("person_sneeze", "sneez",
           "a person | sneezes | sneezing", "someone | sneezes | sneezing", "a man | sneezes | sneezing",
           "a woman | lets out a sneeze | letting out a sneeze"),
    _event("rain", "rain downpour",
           "rain | falls | falling", "rain | is pouring down | pouring down", "heavy rain | falls | falling",
           "a downpour | splashes the ground | splashing the ground"),
    _event("rooster", "rooster cockerel crow\\b crows crowing",
           "a rooster | crows | crowing", "a rooster | is crowing | crowing", "a cockerel | crows | crowing",
           "a rooster | calls out | calling out"),
    _event("sea_waves", "wave sea ocean surf",
           "waves | roll in | rolling in", "ocean waves | crash on the shore | crashing on the shore",
           "the sea | washes over the beach | washing over the beach",
           "surf | breaks on the shore | breaking on the shore"),
)  # fmt: skip

# Classes that exist only as this project's own synthesis (synthesis.py).
SYNTHESIZED = (
    _event("alarm_beep", "alarm beep", "an alarm | beeps | beeping", "an electronic alarm | is sounding | sounding",
           "a digital beeper | beeps | beeping"),
    _event("applause", "applau clap audience", "an audience | applauds | applauding", "people | clap | clapping",
           "a crowd | is clapping | clapping and applauding"),
    _event("bell", "bell chim", "a bell | rings | ringing", "a church bell | tolls | tolling",
           "a bell | chimes | chiming"),
    _event("bird_chirp", "bird chirp tweet", "a bird | chirps | chirping", "birds | are chirping | chirping",
           "a small bird | tweets | tweeting"),
    _event("cricket", "cricket insect", "a cricket | trills | trilling", "crickets | trill | trilling",
           "insects | are trilling | trilling"),
    _event("engine", "engine motor car\\b vehicle", "an engine | idles | idling", "a car engine | is running | running",
           "a motor | hums | humming", "a vehicle | accelerates | accelerating"),
    _event("footsteps", "footstep walk steps", "someone | walks | walking", "footsteps | approach | approaching",
           "a person | is walking | walking with clear steps"),
    _event("frog", "frog croak", "a frog | croaks | croaking", "frogs | are croaking | croaking"),
    _event("knocking", "knock door", "someone | knocks on a door | knocking on a door",
           "a person | is knocking | knocking on wood", "a hand | knocks | knocking on a door"),
    _event("siren", "siren ambulance", "a siren | blares | blaring", "an ambulance siren | wails past | blaring past",
           "an emergency siren | sounds | sounding"),
    _event("telephone", "phone telephone", "a telephone | rings | ringing", "a phone | is ringing | ringing",
           "an old telephone | rings | ringing"),
    _event("thunder", "thunder", "thunder | rumbles | rumbling", "thunder | rolls | rolling",
           "a clap of thunder | booms | booming"),
    _event("typing", "types typing keyboard", "someone | types on a keyboard | typing on a keyboard",
           "a person | is typing | typing", "a keyboard | clatters | clattering"),
    _event("water_drip", "drip drop", "water | drips | dripping", "drops | fall into water | falling into water",
           "a tap | is dripping | dripping"),
    _event("whistle", "whistl", "a whistle | blows | blowing", "someone | whistles | whistling",
           "a referee | blows a whistle | blowing a whistle"),
    _event("wind", "wind gust breeze", "wind | howls | howling", "the wind | is blowing | blowing",
           "a strong breeze | blows | blowing", "gusts of wind | rush past | rushing past"),
)  # fmt: skip

EVENTS: dict[str, Event] = {event.label: event for event in (*RECORDED, *SYNTHESIZED)}
LABELS: tuple[str, ...] = tuple(sorted(EVENTS))

_KEYWORDS = {label: re.compile(rf"\b(?:{'|'.join(event.keywords)})") for label, event in EVENTS.items()}
# "siren wails past", "clap of thunder", "old clock ticks": words that two classes share are told apart by context.
_EXCEPTIONS = ((re.compile(r"\bsiren wails"), "siren"), (re.compile(r"\bclap of thunder"), "thunder"))


def events_named(caption: str) -> frozenset[str]:
    """Labels of all events that ``caption`` names, by its keywords."""
    text = caption.lower()
    for pattern, word in _EXCEPTIONS:
        text = pattern.sub(word, text)
    return frozenset(label for label, pattern in _KEYWORDS.items() if pattern.search(text))


def event_words() -> dict[str, list[str]]:
    """Label → stems, as ``diffusion-link evaluate --events`` reads it: "$" ends a word, longer stems go first."""
    words = {label: [stem.replace(r"\b", "$") for stem in event.keywords] for label, event in EVENTS.items()}
    for pattern, word in _EXCEPTIONS:
        label = next(label for label, pattern in _KEYWORDS.items() if pattern.search(word))
        words[label].append(pattern.pattern.removeprefix(r"\b"))
    return words


if __name__ == "__main__":  # python examples/tiny/events.py > events.json
    print(json.dumps(event_words(), indent=1))
