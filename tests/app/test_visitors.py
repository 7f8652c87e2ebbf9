"""What a page is told: differences that add up, everything after a loss, and other components when they change."""

import json

from hypothesis import given
from hypothesis import strategies as st

from app.visitors import MOST, Visitor, Visitors, difference

TEXT = st.text(alphabet="ab<é𝄞", max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


def applied(old, change):
    """What live.js does; lengths are those of UTF-16."""
    kind, *how = change
    if kind == "text":
        head, tail, middle = how
        units = old.encode("utf-16-le")
        return (units[: 2 * head] + middle.encode("utf-16-le") + units[len(units) - 2 * tail :]).decode("utf-16-le")
    if kind == "value":
        return how[0]
    items = dict(enumerate(old)) if isinstance(old, list) else dict(old)
    for key, inner in how[0].items():
        place = int(key) if isinstance(old, list) else key
        items[place] = applied(items[place], inner)
    return list(items.values()) if isinstance(old, list) else items


@given(JSON, JSON)
def test_a_difference_leads_from_old_to_new(old, new):
    change = difference(old, new)
    assert (change is None) == (old == new)
    if change is not None:
        assert applied(old, json.loads(json.dumps(change))) == new


@given(TEXT, TEXT, TEXT, TEXT)
def test_only_the_middle_of_a_text_is_sent(head, old, new, tail):
    if (change := difference(head + old + tail, head + new + tail)) is not None:
        assert change[0] == "text"
        assert len(change[3]) <= len(new)


def test_one_point_of_a_figure_costs_little():
    def figure(k: int) -> dict:
        return {"summary": f"{k} layers", "data": [{"y": {"packed": "A" * k + "/" * (2000 - k), "low": 0.5}}]}

    assert len(json.dumps(difference(figure(500), figure(501)))) < 160  # measured 128, of 2072


def test_a_page_hears_what_is_new_and_all_of_it_after_a_loss():
    visitor = Visitor()
    assert visitor.answer(0, {"a": "1", "b": "2"})["changes"] == {"a": ["value", "1"], "b": ["value", "2"]}
    assert visitor.answer(1, {"a": "1", "b": "23"}) == {"number": 2, "changes": {"b": ["text", 1, 0, "3"]}}
    assert visitor.answer(2, {"a": "1", "b": "23"}) == {"number": 3, "changes": {}}
    assert visitor.answer(2, {"b": "23"}) == {"number": 4, "changes": {"b": ["value", "23"]}}  # the third was lost
    assert visitor.answer(0, {"b": "23"})["changes"] == {"b": ["value", "23"]}


def test_parts_of_a_tab_that_was_left_are_remembered():
    visitor = Visitor()
    visitor.answer(0, {"Models a": "1"})
    visitor.answer(1, {"Runs b": "2"})
    assert visitor.answer(2, {"Models a": "1"})["changes"] == {}


def test_other_components_are_given_what_they_miss():
    visitor, hidden, shown = Visitor(), {"visible": False}, {"visible": True}
    assert visitor.missing({"a": hidden, "b": shown}).keys() == {"a", "b"}
    assert visitor.give({"a": hidden, "b": shown}).keys() == {"a", "b"}
    assert visitor.missing({"a": hidden, "b": shown}) == {}
    assert visitor.give({"a": shown, "b": shown}) == {"a": shown}


def test_the_page_that_was_seen_last_is_remembered_longest():
    visitors = Visitors()
    first, second = visitors.of("first"), visitors.of("second")
    assert visitors.of("first") is first
    for k in range(MOST - 1):
        visitors.of(f"{k}")
    assert visitors.of("first") is first
    assert visitors.of("second") is not second
