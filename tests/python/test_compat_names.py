"""penstock.compat.names: keys of other stores as names, one to one."""

from __future__ import annotations

import itertools
import random

import pytest

from penstock.compat.names import Namespace, escape, unescape

HARD = ["/", ".", "%", "a", "2", "F", "~", "\0", "\x85", "é", "\ud800"]
SPACE = Namespace("test", "x")


@pytest.mark.parametrize("key, path", [
    ("model/layer.0", "model/layer.0"), ("ü/日本", "ü/日本"), ("", "%"), ("/", "%2F"), ("/a", "%2Fa"),
    ("a/", "a%2F"), ("a//b", "a%2F%2Fb"), (".", "%2E"), ("../a", "%2E%2E/a"), ("a/./b", "a/%2E/b"), ("...", "..."),
    ("50%", "50%25"), ("a\nb", "a%0Ab"), ("\x85", "%C2%85"), ("a b", "a b"),
])
def test_keys_stay_as_they_are_where_a_name_can_hold_them(key, path):
    assert escape(key) == path and unescape(path) == key


def test_every_key_of_hard_characters_comes_back_from_a_path_of_its_own(store):
    paths = set()
    keys = ["".join(key) for length in range(5) for key in itertools.product(HARD, repeat=length)]
    for key in keys:
        path = escape(key)
        assert unescape(path) == key
        paths.add(path)
    assert len(paths) == len(keys)
    for key in keys[:2000]:
        assert not store.exists(SPACE.name(key))  # a legal name, or this raises


def test_the_beginning_of_a_key_finds_its_name():
    for key in ("".join(key) for length in range(5) for key in itertools.product(HARD[:5], repeat=length)):
        for cut in range(len(key) + 1):
            assert SPACE.name(key).startswith(SPACE.beginning(key[:cut])), (key, cut)


@pytest.mark.parametrize("character", ["a", "é", "/", "%41", "日"])
def test_long_keys_have_short_names_of_their_own_and_come_back_from_the_metadata(store, character):
    keys = [character * length + last for length in range(90, 560, 7) for last in "xy"]
    for key in keys:
        store.put(SPACE.name(key), 1, metadata=SPACE.metadata(key))
    found = [SPACE.key(info) for info in store.list(SPACE.prefix)]
    assert sorted(found) == sorted(keys)
    start = character * 300
    some = [SPACE.key(info) for info in store.list(SPACE.beginning(start))]
    assert {key for key in some if key.startswith(start)} == {key for key in keys if key.startswith(start)}


def test_the_longest_name_has_512_bytes_and_no_metadata():
    room = 512 - len(SPACE.prefix)
    assert SPACE.metadata("a" * room) == {} and len(SPACE.name("a" * room)) == 512
    assert SPACE.metadata("a" * (room + 1)) != {} and len(SPACE.name("a" * (room + 1))) == 512


def test_random_keys_and_stores_never_meet():
    seed = random.randrange(1 << 32)
    print("seed", seed)  # shown when it fails
    draw = random.Random(seed)
    spaces = [Namespace("t", name) for name in ("a", "a/b", "a%2Fb", "%", "")]
    names = {}
    for _ in range(20_000):
        space = draw.choice(spaces)
        key = "".join(draw.choices(HARD, k=draw.choice([3, 8, 500])))
        pair = (space.prefix, key)
        assert names.setdefault(space.name(key), pair) == pair
    assert len({space.prefix for space in spaces}) == len(spaces)


@pytest.mark.parametrize("key, error", [(1, TypeError), (b"a", TypeError), (None, TypeError), ("a" * 8193, ValueError)])
def test_what_is_no_key(key, error):
    with pytest.raises(error, match="^key: "):
        SPACE.name(key)


def test_a_store_whose_name_is_too_long():
    with pytest.raises(ValueError, match="^name of the store: "):
        Namespace("test", "x" * 128)
