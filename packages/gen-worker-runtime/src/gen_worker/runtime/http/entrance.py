"""What every call and every submitted request passes: its function, its owner, its id."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gen_worker.errors import UnknownFunctionError, classify
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.requests import invocation_from, invocation_of
from gen_worker.runtime.http.targets import parse_target, target_of_path

if TYPE_CHECKING:
    from gen_worker.runtime.engine import Invocation
    from gen_worker.runtime.http.backend import Backend, Target
    from gen_worker.runtime.http.credentials import Principal
    from gen_worker.runtime.http.exchange import Scope
    from gen_worker.runtime.http.requests import SubmittedBody

__all__ = ["CALL_PATH", "Entrance"]

CALL_PATH = "/v1/request/"
_MAX_KNOWN = 1024


class Entrance:
    """Makes what is asked for an `Invocation`."""

    def __init__(self, backend: Backend, owner: str | None) -> None:
        """Let calls in.

        Args:
            backend: Knows the functions.
            owner: Whose calls these are, unless the caller says.
        """
        self.is_draining = False
        """Whether new calls are refused; those under way go on."""
        self.known: dict[bytes, str] = {}
        """Functions by the paths that were asked for, as they were sent."""
        self._by_name: dict[str, str] = {}
        """The same by the names of submissions."""
        self._backend = backend
        self._owner = owner
        self._id_prefix = f"http-{os.urandom(6).hex()}"  # kept requests have those of all times
        self._next_id = 0

    def find(self, scope: Scope, prefix: str = CALL_PATH) -> str:
        """Return the function of a path, and remember it for the next time.

        Raises:
            Refusal: 404, there is none.
        """
        raw = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
        known = self.known.get(raw)
        if known is not None:
            return known
        function = self._lookup(target_of_path(raw.decode("latin-1"), prefix))
        if prefix == CALL_PATH and len(self.known) < _MAX_KNOWN:
            self.known[raw] = function
        return function

    def invocation(self, function: str, body: bytes, caller: Principal) -> Invocation:
        """Return the call that a body asks for.

        Raises:
            Refusal: 400, its envelope is wrong; 403, it is for another owner.
        """
        owner = self._owner if caller.owner is None else caller.owner
        invocation = invocation_of(function, body, self._new_id(), owner)
        if invocation.owner is not owner:
            _check_owner(caller, invocation.owner)
        return invocation

    def submitted(self, body: SubmittedBody, caller: Principal) -> Invocation:
        """Return the call that a submission asks for.

        Raises:
            Refusal: 404, there is no such function; 400 and 403 as with `invocation`.
        """
        function = self._named(body.function)
        owner = self._owner if caller.owner is None else caller.owner
        invocation = invocation_from(body, function, self._new_id(), owner)
        _check_owner(caller, invocation.owner)
        return invocation

    def _named(self, name: str) -> str:
        function = self._by_name.get(name)
        if function is None:
            function = self._lookup(parse_target(name))
            if len(self._by_name) < _MAX_KNOWN:
                self._by_name[name] = function
        return function

    def refuse_when_draining(self) -> None:
        if self.is_draining:
            raise Refusal(503, "draining", "the server is stopping: ask another one")

    def _lookup(self, target: Target) -> str:
        try:
            return self._backend.find(target)
        except UnknownFunctionError as error:
            message = classify(error, origin="input").message
            raise Refusal(404, "unknown_function", message) from error

    def _new_id(self) -> str:
        self._next_id += 1
        return f"{self._id_prefix}-{self._next_id}"


def _check_owner(caller: Principal, owner: str | None) -> None:
    if not caller.may_act_for(owner):
        raise Refusal(403, "forbidden_owner", f"the token is {caller.owner!r}'s: leave `owner` out")
