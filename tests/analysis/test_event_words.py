"""Events that captions name: the table of the tiny example, stems, whole words, overlaps, kinds, malformed tables."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_link_hf.analysis.event_words import KINDS, EventWords, kind
from diffusion_link_hf.errors import DataError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "tiny"))

import named
import phrases

WORDS = phrases.event_words()
TINY, FAST = EventWords(WORDS), named.EventWords(WORDS)
PHRASES = [p for lines in phrases.phrases(FAST).values() for line in lines for p in line["nouns"]]


@settings(max_examples=50, deadline=None)
@given(pair=st.tuples(st.sampled_from(PHRASES), st.sampled_from(PHRASES)))
def test_the_tiny_table_names_what_the_example_itself_names(pair):
    caption = " and ".join(pair).capitalize()
    assert TINY.named(caption) == FAST.named(caption)
    assert TINY.named(caption.upper()) == FAST.named(caption)


@settings(max_examples=50, deadline=None)
@given(pair=st.tuples(st.sampled_from(PHRASES), st.sampled_from(PHRASES)))
def test_two_sentences_name_what_either_names(pair):
    first, second = pair
    assert TINY.named(f"{first}. {second}.") == TINY.named(first) | TINY.named(second)


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("A dog barks", {"dog"}),
        ("DOGS", {"dog"}),
        ("a hotdog stand", set()),
        ("a car", {"engine"}),
        ("a carpet", set()),
        ("a siren wails", {"siren"}),
        ("a baby wails near a siren", {"baby", "siren"}),
        ("a siren wails and wails", {"siren", "baby"}),
        ("", set()),
    ],
)
def test_stems_begin_words_and_the_longest_takes_its_words(caption, named):
    words = {"dog": ["Dog", "bark"], "engine": ["car$"], "baby": ["baby", "wail"], "siren": ["siren", "siren wails"]}
    assert EventWords(words).named(caption) == named


def test_references_are_taken_together():
    words = EventWords({"dog": ["dog"], "rain": ["rain"]})
    assert words.of_references(["a dog", "it rains"]) == {"dog", "rain"}
    assert words.of_references(["silence"]) == frozenset()


def test_kinds():
    assert kind(frozenset({"dog"}), ["A dog, then silence"]) == KINDS[0]
    both = frozenset({"dog", "rain"})
    assert kind(both, ["A dog, then rain", "Rain after a dog"]) == KINDS[2]
    assert kind(both, ["A dog, then rain", "Rain and a dog"]) == KINDS[1]
    assert kind(both, ["A dog with a lengthening pause"]) == KINDS[1]


def test_a_file(tmp_path):
    (tmp_path / "events.json").write_text(json.dumps({"dog": ["dog"]}), encoding="utf-8")
    assert EventWords.load(tmp_path / "events.json").named("two dogs") == {"dog"}
    with pytest.raises(DataError, match="nowhere"):
        EventWords.load(tmp_path / "nowhere.json")
    (tmp_path / "events.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        EventWords.load(tmp_path / "events.json")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "list"),
        ({}, "no events"),
        ({"dog": "dog"}, "dog"),
        ({"dog": []}, "dog"),
        ({"dog": [1]}, "1"),
        ({"dog": [" "]}, "stem"),
        ({"dog": ["$"]}, "stem"),
        ({"dog": ["bark"], "tree": ["Bark"]}, "shares"),
    ],
)
def test_malformed_tables_are_refused(table, words):
    with pytest.raises(DataError, match=words) as caught:
        EventWords(table)
    assert caught.value.remedy
