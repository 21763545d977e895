"""The store of conversations: hits, tails, healing, bounds, calls at once."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.activities import conversations
from tierpool.activities.conversations import (
    ConversationMissing,
    ConversationStore,
    Said,
)
from tierpool.activities.parts import PartMissing
from tierpool.contracts import ConversationRef, hash_of

WHOLE: list[Said] = [
    ("user", "Plan it."),
    ("assistant", "Größer als 5 €; 🎈"),
    ("user", ""),
    ("assistant", "Done."),
]
RESET: list[Said] = [*WHOLE[:2], ("user", "Another way."), ("assistant", "Fine.")]

messages = st.lists(
    st.tuples(
        st.sampled_from(["user", "assistant"]),
        st.text(st.characters(exclude_categories=()), max_size=6),
    ),
    max_size=8,
)
"""Half characters (lone surrogates) included."""


@dataclass
class Item:
    """Stands for the work item: it has the conversation and counts what it is asked."""

    said: list[Said]
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def fetch(self, start: int, end: int) -> list[Said]:
        self.asked.append((start, end))
        await asyncio.sleep(0)
        return self.said[start:end]


def ref(said: list[Said], name: str = "writer") -> ConversationRef:
    """Refer to all of these messages."""
    size = sum(len(text.encode(errors="surrogatepass")) for _, text in said)
    return ConversationRef(name=name, length=len(said), hash=hash_of(said), bytes=size)


async def test_no_messages_need_no_question() -> None:
    """The start of a conversation is known without the item."""
    item = Item(WHOLE)

    found = await ConversationStore().get("T-1", ref([]), item.fetch)

    assert ([], []) == (found, item.asked)


async def test_what_was_fetched_is_kept() -> None:
    """The first call asks for everything, a second one for nothing."""
    store, item = ConversationStore(), Item(WHOLE)

    found = [await store.get("T-1", ref(WHOLE), item.fetch) for _ in range(2)]

    assert [WHOLE, WHOLE] == found
    assert [(0, 4)] == item.asked


async def test_shorter_reference_is_served_from_a_longer_conversation() -> None:
    """A retry refers to less than what is kept, and what is kept stays."""
    store, item = ConversationStore(), Item(WHOLE)
    await store.get("T-1", ref(WHOLE), item.fetch)

    short = await store.get("T-1", ref(WHOLE[:2]), item.fetch)
    whole = await store.get("T-1", ref(WHOLE), item.fetch)

    assert (WHOLE[:2], WHOLE) == (short, whole)
    assert [(0, 4)] == item.asked


async def test_only_the_missing_end_is_asked_for() -> None:
    """A worker that has the first messages asks for the rest of them."""
    store, item = ConversationStore(), Item(WHOLE)
    await store.get("T-1", ref(WHOLE[:1]), item.fetch)

    found = await store.get("T-1", ref(WHOLE), item.fetch)

    assert WHOLE == found
    assert [(0, 1), (1, 4)] == item.asked


async def test_next_turn_after_an_answer_asks_for_nothing() -> None:
    """What a call said and was answered is kept for the call after it."""
    store, item = ConversationStore(), Item(WHOLE)
    store.extend("T-1", ref([]), WHOLE[:2])
    store.extend("T-1", ref(WHOLE[:2]), WHOLE[2:])

    found = await store.get("T-1", ref(WHOLE), item.fetch)

    assert (WHOLE, []) == (found, item.asked)


async def test_extending_gives_the_reference_to_all_of_it() -> None:
    """What a worker adds it refers to as the workflow does; what is gone gives none."""
    store = ConversationStore()
    start = store.extend("T-1", ref([]), WHOLE[:2])

    assert ref(WHOLE[:2]) == start
    assert ref(WHOLE) == store.extend("T-1", ref(WHOLE[:2]), WHOLE[2:])
    assert store.extend("T-1", ref(RESET), WHOLE) is None
    assert store.extend("T-2", ref(WHOLE), WHOLE) is None


async def test_second_answer_to_the_same_messages_replaces_the_first() -> None:
    """An attempt that is made again leaves no trace of the one before it."""
    store, item = ConversationStore(), Item(WHOLE)
    store.extend("T-1", ref([]), WHOLE[:2])
    store.extend("T-1", ref(WHOLE[:2]), RESET[2:])
    store.extend("T-1", ref(WHOLE[:2]), WHOLE[2:])

    found = await store.get("T-1", ref(WHOLE), item.fetch)

    assert (WHOLE, []) == (found, item.asked)


async def test_conversations_are_told_apart() -> None:
    """Neither another item nor another name shares a conversation."""
    store, item = ConversationStore(), Item(WHOLE)
    await store.get("T-1", ref(WHOLE), item.fetch)

    await store.get("T-2", ref(WHOLE), item.fetch)
    await store.get("T-1", ref(WHOLE, name="reviewer"), item.fetch)

    assert [(0, 4)] * 3 == item.asked


@pytest.mark.parametrize("kept", [RESET, RESET[:3], [*RESET, *WHOLE]])
async def test_other_messages_heal_by_one_more_question(kept: list[Said]) -> None:
    """After a reset, what is kept is dropped and all is asked for once."""
    store, item = ConversationStore(), Item(WHOLE)
    store.extend("T-1", ref([]), kept)

    found = await store.get("T-1", ref(WHOLE), item.fetch)
    again = await store.get("T-1", ref(WHOLE), item.fetch)

    assert (WHOLE, WHOLE) == (found, again)
    assert (0, 4) == item.asked[-1]
    assert item.asked.count((0, 4)) == 1
    assert sum(len(text.encode()) for _, text in WHOLE) == store.bytes


@pytest.mark.parametrize("said", [RESET, WHOLE[:3], []])
async def test_item_with_other_messages_fails_and_says_so(said: list[Said]) -> None:
    """If the item itself has something else, nothing is kept, and trying again may help."""
    store, item = ConversationStore(), Item(said)

    with pytest.raises(ConversationMissing, match=r"'writer' of T-1 .* 4 messages"):
        await store.get("T-1", ref(WHOLE), item.fetch)

    assert [(0, 4), (0, 4)] == item.asked
    assert 0 == store.bytes
    assert issubclass(ConversationMissing, PartMissing)
    assert ConversationMissing.retryable


@pytest.mark.parametrize("length", [-1, 0, 5])
async def test_reference_that_fits_nothing_fails(length: int) -> None:
    """A length that does not belong to the hash is no crash and no endless loop."""
    store, item = ConversationStore(), Item(WHOLE)
    wrong = ref(WHOLE).model_copy(update={"length": length})

    with pytest.raises(ConversationMissing):
        await store.get("T-1", wrong, item.fetch)


async def test_failed_question_leaves_what_is_kept() -> None:
    """An item that does not answer costs nothing of the cache."""
    store, item = ConversationStore(), Item(WHOLE)
    await store.get("T-1", ref(WHOLE[:2]), item.fetch)

    async def silent(start: int, end: int) -> list[Said]:
        raise PartMissing("no answer")

    with pytest.raises(PartMissing, match="no answer"):
        await store.get("T-1", ref(WHOLE), silent)
    found = await store.get("T-1", ref(WHOLE), item.fetch)

    assert WHOLE == found
    assert (2, 4) == item.asked[-1]


async def test_least_recently_used_goes_first() -> None:
    """Above the bound, what was not used for longest is dropped, whole."""
    store, item = ConversationStore(max_bytes=30), Item([("user", "0123456789")])
    one = ref(item.said)
    for name in ("a", "b", "c"):
        await store.get(name, one, item.fetch)
    await store.get("a", one, item.fetch)

    await store.get("d", one, item.fetch)
    asked = len(item.asked)
    for name in ("a", "c", "d"):
        await store.get(name, one, item.fetch)

    assert (30, asked) == (store.bytes, len(item.asked))
    await store.get("b", one, item.fetch)
    assert asked + 1 == len(item.asked)


async def test_bound_counts_bytes_and_not_characters() -> None:
    """A text of 10 characters and 20 bytes does not fit into 19 bytes."""
    item = Item([("user", "ö" * 10)])
    fitting, tight = ConversationStore(max_bytes=20), ConversationStore(max_bytes=19)

    for store in (fitting, tight):
        await store.get("T-1", ref(item.said), item.fetch)

    assert (20, 0) == (fitting.bytes, tight.bytes)


async def test_too_large_conversation_is_served_and_not_kept() -> None:
    """One that is larger than the bound drops no other, and what it replaces goes."""
    small: list[Said] = [("user", "small")]
    item, other = Item([("user", "x" * 8), ("user", "y" * 8)]), Item(small)
    store = ConversationStore(max_bytes=15)
    await store.get("T-2", ref(small), other.fetch)
    await store.get("T-1", ref(item.said[:1]), item.fetch)

    found = await store.get("T-1", ref(item.said), item.fetch)

    assert item.said == found
    assert 5 == store.bytes
    store.extend("T-1", ref(item.said), WHOLE)
    assert 5 == store.bytes


async def test_message_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty turns hash every message once; a hit hashes nothing."""
    hashed: list[str] = []

    def counting(before: str, role: str, text: str) -> str:
        hashed.append(text)
        raw = f"{before}\n{role}\n{text}".encode()
        return hashlib.sha256(raw).hexdigest()

    monkeypatch.setattr(conversations, "next_hash", counting)
    store, said = ConversationStore(), list[Said]()

    for turn in range(20):
        known = await store.get("T-1", ref(said), Item([]).fetch)
        assert said == known
        asked = store.extend("T-1", ref(said), [("user", f"q{turn}")])
        assert asked is not None
        store.extend("T-1", asked, [("assistant", f"a{turn}")])
        said += [("user", f"q{turn}"), ("assistant", f"a{turn}")]

    assert [text for _, text in said] == hashed


async def test_calls_at_once_do_not_disturb_each_other() -> None:
    """Parallel calls on one conversation, of any length, each get their own messages."""
    store, item, after = ConversationStore(), Item(WHOLE), Item(RESET)

    wanted = [item, after, item, after] * 5
    found = await asyncio.gather(
        *(
            store.get("T-1", ref(of.said[: n % 5]), of.fetch)
            for n, of in enumerate(wanted)
        )
    )
    whole = await store.get("T-1", ref(WHOLE), item.fetch)

    assert [of.said[: n % 5] for n, of in enumerate(wanted)] == found
    assert WHOLE == whole
    assert sum(len(text.encode()) for _, text in WHOLE) == store.bytes


async def test_slow_short_fetch_does_not_shorten_what_is_kept() -> None:
    """A retry that is answered late leaves the longer conversation in place."""
    store, item, go = ConversationStore(), Item(WHOLE), asyncio.Event()

    async def slow(start: int, end: int) -> list[Said]:
        await go.wait()
        return WHOLE[start:end]

    late = asyncio.create_task(store.get("T-1", ref(WHOLE[:1]), slow))
    await asyncio.sleep(0)
    await store.get("T-1", ref(WHOLE), item.fetch)
    go.set()
    assert WHOLE[:1] == await late

    await store.get("T-1", ref(WHOLE), item.fetch)

    assert [(0, 4)] == item.asked


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["a", "b"]), messages, st.integers(0, 8)),
        min_size=1,
        max_size=12,
    ),
    bound=st.sampled_from([0, 7, 40, 10_000]),
)
def test_every_call_gets_exactly_its_messages(
    steps: list[tuple[str, list[Said], int]], bound: int
) -> None:
    """Whatever was kept before: the messages are right, in two questions at most, in bounds."""

    async def calls() -> None:
        store = ConversationStore(bound)
        for workflow, said, cut in steps:
            item = Item(said)
            wanted = said[:cut]
            assert wanted == await store.get(workflow, ref(wanted), item.fetch)
            assert len(item.asked) <= 2
            assert store.bytes <= bound
            store.extend(workflow, ref(wanted), said[cut:])
            assert store.bytes <= bound

    asyncio.run(calls())
