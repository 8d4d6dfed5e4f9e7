"""The one check of every metric's input."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_link_hf.errors import InputError
from diffusion_link_hf.metrics import Captions
from diffusion_link_hf.metrics.captions import cut_longest
from support.metrics import pretokenized

GOOD = (["a dog", "", "rain"], [["a cat"], ["b", "c"], ["雨", "🌧️"]])


def test_good_rows_are_kept_as_they_are():
    captions = Captions(*GOOD)
    assert (captions.candidates, captions.references) == GOOD
    assert len(captions) == 3
    assert captions.rows == ["row 1", "row 2", "row 3"]


@pytest.mark.parametrize(
    ("candidates", "references", "item", "problem"),
    [
        ([], [], "captions", "no rows"),
        (["a"], [["b"], ["c"]], "captions", "1 candidates but 2"),
        ("a", [["b"]], "candidates", "a str"),
        (["a"], "b", "references", "a str"),
        (["a"], None, "references", "NoneType"),
        (["a", 5], [["b"], ["c"]], "row 2, candidate", "a int"),
        (["a", None], [["b"], ["c"]], "row 2, candidate", "NoneType"),
        (["a", float("nan")], [["b"], ["c"]], "row 2, candidate", "float (nan)"),
        (["a", b"a"], [["b"], ["c"]], "row 2, candidate", "bytes"),
        (["a", ["a"]], [["b"], ["c"]], "row 2, candidate", "list"),
        (["a", "a"], [["b"], "cats"], "row 2, references", "a str ('cats')"),
        (["a", "a"], [["b"], None], "row 2, references", "NoneType"),
        (["a", "a"], [["b"], {"c": 1}], "row 2, references", "dict"),
        (["a", "a"], [["b"], []], "row 2, references", "none"),
        (["a", "a"], [["b"], ["c", 5]], "row 2, reference 2", "a int"),
        (["a", "a"], [["b"], ["c", " \n"]], "row 2, reference 2", "blank"),
        (["a", "x\ud83d"], [["b"], ["c"]], "row 2, candidate", "U+D83D, at position 1"),
        (["a", "a"], [["b"], ["\udc36"]], "row 2, reference 1", "surrogate"),
    ],
)
def test_bad_rows_are_named(candidates, references, item, problem):
    with pytest.raises(InputError) as caught:
        Captions(candidates, references)
    assert caught.value.item == item
    assert problem in caught.value.problem
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_rows_carry_the_names_given():
    with pytest.raises(InputError, match=r"^p\.jsonl, line 7, candidate: is a int \(5\)"):
        Captions([5], [["a"]], rows=["p.jsonl, line 7"])


def test_a_long_value_is_not_printed_whole():
    with pytest.raises(InputError) as caught:
        Captions([["x"] * 10_000], [["a"]])
    assert len(str(caught.value)) < 200


def test_a_candidate_is_cut_and_a_reference_refused():
    """A candidate is what a decoder wrote, and must not take the score from all others; a reference can be mended."""
    captions = pretokenized(["a b c", ""], [["a"], ["a b", "a b c d"]])
    assert cut_longest(captions, "m", 4) == (captions.tokens, [])
    tokens, notes = cut_longest(captions, "m", 4, lambda references: 2)
    assert tokens.candidates == ["a b", ""]
    assert notes == ["row 1, candidate: m took the first 2 of its 3 words"]
    with pytest.raises(InputError, match="row 2, reference 2: has 4 words, and m cannot take more than 3"):
        cut_longest(captions, "m", 3)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@given(json_values, json_values)
def test_anything_is_taken_or_refused_with_a_typed_error(candidate, references):
    fit = isinstance(candidate, str) and isinstance(references, list) and references
    if fit and all(isinstance(text, str) and text.strip() for text in references):
        assert Captions([candidate], [references]).references == [references]
    else:
        with pytest.raises(InputError, match=r"^row 1, "):
            Captions([candidate], [references])
