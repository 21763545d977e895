"""Running command and python roles: one attempt of a tool.

A command is a program in the work item's folder, with a small environment
(its process is the matter of `programs`); a python role is an async callable
of the user's. Both are bounded in time and size. Nothing here knows Temporal:
the agent activity resolves the request before and validates the reply after.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Final, NoReturn, TypeGuard, cast

from pydantic import BaseModel, JsonValue, ValidationError
from temporalio.exceptions import ApplicationError

from tierpool.activities.programs import Finished, TooMuchOutput, run_program
from tierpool.blueprint import Reply
from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    FailureDetail,
    NextStep,
    Outcome,
    ToolRequest,
)
from tierpool.errors import TierpoolError

__all__ = ["ToolError", "item_folder", "run_command", "run_python"]

_REPLY_LIMIT_BYTES: Final = 1_500_000
"""Temporal refuses results above 2 MiB."""

_REASON_CHARACTERS: Final = 2_000
_MESSAGE_CHARACTERS: Final = 500

_BASE_ENV: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""All that a command gets of the worker's environment without being asked for.

Provider keys are in that environment and must not leak into a tool.
"""

ToolCallable = Callable[[ToolRequest], Awaitable[object]]


class ToolError(TierpoolError):
    """An attempt of a command or python role that gave no reply."""

    def __init__(self, message: str | FailureDetail) -> None:
        """Take what happened; nothing is owed and trying again cannot help."""
        if isinstance(message, FailureDetail):
            self.detail = message
        else:
            self.detail = FailureDetail(
                outcome=Outcome.UNBILLED, next=NextStep.FAIL, message=message
            )
        super().__init__(self.detail.message)


async def run_command(request: AgentRequest, body: str, workdir: Path) -> AgentResult:
    """Run a command role's program with the request on its stdin.

    The program is found on PATH, or relative to the item's folder, in which it
    runs; no shell is involved. Whatever way the attempt ends, cancellation
    included, its process group is gone before this returns.

    Args:
        request: Names the program, its arguments and the time it has.
        body: The request as JSON, with the keys of `ToolRequest`.
        workdir: Folder that holds one folder per work item; made if missing.

    Raises:
        ToolError: if the program cannot be started, takes too long or prints
            too much. A program that exits with an error is a reply.
    """
    try:
        folder = item_folder(workdir, request.item_id)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _fail(f"cannot make the item's folder in {workdir}: {_os_error(error)}", error)
    program, limit = request.run[0], request.timeout.total_seconds()
    try:
        finished = await run_program(
            request.run, folder, _environment(request), body.encode(), limit
        )
    except TooMuchOutput as error:
        _fail(f"{program} {error}", error)
    except TimeoutError as error:
        _fail(f"{program} did not end within {limit:g} s", error)
    except FileNotFoundError as error:
        _fail(f"{program!r} was not found on PATH or in the item's folder", error)
    except (OSError, ValueError) as error:
        _fail(f"cannot run {program!r}: {_os_error(error)}", error)
    closed = request.output is not None
    return AgentResult(reply=_checked(_command_reply(finished, closed), program))


async def run_python(
    request: AgentRequest, body: str, import_from: Path
) -> AgentResult:
    """Call a python role: `async def f(request: ToolRequest) -> reply`.

    A reply is a dict of JSON, a pydantic model, text (`{"text": …}`) or a bool
    (`{"accept": …}`). The module is imported once per process, in a thread.

    Args:
        request: Names the callable and the time it has.
        body: The request as JSON, with the keys of `ToolRequest`.
        import_from: Folder of agents.yaml, put at the end of `sys.path`.

    Raises:
        ToolError: if the callable cannot be imported, raises, takes too long or
            returns something else. Its message has the exception's type and
            text, not the traceback.
    """
    function = await asyncio.to_thread(_load, request.call, import_from)
    argument = _tool_request(request, body)
    limit = request.timeout.total_seconds()
    scope = asyncio.timeout(limit)
    try:
        async with scope:
            value = await function(argument)
    except TimeoutError as error:
        if scope.expired():
            _fail(f"{request.call} did not return within {limit:g} s", error)
        _fail(f"{request.call} raised {_named(error)}", error)
    except (Exception, SystemExit) as error:
        message = f"{request.call} raised {_named(error)}"
        if _may_pass(error):
            later = FailureDetail(
                outcome=Outcome.UNBILLED,
                next=NextStep.RETRY,
                message=message,
                retry_after=error.next_retry_delay,
            )
            raise ToolError(later) from error
        _fail(message, error)
    try:
        reply = _python_reply(value, request.call)
    except ValueError as error:  # a model with a field that JSON cannot hold
        _fail(f"the reply of {request.call} is not JSON: {_named(error)}", error)
    return AgentResult(reply=_checked(reply, request.call))


def item_folder(workdir: Path, item_id: str) -> Path:
    """Return the folder of a work item: directly in `workdir`, one per ID.

    An ID that is no plain file name is shortened to one and told apart by a
    hash, so that no ID leads elsewhere and no two IDs share a folder.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", item_id).lstrip(".")[:100]
    if name != item_id or not name:
        digest = hashlib.sha256(item_id.encode(errors="surrogatepass")).hexdigest()
        name = f"{name or 'item'}~{digest[:16]}"  # a plain name has no tilde
    return workdir / name


def _environment(request: AgentRequest) -> dict[str, str]:
    wanted = (*_BASE_ENV, *request.pass_env)
    found = {name: os.environ[name] for name in wanted if name in os.environ}
    own = {"TIERPOOL_ITEM_ID": request.item_id, "TIERPOOL_ROLE": request.role}
    return found | own


def _command_reply(finished: Finished, closed: bool) -> Reply:
    """Read a command's output; `closed`: the role's output is declared.

    Exit code 0 accepts unless the printed object says otherwise; any other
    exit code refuses, whatever is printed. A declared output gets no fields
    that the program does not know of, except what a refusal needs.
    """
    printed = _json_object(finished.stdout)
    code: Reply = {"exit_code": finished.exit_code}
    if finished.exit_code == 0:
        if closed and printed is not None:
            return printed
        text: Reply = {} if closed else {"text": finished.stdout}
        return (
            {"accept": True}
            | ({} if closed else code)
            | (text if printed is None else printed)
        )
    reason = finished.stderr.strip() or finished.stdout.strip()
    if not reason and finished.exit_code < 0:
        reason = f"ended by signal {-finished.exit_code}"
    why: Reply = {
        "reason": reason[-_REASON_CHARACTERS:] or f"exit code {finished.exit_code}"
    }
    return why | (printed or {}) | code | {"accept": False}


def _json_object(text: str) -> Reply | None:
    """Return the one JSON object that the text is, or None."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError):
        return None
    return cast(Reply, value)


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _load(call: str, import_from: Path) -> ToolCallable:
    """Import `module:function` and check that it is async."""
    folder = str(import_from)
    if folder not in sys.path:  # at the end: a user's file must hide no package
        sys.path.append(folder)
    module, _, path = call.partition(":")
    try:
        found: Any = reduce(
            getattr, path.split("."), cast(Any, importlib.import_module(module))
        )
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing runs user code
        _fail(f"cannot import {call!r} (looked in {folder}): {_named(error)}", error)
    is_async = inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(
        getattr(found, "__call__", None)  # noqa: B004 - an object with an async __call__
    )
    if not is_async:
        raise ToolError(
            f"{call!r} is not an async callable; write "
            f"`async def {path.rpartition('.')[2]}(request: ToolRequest)`"
        )
    return cast(ToolCallable, found)


def _tool_request(request: AgentRequest, body: str) -> ToolRequest:
    try:
        parsed = ToolRequest.model_validate_json(body)
    except ValidationError as error:
        _fail(f"the request of {request.call} is not one of a tool", error)
    return parsed.model_copy(update={"role": request.role})


def _python_reply(value: object, call: str) -> Mapping[str, object]:
    match value:
        case bool():
            return {"accept": value}
        case str():
            return {"text": value}
        case BaseModel():
            return value.model_dump(mode="json")
        case dict():
            return value
        case _:
            raise ToolError(
                f"{call} returned {type(value).__name__}; expected a dict of JSON, "
                "a pydantic model, text or a bool"
            )


def _checked(value: Mapping[str, object], source: str) -> Reply:
    """Return the reply as plain JSON data that fits through Temporal."""
    try:
        raw = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        _fail(f"the reply of {source} is not JSON: {_named(error)}", error)
    if len(raw) > _REPLY_LIMIT_BYTES:
        raise ToolError(
            f"the reply of {source} has {len(raw):,} bytes of JSON; "
            f"the limit is {_REPLY_LIMIT_BYTES:,}"
        )
    return cast(dict[str, JsonValue], json.loads(raw))


def _may_pass(error: BaseException) -> TypeGuard[ApplicationError]:
    """Tell whether a call under `governed` may be paid for a little later."""
    if not isinstance(error, ApplicationError) or error.non_retryable:
        return False
    return error.type in ("BudgetDenied", "BudgetUnreachable")


def _named(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_MESSAGE_CHARACTERS]}".rstrip(": ")


def _os_error(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _fail(message: str, cause: BaseException) -> NoReturn:
    raise ToolError(message) from cause
