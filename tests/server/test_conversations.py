"""Conversations end to end: in flows, in a user's own workflows, over runs and workers."""

import asyncio
import base64
import gc
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowHistory,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import ApplicationError

from tierpool import TierpoolPlugin, flow_result
from tierpool.contracts import (
    ConversationChunk,
    ConversationRequest,
    ItemCosts,
    Outcome,
    Usage,
)
from tierpool.fleet import LoadedFleet
from tierpool.testing import Fail, Overloaded, Reply, SeenRequest
from tierpool.worker import Served

from .asked import Asked
from .conftest import Running, Start, client_of, working
from .resets import reset, task_ends
from .talking_workflows import (
    TALKING,
    AppendingWorkflow,
    BothWaysWorkflow,
    CrowdWorkflow,
    EarlyWorkflow,
    EscapesWorkflow,
    HalfWorkflow,
    HandingOverWorkflow,
    ListeningWorkflow,
    LongTalkWorkflow,
    Mark,
    ParallelTalkWorkflow,
    RelayWorkflow,
    SeveralWorkflow,
    SilentWorkflow,
    StubbornWorkflow,
    TalkWorkflow,
    TooLongWorkflow,
    TypedTalkWorkflow,
    long_text,
)

ROLES = """
agents:
  writer: {prompt: "Write.\\n", tier: nano}
  editor: {prompt: "Edit.\\n", tier: nano, conversation: true}
  tests: {type: python, call: "judges:judge"}
"""
NANO = Served(pools=("nano",))
NOTHING = Served(flows=True)


def uncompressed(base: Client, fleet: LoadedFleet) -> Client:
    return client_of(base, TierpoolPlugin(fleet, compress=False))


@asynccontextmanager
async def started(
    fleet: Running, run: Any, *args: object, **more: Any
) -> AsyncIterator[WorkflowHandle[Any, Any]]:
    async with fleet.worker(*TALKING, **more) as queue:
        yield await fleet.client.start_workflow(
            run, args=args, id=f"talk-{uuid4().hex[:8]}", task_queue=queue
        )


async def execute(fleet: Running, run: Any, *args: object, **more: Any) -> Any:
    async with started(fleet, run, *args, **more) as handle:
        return await handle.result()


def echo(request: SeenRequest) -> Reply:
    """Answer with how many messages there were, and the start of the last one."""
    last = request.messages[-1][1]
    return Reply(f"{len(request.messages)}: {last[:40]}", usage=Usage(output_tokens=9))


def prompted(request: SeenRequest, prompt: str) -> bool:
    return (request.system or "").strip() == prompt


def scheduled_bytes(history: WorkflowHistory) -> list[int]:
    """Return the sizes of the activities' inputs in a history."""
    return [
        event.activity_task_scheduled_event_attributes.input.ByteSize()
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


def seen(fleet: Running, number: int) -> list[tuple[str, str]]:
    return list(fleet.provider.requests[number].messages)


def told(said: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    return [(who, text) for who, text in said]


# In flows


LOOP = """
agents:
  writer: {prompt: "Write.\\n", tier: nano, conversation: true}
  critic: {prompt: "Judge.\\n", tier: nano, output: {verdict: [approve, reject]}}
flows:
  essay:
    initial: draft
    transitions:
      "draft -> written": {agent: writer}
      "written -> done": {agent: critic, when: {verdict: approve}}
      "written -> draft": {when: {verdict: reject}, max_visits: 3}
"""


async def test_second_visit_goes_on_with_the_conversation(running: Start) -> None:
    """A role's second visit sends what is new; its model sees all of it, the item once."""
    fleet = await running(LOOP, connect=uncompressed)
    fleet.provider.script(
        Reply("A first draft."),
        Reply(json={"verdict": "reject"}),
        Reply("A second draft."),
        Reply(json={"verdict": "approve"}),
    )
    item = "Write about the sea. " + long_text(0, 20_000)

    handle = await fleet.start("essay", item)
    result = await flow_result(handle)

    assert "done" == result.state
    (user, text), *more = seen(fleet, 2)
    assert ("user", 1) == (user, text.count("about the sea"))
    assert ("assistant", "A first draft.") == more[0]
    assert "user" == more[1][0]
    assert "reject" in more[1][1]
    assert 3 == len(seen(fleet, 2))
    assert seen(fleet, 0) == seen(fleet, 2)[:1]
    first, _, second, _ = scheduled_bytes(await handle.fetch_history())
    assert first > 20_000
    assert second < 2_000


async def test_roles_without_a_conversation_start_afresh(running: Start) -> None:
    """Of two roles in a loop only the one with a conversation remembers."""
    fleet = await running(LOOP)
    fleet.provider.script(
        Reply("A first draft."),
        Reply(json={"verdict": "reject"}),
        Reply("A second draft."),
        Reply(json={"verdict": "approve"}),
    )

    await fleet.run("essay", "The sea.")

    assert [1, 1, 3, 1] == [len(r.messages) for r in fleet.provider.requests]


VERIFIED = """
agents:
  writer:
    {prompt: "Write.\\n", tier: {min: nano, max: premium}, conversation: true}
  judge: {type: python, call: "judges:judge"}
flows:
  essay:
    initial: draft
    transitions:
      "draft -> written": {agent: writer, verify: judge, escalate: true}
      "draft -> again": {}
      "again -> written": {agent: writer}
      "written -> done": {}
"""
JUDGE = """
async def judge(request):
    good = "good" in str(request.last_reply)
    return {"accept": good, "reason": "it is not good"}
"""


async def test_refused_reply_stays_and_the_next_tier_sees_it(running: Start) -> None:
    """An escalation goes on in the conversation, with the refused reply in it once."""
    fleet = await running(VERIFIED, judges__py=JUDGE)
    fleet.provider.script(Reply("A bad draft."), Reply("A good draft."))

    result = await fleet.run("essay", "The sea.")

    assert "done" == result.state
    assert 2 == len({request.model for request in fleet.provider.requests})
    first, again = seen(fleet, 0), seen(fleet, 1)
    assert [*first, ("assistant", "A bad draft.")] == again[:2]
    assert "it is not good" in again[2][1]
    assert 3 == len(again)


async def test_refusal_that_no_tier_can_answer_is_read_next_time(
    running: Start,
) -> None:
    """Without a tier above the refusal stands, and the role's next call says it."""
    yaml = VERIFIED.replace("max: premium", "max: standard")
    fleet = await running(yaml, judges__py=JUDGE)
    fleet.provider.script(Reply("A bad draft."), Reply("A good draft."))

    result = await fleet.run("essay", "The sea.")  # starts on the highest tier

    assert ("draft", "again", "written", "done") == result.path
    assert [*seen(fleet, 0), ("assistant", "A bad draft.")] == seen(fleet, 1)[:2]
    assert {"user"} == {who for who, _ in seen(fleet, 1)[2:]}
    assert 1 == sum(text.count("it is not good") for _, text in seen(fleet, 1))


LOOPING = """
agents:
  writer: {prompt: "Write.\\n", tier: nano, conversation: true}
flows:
  essay:
    initial: incoming
    transitions:
      "incoming -> written": {agent: writer}
      "written -> incoming": {max_visits: 7}
      "written -> done": {}
"""


async def test_own_last_reply_is_not_sent_again(running: Start) -> None:
    """A role that follows itself does not read its own last reply a second time."""
    fleet = await running(LOOPING.replace("7", "1"))
    fleet.provider.script(Reply("The only draft."), Reply("Another."))

    await fleet.run("essay", "The sea.")

    assert 1 == sum(text.count("The only draft.") for _, text in seen(fleet, 1))


BULKY = """
agents:
  writer: {prompt: "Write.\\n", tier: nano, conversation: true}
  printer: {prompt: "Print.\\n", tier: standard}
  reader: {prompt: "Read.\\n", tier: nano}
flows:
  essay:
    initial: incoming
    transitions:
      "incoming -> written": {agent: writer}
      "written -> printed": {agent: printer}
      "printed -> read": {agent: reader}
      "read -> incoming": {max_visits: 7}
      "read -> done": {}
"""


async def test_long_item_goes_on_in_a_next_run_with_its_conversation(
    running: Start,
) -> None:
    """An item that continues as new goes on with the whole conversation."""
    fleet = await running(BULKY)
    book = base64.b64encode(random.Random(1).randbytes(675_000)).decode()
    printed = Reply(book, usage=Usage(output_tokens=9))
    fleet.provider.on(lambda request: request.model == "middle", printed)
    fleet.provider.on(lambda request: prompted(request, "Read."), Reply("read"))
    drafts = [Reply(f"draft {n}") for n in range(8)]
    fleet.provider.script(*drafts)

    handle = await fleet.start("essay", "The sea.")
    result = await flow_result(handle)

    assert (await handle.describe()).run_id != handle.first_execution_run_id
    assert ("done", 24) == (result.state, result.attempts)
    (*_, last) = [r.messages for r in fleet.provider.requests if prompted(r, "Write.")]
    assert 15 == len(last)
    assert [f"draft {n}" for n in range(7)] == [t for w, t in last if w == "assistant"]
    assert 1 == sum(text.count("The sea.") for _, text in last)


# In workflows of a user's own


async def test_calls_go_on_from_each_other(running: Start) -> None:
    """Each call's model sees all messages before; the history gets only the new ones."""
    fleet = await running(ROLES, connect=uncompressed)
    fleet.provider.default(echo)
    texts = [long_text(n, 10_000) for n in range(5)]

    async with started(fleet, TalkWorkflow.run, texts) as handle:
        said = told(await handle.result())
        history = await handle.fetch_history()

    assert said[:-1] == seen(fleet, 4)
    assert texts == [text for who, text in said if who == "user"]
    for size in scheduled_bytes(history):
        assert 10_000 < size < 13_000


async def test_messages_can_be_put_together_first(running: Start) -> None:
    """Appended messages of both sides, data among them, go in their order."""
    fleet = await running(ROLES)
    fleet.provider.default(Reply("5"))

    said = told(await execute(fleet, AppendingWorkflow.run))

    assert said[:-1] == seen(fleet, 0)
    assert ["user", "assistant", "user", "user", "assistant"] == [w for w, _ in said]
    assert '"numbers"' in said[2][1]


async def test_conversation_may_be_made_early(running: Start) -> None:
    """A workflow's `__init__` can make a conversation for its `run` to use."""
    fleet = await running(ROLES)
    fleet.provider.default(Reply("fine"))

    said = told(await execute(fleet, EarlyWorkflow.run, False))

    assert [("user", "hello"), ("assistant", "fine")] == said


@pytest.mark.filterwarnings("ignore:coroutine .*run_workflow:RuntimeWarning")
async def test_append_before_the_run_fails_by_name(running: Start) -> None:
    """A message that is appended in `__init__` fails the workflow and says why."""
    fleet = await running(ROLES, served=NANO)

    with pytest.raises(WorkflowFailureError) as failed:
        await execute(fleet, EarlyWorkflow.run, True)

    gc.collect()  # the SDK leaves the run method of such a workflow unawaited
    assert "used only from its run method on" in str(failed.value.cause)


async def test_conversations_of_one_role_are_told_apart_by_name(running: Start) -> None:
    """Two conversations in turn do not see each other."""
    fleet = await running(ROLES)
    fleet.provider.default(echo)

    said = await execute(fleet, SeveralWorkflow.run, 3)

    for name in ("left", "right"):
        assert [f"{name} {n}" for n in range(3)] == [
            text for who, text in said[name] if who == "user"
        ]
        assert all(name in text for _, text in said[name])


async def test_call_agent_and_conversation_share_a_roles_messages(
    running: Start,
) -> None:
    """`call_agent` on a role with `conversation: true` uses the conversation of its name."""
    fleet = await running(ROLES)
    fleet.provider.default(echo)

    said = told(await execute(fleet, BothWaysWorkflow.run))

    assert ["first", "second", "third"] == [t for who, t in said if who == "user"]
    assert said[:-1] == seen(fleet, 2)


async def test_typed_reply_stands_as_json_in_the_conversation(running: Start) -> None:
    """A typed reply is a model for the caller, JSON for the next call; no query is needed."""
    asked = Asked()
    fleet = await running(ROLES, connect=asked.connect)
    mark = {"verdict": "größer", "score": 7}
    fleet.provider.script(Reply(json=mark), Reply("Because."))

    found, why, said = await execute(fleet, TypedTalkWorkflow.run)

    assert (Mark(**mark), "Because.") == (Mark.model_validate(found), why)
    assert ("assistant", '{"verdict": "größer", "score": 7}') == seen(fleet, 1)[1]
    assert told(said)[:-1] == seen(fleet, 1)
    assert [] == asked.requests


@pytest.mark.parametrize(
    ("invalid", "complaint"),
    [
        (Reply("sure, here you go"), "JSON"),
        (Reply(json={"verdict": "fine", "score": 11}), "from 0 to 10"),
    ],
)
async def test_repair_leaves_only_the_valid_reply(
    running: Start, invalid: Reply, complaint: str
) -> None:
    """The invalid reply and the complaint are seen by the repair and by no later call."""
    fleet = await running(ROLES)
    mark = {"verdict": "fine", "score": 7}
    fleet.provider.script(invalid, Reply(json=mark), Reply("Because."))

    _, why, said = await execute(fleet, TypedTalkWorkflow.run)

    assert "Because." == why
    repair, last = seen(fleet, 1), seen(fleet, 2)
    assert ["user", "assistant", "user"] == [who for who, _ in repair]
    assert complaint in repair[2][1]
    assert ["Mark this.", "Why?"] == [text for who, text in last if who == "user"]
    assert told(said)[:-1] == last


async def test_failed_call_can_be_repeated(running: Start) -> None:
    """What a failed call sent stays; calling again with nothing new sends it again."""
    fleet = await running(ROLES)
    fleet.provider.script(Fail(400, "no"), Reply("fine"))

    failed, said = await execute(fleet, StubbornWorkflow.run, "The question.")

    assert "no" in failed
    assert [("user", "The question."), ("assistant", "fine")] == told(said)
    assert seen(fleet, 0) == seen(fleet, 1) == told(said)[:1]


async def test_retry_refers_to_what_was_sent(running: Start) -> None:
    """A second attempt sends the same messages, but its input does not carry them again."""
    fleet = await running(ROLES, connect=uncompressed)
    fleet.provider.script(Overloaded(), Reply("fine"))

    async with started(fleet, TalkWorkflow.run, [long_text(0, 20_000)]) as handle:
        await handle.result()
        first, second = scheduled_bytes(await handle.fetch_history())

    assert seen(fleet, 0) == seen(fleet, 1)
    assert first > 20_000
    assert second < 2_000


async def test_calls_at_once_go_one_after_the_other(running: Start) -> None:
    """Of parallel calls in one conversation each sees the replies to those before."""
    fleet = await running(ROLES)
    fleet.provider.default(echo)

    said = told(await execute(fleet, ParallelTalkWorkflow.run, 5))

    assert 1 == fleet.provider.accounting.peak_in_flight
    assert [f"text {n}" for n in range(5)] == [t for who, t in said if who == "user"]
    assert ["user", "assistant"] * 5 == [who for who, _ in said]
    for number in range(5):
        assert said[: 2 * number + 1] == seen(fleet, number)


async def test_append_during_a_call_is_refused(running: Start) -> None:
    """A message that would come between a question and its answer is refused by name."""
    fleet = await running(ROLES)
    gate = asyncio.Event()
    fleet.provider.script(Reply("fine", gate=gate))

    async with started(fleet, ListeningWorkflow.run, 0) as handle:
        saying = asyncio.create_task(handle.execute_update("say", "hello"))
        await fleet.provider.until(lambda books: books.in_flight == 1)
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update("interrupt", "wait")
        gate.set()
        await saying
        await handle.signal("end")
        said = told(await handle.result())

    assert "await it before you append" in str(refused.value.cause)
    assert [("user", "hello"), ("assistant", "fine")] == said


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("writer", "has no new message of the user"),
        ("tests", "only llm roles have conversations"),
        ("writr", "did you mean 'writer'?"),
    ],
)
async def test_call_that_cannot_mean_anything_fails_by_name(
    running: Start, role: str, words: str
) -> None:
    """A call with nothing to answer to, of a tool or of nobody fails the workflow."""
    fleet = await running(ROLES, served=NANO)

    with pytest.raises(WorkflowFailureError) as failed:
        await execute(fleet, SilentWorkflow.run, role)

    assert words in str(failed.value.cause)
    assert 0 == fleet.provider.accounting.calls


# Sizes


@pytest.mark.parametrize("around", [32 * 1024 - 10, 32 * 1024 + 10])
async def test_new_messages_go_inline_up_to_32_kb(running: Start, around: int) -> None:
    """Up to 32 KB stand in the input; of more only a reference, and the worker asks."""
    fleet = await running(ROLES, connect=uncompressed)
    fleet.provider.default(Reply("fine"))
    text = "x" * around

    async with started(fleet, TalkWorkflow.run, [text, "short"]) as handle:
        said = told(await handle.result())
        first, second = scheduled_bytes(await handle.fetch_history())

    assert (around <= 32 * 1024) == (first > around)
    assert max(second, first % around) < 2_000
    assert said[:-1] == seen(fleet, 1)


async def test_long_conversation_goes_on_with_what_is_new(running: Start) -> None:
    """800 KB from the start are asked for once; the turns after that carry their own text."""
    asked = Asked()
    fleet = await running(ROLES, connect=asked.connect)
    fleet.provider.default(echo)
    start = [160_000] * 5

    async with started(fleet, LongTalkWorkflow.run, start, [5_000] * 4) as handle:
        replies = await handle.result()
        sizes = scheduled_bytes(await handle.fetch_history())

    assert 4 == len(replies)
    texts = [long_text(n, 160_000) for n in range(5)]
    assert texts == [text for _, text in seen(fleet, 3)[:5]]
    assert 12 == len(seen(fleet, 3))
    assert max(sizes) < 5_000
    assert {0} == {request.start for request in asked.requests if not request.offset}
    assert 3 == len(asked.requests)  # 805,000 characters, 300,000 at a time


async def test_many_long_calls_at_once_do_not_end_the_workflow(running: Start) -> None:
    """12 calls with 400 KB of new text each, in one workflow task, stay below 4 MiB."""
    fleet = await running(ROLES, connect=uncompressed)
    fleet.provider.default(echo)

    replies = await execute(fleet, CrowdWorkflow.run, 12, 400_000)

    assert [f"1: {long_text(n, 40)}" for n in range(12)] == replies
    assert {400_000} == {len(r.messages[0][1]) for r in fleet.provider.requests}


async def test_many_short_calls_at_once_do_not_end_the_workflow(running: Start) -> None:
    """150 calls with 30 KB each would be 4.5 MB inline; what is too much is referred to."""
    fleet = await running(ROLES, connect=uncompressed)
    fleet.provider.default(echo)

    replies = await execute(fleet, CrowdWorkflow.run, 150, 30_000)

    assert [f"1: {long_text(n, 40)}" for n in range(150)] == replies


async def test_text_full_of_escapes_arrives(running: Start) -> None:
    """Text that takes six times its size as JSON fits into the answers to a worker."""
    fleet = await running(ROLES, connect=uncompressed)
    fleet.provider.default(Reply("fine"))

    reply = await execute(fleet, EscapesWorkflow.run, 800_000)

    assert "fine" == reply
    assert [("user", "\x01" * 800_000)] == seen(fleet, 0)


async def test_conversation_too_long_for_the_model_fails_unbilled(
    running: Start,
) -> None:
    """A provider that says so ends the call at once; nothing is charged for it."""
    fleet = await running(ROLES)
    fleet.provider.script(
        Reply("fine"),
        Fail(
            400,
            "This model's maximum context length is 8192 tokens. However, your "
            "messages resulted in 30000 tokens. Please reduce their length.",
            code="context_length_exceeded",
        ),
    )

    async with started(fleet, LongTalkWorkflow.run, [], [10, 90_000]) as handle:
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        costs = await handle.query("costs", result_type=ItemCosts)

    assert isinstance(failed.value.cause, ApplicationError)
    assert "AgentCallFailed" == failed.value.cause.type
    assert "maximum context length" in str(failed.value.cause)
    outcomes = [attempt.outcome for attempt in costs.attempts]
    assert [Outcome.BILLED, Outcome.UNBILLED] == outcomes
    assert 0 == costs.attempts[1].cost_usd
    assert 2 == fleet.provider.accounting.calls


async def test_half_a_character_fails_by_name(running: Start) -> None:
    """Text that cannot be encoded fails the workflow and says so; nothing is paid."""
    fleet = await running(ROLES, served=NANO)

    with pytest.raises(WorkflowFailureError) as failed:
        await execute(fleet, HalfWorkflow.run)

    assert "half a character" in str(failed.value.cause)
    assert 0 == fleet.provider.accounting.calls


# Over workers and runs


async def test_other_worker_asks_for_the_conversation(running: Start) -> None:
    """A worker process that has seen nothing of a conversation asks for it in pieces."""
    fleet = await running(ROLES, served=NOTHING)
    fleet.provider.default(echo)

    async with started(fleet, ListeningWorkflow.run, 500_000) as handle:
        replies, asks = [], []
        for word in ("first", "second", "third"):
            asked = Asked()
            client = asked.connect(fleet.client, fleet.fleet)
            async with working(client, fleet.fleet, NANO):
                replies.append(await handle.execute_update("say", word))
            asks.append([(r.start, r.offset) for r in asked.requests])
        await handle.signal("end")
        said = told(await handle.result())

    assert ["2: first", "4: second", "6: third"] == replies
    assert said[:-1] == seen(fleet, 2)
    assert [2, 2, 2] == [len(one) for one in asks]
    assert {(0, 0)} == {one[0] for one in asks}


async def test_next_run_goes_on_with_the_conversation(running: Start) -> None:
    """Continue-as-new carries replies and messages that wait for a call."""
    fleet = await running(ROLES)
    fleet.provider.default(echo)

    said = told(await execute(fleet, RelayWorkflow.run, 3))

    assert [
        ("user", "3 to go"),
        ("assistant", "1: 3 to go"),
        ("user", "3 is over"),
        ("user", "2 to go"),
        ("assistant", "4: 2 to go"),
        ("user", "2 is over"),
        ("user", "1 to go"),
        ("assistant", "7: 1 to go"),
        ("user", "1 is over"),
    ] == said
    assert said[:7] == seen(fleet, 2)


async def test_run_without_a_call_hands_over_its_conversation(running: Start) -> None:
    """Messages that were appended before a workflow's first call are not lost."""
    fleet = await running(ROLES)
    fleet.provider.default(Reply("fine"))

    said = told(await execute(fleet, HandingOverWorkflow.run, False))

    assert [("user", "From the run before."), ("user", "From this run.")] == said[:2]
    assert said[:2] == seen(fleet, 0)


async def test_conversation_that_no_next_run_can_take_fails_by_name(
    running: Start,
) -> None:
    """Continue-as-new with too much fails the workflow, not its task for ever."""
    fleet = await running(ROLES)
    fleet.provider.default(Reply("fine"))

    with pytest.raises(WorkflowFailureError) as failed:
        await execute(fleet, TooLongWorkflow.run, 4_000_000)

    assert "cannot continue as new" in str(failed.value.cause)
    assert 1 == fleet.provider.accounting.calls


async def test_works_without_the_workflow_cache(running: Start) -> None:
    """With every task replayed from the start, the model sees the same, once."""
    fleet = await running(ROLES)
    fleet.provider.default(echo)
    texts = ["one", long_text(0, 40_000), "three"]

    run = TalkWorkflow.run
    said = told(await execute(fleet, run, texts, max_cached_workflows=0))

    assert 3 == fleet.provider.accounting.calls
    assert said[:-1] == seen(fleet, 2)


async def test_reset_workflow_goes_on_from_there(running: Start) -> None:
    """After a reset other replies come; what a worker kept of the old ones is dropped."""
    asked = Asked()
    fleet = await running(ROLES, connect=asked.connect)
    answers = (Reply(f"reply {n}") for n in range(100))
    fleet.provider.default(lambda _request: next(answers))

    async with started(fleet, TalkWorkflow.run, ["one", "two", "three"]) as handle:
        old = told(await handle.result())
        await reset(fleet.client, handle, (await task_ends(handle))[1])
        again = fleet.client.get_workflow_handle(handle.id)
        new = told(await again.result())

    assert ["reply 0", "reply 1", "reply 2"] == [t for w, t in old if w == "assistant"]
    assert ["reply 0", "reply 3", "reply 4"] == [t for w, t in new if w == "assistant"]
    assert new[:-1] == seen(fleet, 4)


# What people can ask


async def test_people_can_read_a_conversation(running: Start) -> None:
    """The query `conversation` names all conversations and gives one piece by piece."""
    fleet = await running(ROLES)
    fleet.provider.default(echo)

    async with started(fleet, SeveralWorkflow.run, 2) as handle:
        said = await handle.result()
        first = await handle.query("conversation", result_type=ConversationChunk)
        right = await handle.query(
            "conversation",
            ConversationRequest(name="right", start=1, end=3),
            result_type=ConversationChunk,
        )

    assert ("left", ("left", "right"), False) == (first.name, first.names, first.more)
    assert told(said["left"]) == [(turn.role, turn.text) for turn in first.messages]
    assert told(said["right"])[1:3] == [(t.role, t.text) for t in right.messages]


async def test_unknown_conversation_is_named(running: Start) -> None:
    """A misspelt name is answered with what there is."""
    fleet = await running(ROLES)
    fleet.provider.default(echo)

    async with started(fleet, SeveralWorkflow.run, 1) as handle:
        await handle.result()
        with pytest.raises(Exception, match="did you mean 'right'"):
            await handle.query("conversation", ConversationRequest(name="rigt"))
