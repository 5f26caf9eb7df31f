"""The connection to an orchestrator as a value, and the one pure function that changes it.

Nothing here dials, waits or reads a clock: events go in with the time they happened at, effects
come out, and `wake_at` says when to come back if nothing else happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from gen_worker.errors import SettingsError
from gen_worker.runtime.worker.addresses import Address, parse_address
from gen_worker.runtime.worker.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Connected",
    "Dial",
    "Effect",
    "Event",
    "Exit",
    "Finish",
    "HangUp",
    "Heard",
    "LinkPolicy",
    "LinkState",
    "Lost",
    "Opened",
    "Phase",
    "Started",
    "Stopped",
    "Ticked",
    "transition",
    "wake_at",
]

MAX_REDIRECTS = 5
MAX_PATIENCE = 8
"""Times `silence_timeout_s`, for an orchestrator that says nothing on every connection."""
_ANSWER_S = 10.0
"""What is said this soon answers the registration, and does not show that more will come."""
NOT_LEADER = "not_leader:"
UNSUPPORTED_PROTOCOL = "unsupported_worker_protocol:"

Phase = Literal["idle", "dialing", "opened", "established", "waiting", "finished"]


class LinkPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decided. Seconds; 0 turns a limit off."""

    seeds: tuple[Address, ...]
    backoff: Backoff = Backoff()
    max_attempts: int = 0
    """Failures in a row after which the worker gives up."""
    register_timeout_s: float = 90.0
    """From the start to the first established connection."""
    disconnected_timeout_s: float = 0.0
    """Without an established connection, whether or not there was one before."""
    silence_timeout_s: float = 60.0
    """Without a word from the other end, after which a connection counts as half open. Each that
    is left for that reason doubles it for the next, up to `MAX_PATIENCE` times, until the other end
    speaks by itself: one that has nothing to say to an idle worker is no broken connection."""
    dial_timeout_s: float = 20.0
    """For one attempt, from dialing to an open stream."""
    grace_s: float = 1.0
    """An open stream that lives this long counts as established, whether or not it was used."""
    follows_redirects: bool = False
    """Whether a hint to another address is followed; otherwise only seeds are dialed."""
    use_tls: bool | None = None
    """For redirects; see `parse_address`."""


class Exit(NamedTuple):
    """Why the worker ends."""

    code: int
    phase: str
    """As it is logged: `stopped`, `startup_timeout_unregistered`, …"""
    detail: str = ""


class LinkState(msgspec.Struct, frozen=True, kw_only=True):
    """Where one worker stands with its orchestrator. Times are seconds of the worker's clock."""

    phase: Phase = "idle"
    connection: int = 0
    """Counts the attempts, so that news of an older one are recognised."""
    address: Address | None = None
    """What is or was dialed last."""
    failures: int = 0
    """In a row; 0 once a connection is established."""
    redirects: int = 0
    """In a row, likewise."""
    turn: int = 0
    """Which seed comes next."""
    hint: Address | None = None
    """Dialed next, once, before any seed."""
    since: float = 0.0
    """When this phase began."""
    heard_at: float = 0.0
    """When the other end last said something."""
    silences: int = 0
    """Connections in a row that were left because it said nothing."""
    started_at: float = 0.0
    linked_until: float | None = None
    """When a connection was last established; None: never yet."""
    trouble: str = ""
    """Where the last attempt or connection went to, and why it ended."""
    resumes_at: float = 0.0
    """While waiting: when to dial again."""


class Started(NamedTuple):
    """The worker begins."""


class Opened(NamedTuple):
    """The transport is ready and the registration is written."""

    connection: int


class Heard(NamedTuple):
    """A message arrived."""

    connection: int


class Lost(NamedTuple):
    """The control stream ended, however, or could not be opened."""

    connection: int
    code: str = ""
    """Name of the gRPC status; `OK` for a clean end."""
    details: str = ""


class Ticked(NamedTuple):
    """`wake_at` is over."""


class Stopped(NamedTuple):
    """The worker is told to leave: it is drained, or has had its signal."""

    code: int = 0
    phase: str = "stopped"


Event = Started | Opened | Heard | Lost | Ticked | Stopped


class Dial(NamedTuple):
    """Open the streams to an address."""

    connection: int
    address: Address


class HangUp(NamedTuple):
    """Close what a connection still has open; news of it do not matter any more."""

    connection: int
    reason: str


class Connected(NamedTuple):
    """The connection is established: what was in doubt may be sent again."""

    connection: int


class Finish(NamedTuple):
    """Leave."""

    exit: Exit


Effect = Dial | HangUp | Connected | Finish


def transition(
    state: LinkState,
    event: Event,
    *,
    now: float,
    policy: LinkPolicy,
    random: Callable[[], float],
) -> tuple[LinkState, tuple[Effect, ...]]:
    """Return what an event makes of the connection, and what is to be done.

    Args:
        state: Before.
        event: What happened; news of a connection that is over change nothing.
        now: When.
        policy: What the operator decided.
        random: Gives numbers from 0 up to 1.
    """
    if state.phase == "finished":
        return state, ()
    match event:
        case Started():
            begun = msgspec.structs.replace(state, started_at=now)
            return _dial(begun, now, policy)
        case Stopped(code, phase):
            return _finish(state, now, Exit(code, phase))
        case Ticked():
            return _tick(state, now, policy, random)
        case Opened(connection) | Heard(connection) | Lost(connection):
            if connection != state.connection or state.phase in ("idle", "waiting"):
                return state, ()
    if isinstance(event, Lost):
        return _lose(state, event, now, policy, random)
    if isinstance(event, Opened):
        opened = msgspec.structs.replace(state, phase="opened", since=now, heard_at=now)
        return (opened, ()) if state.phase == "dialing" else (state, ())
    heard = msgspec.structs.replace(state, heard_at=now)
    if state.phase != "established":
        return _establish(heard, now)
    is_answer = now - state.since < _ANSWER_S
    return (heard if is_answer else msgspec.structs.replace(heard, silences=0)), ()


def wake_at(state: LinkState, policy: LinkPolicy) -> float | None:
    """Return when something is due by itself; None when nothing is."""
    due = [_give_up_at(state, policy)[0]]
    match state.phase:
        case "dialing":
            due.append(state.since + policy.dial_timeout_s)
        case "opened":
            due.append(state.since + policy.grace_s)
        case "established" if policy.silence_timeout_s > 0:
            due.append(state.heard_at + policy.silence_timeout_s * _patience(state))
        case "waiting":
            due.append(state.resumes_at)
        case "finished":
            return None
    return min((at for at in due if at is not None), default=None)


def _give_up_at(state: LinkState, policy: LinkPolicy) -> tuple[float | None, Exit]:
    """Return when the worker leaves unless it gets a connection, and how."""
    if state.phase == "established":
        return None, Exit(0, "")
    trouble = f"; the last attempt, to {state.trouble}" if state.trouble else ""
    if not trouble and state.phase == "dialing":
        trouble = f"; {state.address} does not answer"
    text = f"no orchestrator took the registration{trouble}"
    never = Exit(1, "startup_timeout_unregistered", text)
    alone = Exit(0, "disconnected", f"no orchestrator for longer than allowed{trouble}")
    ends: list[tuple[float, Exit]] = []
    if state.linked_until is None and policy.register_timeout_s > 0:
        ends.append((state.started_at + policy.register_timeout_s, never))
    if policy.disconnected_timeout_s > 0:
        since = state.started_at if state.linked_until is None else state.linked_until
        ends.append((since + policy.disconnected_timeout_s, alone))
    return min(ends, default=(None, alone))


def _tick(
    state: LinkState, now: float, policy: LinkPolicy, random: Callable[[], float]
) -> tuple[LinkState, tuple[Effect, ...]]:
    ends_at, end = _give_up_at(state, policy)
    if ends_at is not None and now >= ends_at:
        return _finish(state, now, end)
    due = wake_at(state, policy)
    if due is None or now < due:
        return state, ()
    match state.phase:
        case "waiting":
            return _dial(state, now, policy)
        case "opened":
            return _establish(state, now)
        case "dialing":
            return _wait(state, now, policy, random, "dial_timeout")
        case _:
            left = msgspec.structs.replace(state, silences=state.silences + 1)
            return _wait(left, now, policy, random, "half_open")


def _patience(state: LinkState) -> int:
    return min(1 << min(state.silences, MAX_PATIENCE), MAX_PATIENCE)


def _establish(state: LinkState, now: float) -> tuple[LinkState, tuple[Effect, ...]]:
    established = msgspec.structs.replace(
        state, phase="established", since=now, failures=0, linked_until=now
    )
    return established, (Connected(state.connection),)


def _lose(
    state: LinkState, event: Lost, now: float, policy: LinkPolicy, random: Callable[[], float]
) -> tuple[LinkState, tuple[Effect, ...]]:
    if event.details.startswith(UNSUPPORTED_PROTOCOL):
        return _finish(state, now, Exit(1, "scheduler_protocol_incompatible", event.details))
    state = msgspec.structs.replace(state, silences=0)
    hint = _hint(event.details, policy)
    if hint is None:
        reason = f"{event.code}: {event.details}" if event.details else event.code
        return _wait(state, now, policy, random, reason)
    # One that took the worker in for a moment only to send it on is part of the chain.
    is_settled = state.phase == "established" and now - state.since >= policy.grace_s
    redirects = 0 if is_settled else state.redirects
    if redirects >= MAX_REDIRECTS:
        text = f"redirected {redirects} times in a row, last to {hint}"
        return _finish(state, now, Exit(1, "scheduler_connect_failed", text))
    unlinked = _unlinked(state, now)
    redirected = msgspec.structs.replace(unlinked, hint=hint, redirects=redirects + 1)
    dialing, effects = _dial(redirected, now, policy)
    return dialing, (HangUp(state.connection, "redirect"), *effects)


def _hint(details: str, policy: LinkPolicy) -> Address | None:
    """Return where a lost connection says that the worker should go, if it may be followed."""
    if not policy.follows_redirects or not details.startswith(NOT_LEADER):
        return None
    try:
        return parse_address(details.removeprefix(NOT_LEADER), use_tls=policy.use_tls)
    except SettingsError:
        return None


def _wait(
    state: LinkState,
    now: float,
    policy: LinkPolicy,
    random: Callable[[], float],
    reason: str,
) -> tuple[LinkState, tuple[Effect, ...]]:
    failures, trouble = state.failures + 1, f"{state.address}: {reason}"
    if 0 < policy.max_attempts <= failures:
        text = f"{failures} attempts in a row failed, the last to {trouble}"
        return _finish(state, now, Exit(1, "scheduler_connect_failed", text))
    waiting = msgspec.structs.replace(
        _unlinked(state, now),
        phase="waiting",
        since=now,
        failures=failures,
        redirects=0,
        trouble=trouble,
        resumes_at=now + policy.backoff.delay_s(failures, random),
    )
    return waiting, (HangUp(state.connection, reason),)


def _dial(state: LinkState, now: float, policy: LinkPolicy) -> tuple[LinkState, tuple[Effect, ...]]:
    turn = state.turn
    if state.hint is not None:
        address = state.hint
    else:
        address, turn = policy.seeds[turn % len(policy.seeds)], turn + 1
    connection = state.connection + 1
    dialing = msgspec.structs.replace(
        state,
        phase="dialing",
        connection=connection,
        address=address,
        turn=turn,
        hint=None,
        since=now,
    )
    return dialing, (Dial(connection, address),)


def _finish(state: LinkState, now: float, exit: Exit) -> tuple[LinkState, tuple[Effect, ...]]:
    finished = msgspec.structs.replace(_unlinked(state, now), phase="finished", since=now)
    is_up = state.phase in ("dialing", "opened", "established")
    hang_up = (HangUp(state.connection, exit.phase),) if is_up else ()
    return finished, (*hang_up, Finish(exit))


def _unlinked(state: LinkState, now: float) -> LinkState:
    """Return the state with the end of an established connection noted."""
    if state.phase != "established":
        return state
    return msgspec.structs.replace(state, linked_until=now)
