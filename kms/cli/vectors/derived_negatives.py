"""This project's own negatives: bad derived tickets, and desired and granted policies that are refused."""

from dataclasses import replace
from pathlib import Path

from kms.cli.vectors.altered_tickets import ticket_negatives
from kms.cli.vectors.derived_exchanges import key
from kms.cli.vectors.entries import Json
from kms.cli.vectors.scene import ALICE, BOB, CAROL, START, Scene, negative_entry
from kms.crypto.interface import Use
from kms.crypto.protection import MessageProtection
from kms.crypto.suite import SUITE_128, SUITE_256
from kms.mikey import policy as rules
from kms.mikey.labels import RESPONSE
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import (
    Flags,
    Hdr,
    Idr,
    KeyData,
    Ticket,
    TicketPolicy,
    with_spi,
)
from kms.mikey.registry import DataType, ErrorNo, IdRole, IdType, KeyType, PrfFunc, RandRole
from kms.mikey.ticket_data import (
    BASE_TICKET,
    DERIVED_TICKET,
)
from kms.party.requesting import TicketRequest

_GRANT = "docs/ticket-type.md: what the KMS grants"


def write_negatives(seed: str, folder: Path) -> list[Json]:
    """All negatives. `folder` is for the KMSs' directories."""
    tickets = [
        entry
        for suite in (SUITE_256, SUITE_128)
        for entry in ticket_negatives(suite, seed, folder / f"tickets-{suite.bits}")
    ]
    return [*tickets, *_requests(seed, folder / "requests"), *_answers(seed, folder / "answers")]


# -- desired policies in REQUEST_INIT ----------------------------------------------------------------------------------


def _requests(seed: str, folder: Path) -> list[Json]:
    scene = Scene("negatives-requests", SUITE_256, seed, folder, clients=(ALICE,))
    scene.kms.close()
    forked = rules.FORKED_MODE_1

    def request(
        name: str,
        flags: Flags = forked,
        keys: list[KeyData] | None = None,
        kind: tuple[int, int, int] = DERIVED_TICKET,
        error_no: ErrorNo = ErrorNo.INVALID_TPPAR,
    ) -> Json:
        policy = scene.policy(ALICE, [BOB], flags, keys, kind)
        bad = TicketRequest(scene.party(ALICE), policy).message.raw
        return negative_entry(
            f"derived-request-{name}",
            bad,
            _GRANT,
            error_no,
            name,
            certain=False,
            config=scene.config,
            clock=START,
        )

    def of(key_type: KeyType, length: int, salt: int = 0) -> list[KeyData]:
        return [with_spi(key_type, bytes(length), bytes(salt), b"\0\0\0\1")]

    return [
        request("without-D", (forked & ~Flags.D) | Flags.L),
        request("without-E", forked & ~(Flags.E | Flags.I)),
        request("without-N", forked & ~Flags.N),
        request("without-O", forked & ~Flags.O),
        request("key-of-24-bytes", keys=of(KeyType.TGK, 24)),
        request("salt-of-33-bytes", keys=of(KeyType.TGK_SALT, 32, 33)),
        request("version-unknown", kind=(DERIVED_TICKET[0], 1, 2), error_no=ErrorNo.INVALID_TICKET),
        request("group-key-for-a-client", keys=of(KeyType.GTGK, 32), error_no=ErrorNo.INVALID_ID),
    ]


# -- answers of a KMS that is not what it should be --------------------------------------------------------------------


def _answers(seed: str, folder: Path) -> list[Json]:
    """REQUEST_RESPs whose MAC is right, with another ticket than was asked for."""
    scene = Scene("negatives-answers", SUITE_256, seed, folder)
    granted = scene.request(ALICE, scene.policy(ALICE, [BOB], keys=[key(scene, KeyType.TGK, 1)]))
    scene.kms.close()
    first, answer = (Message.decode(bytes.fromhex(m["hex"])) for m in scene.messages[:2])
    ticket = granted.ticket

    def respond(name: str, policy: TicketPolicy) -> Json:
        other = replace(ticket, policy=policy)
        payloads = [other if isinstance(p, Ticket) else p for p in answer.payloads[:-1]]
        draft = Message.build(
            Hdr(DataType.REQUEST_RESP, answer.hdr.csb_id, answer.hdr.prf),
            [*payloads, unsigned_v(answer.v.auth_alg)],
        )
        psk = scene.ops.load(scene.setting.psks[ALICE][0], Use.PRF)
        prf, csb_id, randr_i = PrfFunc(answer.hdr.prf), answer.hdr.csb_id, first.rand(RandRole.INITIATOR)
        protection = MessageProtection(scene.ops, psk, prf, csb_id, RESPONSE, randr_i=randr_i)
        bad = protection.sign(draft, first.raw).raw
        rule = "RFC 6043 4.2.1.6 and 6.10: changes need K = 1, and must be acceptable"
        return negative_entry(
            f"derived-answer-{name}", bad, rule, ErrorNo.INVALID_TPPAR, name,
            certain=False, config=scene.config, clock=START + 1, context=scene.messages[:1], target="Initiator",
        )  # fmt: skip

    policy = ticket.policy
    changed = policy.flags | Flags.K
    named = (*policy.tp_data, Idr(IdRole.RESPONDER, IdType.URI, CAROL))
    return [
        respond("base-ticket-K-0", replace(policy, ticket_type=BASE_TICKET[0])),
        respond("base-ticket-K-1", replace(policy, ticket_type=BASE_TICKET[0], flags=changed)),
        respond("another-responder-K-1", replace(policy, tp_data=named, flags=changed)),
    ]  # fmt: skip
