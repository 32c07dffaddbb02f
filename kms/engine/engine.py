"""The engine: one MIKEY message in, one answer or refusal out. Nothing about a call is kept.

`Engine.handle` is the whole path of a REQUEST_INIT or RESOLVE_INIT; docs/request-path.md walks through it.
"""

from collections.abc import Sequence

import structlog

from hsm import KeyNotFound, Token, TokenError, TokenGone
from kms.admin.v1.admin_pb2 import AdminReply, AdminRequest
from kms.crypto.interface import UnsupportedKey
from kms.engine import admin, caller, refusals, requesting, resolving
from kms.engine.caller import Authenticated
from kms.engine.context import Context
from kms.engine.epochs import Epochs
from kms.engine.faults import EngineFault
from kms.engine.forwarding import Forward
from kms.engine.refusals import Reason, Refused
from kms.engine.v1 import link_pb2 as pb
from kms.engine.v1.link_pb2 import (
    CALLED_SERVICE_FOCUS,
    OPERATION_REQUEST_TICKET,
    EngineReply,
    EngineRequest,
    Outcome,
    Refusal,
)
from kms.mikey import error_message, labels, timestamps
from kms.mikey.errors import MikeyError, ProtocolError
from kms.mikey.exchange import check_message
from kms.mikey.message import Message
from kms.mikey.payloads import T
from kms.mikey.registry import DataType, ErrorNo, TsType

_log = structlog.get_logger()

_REQUESTS = (DataType.REQUEST_INIT_PSK, DataType.REQUEST_INIT_PK)
_RESOLVES = (DataType.RESOLVE_INIT_PSK, DataType.RESOLVE_INIT_PK)


class Engine:
    """Answers messages with the keys of one token. One thread calls it."""

    def __init__(self, context: Context, administration: "admin.Administration | None" = None) -> None:
        self._context = context
        self._administration = administration

    def handle(self, request: EngineRequest) -> EngineReply:
        """One outcome for each message, in order. Raises EngineFault when the token is gone."""
        return EngineReply(outcomes=[self._outcome(request, raw) for raw in request.mikey_messages])

    def handle_admin(self, request: AdminRequest, uid: int) -> AdminReply:
        """Answer an operator's command. Raises EngineFault."""
        if self._administration is None:
            raise EngineFault("this engine has no administration")
        return self._administration.handle(request, uid)

    def tick(self) -> None:
        """Now and then: make and destroy TPK epochs. Raises EngineFault."""
        if isinstance(self._context.keys, Epochs):
            with _token_faults():
                self._context.keys.maintain(self._context.sources.now())

    def count_calls(self) -> dict[str, list[float]]:
        """For benchmarks: from now on count the token's C functions, name -> [number, seconds]."""
        ops = self._context.ops
        return ops.count_calls() if isinstance(ops, Token) else {}

    def close(self) -> None:
        """Close the directory."""
        self._context.directory.close()

    # -- one message -------------------------------------------------------------------------------------------------

    def _outcome(self, request: EngineRequest, raw: bytes) -> Outcome:
        try:
            return self._try(request, raw)
        except TokenGone as gone:
            self._reopen(gone)
        except KeyNotFound:
            self._look_up_anew()
        with _token_faults():
            return self._try(request, raw)

    def _look_up_anew(self) -> None:
        """Another engine destroyed an epoch that this one still had a handle of, or the login is lost."""
        try:
            self._context.keys.forget()
        except TokenGone as gone:
            self._reopen(gone)

    def _reopen(self, gone: TokenGone) -> None:
        """The session died, the login was lost or the token was reset: try once to get it back, else end."""
        ops = self._context.ops
        if not isinstance(ops, Token):
            raise EngineFault(str(gone)) from gone
        try:
            ops.reopen()
            self._context.keys.forget()
        except TokenError as error:
            raise EngineFault(f"{gone}; the token cannot be opened again: {error}") from error
        _log.warning("token opened again", reason=str(gone))

    def _try(self, request: EngineRequest, raw: bytes) -> Outcome:
        exchange = _Exchange(self._context, raw)
        with self._context.ops.scope():
            try:
                answer = exchange.answer(request)
                if isinstance(answer, Forward):
                    return Outcome(
                        forward=pb.Forward(peer=answer.peer.decode(), mikey_message=answer.message.raw)
                    )
                return Outcome(mikey_message=answer.raw)
            except MikeyError as error:
                return Outcome(refusal=exchange.refuse(refusals.of(error)))
            except UnsupportedKey as error:
                # A key of the message that only this token does not take: its sender's fault all the same.
                return Outcome(refusal=exchange.refuse(Refused(Reason.UNSUPPORTED_ALGORITHM, str(error))))
            except Refused as refused:
                return Outcome(refusal=exchange.refuse(refused))


class _Exchange:
    """The handling of one message; remembers how far it came, for the Error message."""

    def __init__(self, context: Context, raw: bytes) -> None:
        self._context = context
        self._raw = raw
        self._message: Message | None = None
        self._authenticated: Authenticated | None = None

    def answer(self, request: EngineRequest) -> Message | Forward:
        """Parse, check the time, authenticate, authorise, and answer or forward. Raises Refused or MikeyError."""
        context = self._context
        requesting_ticket = request.operation == OPERATION_REQUEST_TICKET
        message = self._message = Message.decode(self._raw)
        check_message(message, *(_REQUESTS if requesting_ticket else _RESOLVES))
        self._check_time(message.get(T))
        authenticated = caller.authenticate(message, context)
        user = caller.authorise(authenticated, list(request.tls_identities), request.called_service)
        self._authenticated = authenticated
        if requesting_ticket:
            focus = request.called_service == CALLED_SERVICE_FOCUS
            return requesting.answer(authenticated, user, group_keys_allowed=focus)
        peer_answer = request.peer_answer if request.HasField("peer_answer") else None
        return resolving.answer(authenticated, user, peer_answer)

    def _check_time(self, t: T) -> None:
        if t.ts_type == TsType.COUNTER:
            if not self._context.counter_timestamps:
                raise ProtocolError("COUNTER timestamps are not accepted: send NTP-UTC", ErrorNo.INVALID_TS)
            return
        timestamps.check_fresh(t, self._context.sources.now(), self._context.clock_skew)

    def refuse(self, refused: Refused) -> Refusal:
        """The refusal with a MIKEY Error message: authenticated if the sender is, none if HDR was unreadable (5.4)."""
        return Refusal(
            code=refused.code,
            reason=refused.reason.name,
            message=str(refused),
            mikey_error_message=self._error_message(refused),
            peer_reason=refused.peer_reason,
        )

    def _error_message(self, refused: Refused) -> bytes:
        failed = error_message.failed_hdr(self._raw)
        if failed is None:
            return b""
        t = self._context.sources.timestamp()
        numbers: Sequence[ErrorNo] = (refused.error_no,)
        if self._message is None or self._authenticated is None or not self._authenticated.by_psk:
            return error_message.build(failed, numbers, t).raw
        # The auth_key of the message where the error occurred.
        alg = self._message.v.auth_alg
        draft = error_message.build(failed, numbers, t, auth_alg=alg)
        return self._authenticated.protection(labels.INITIAL).sign(draft).raw


class _token_faults:  # noqa: N801 - reads as a statement
    """Turns what only a broken token does into EngineFault, for the process to end and be replaced."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TokenGone):
            raise EngineFault(str(error)) from error
