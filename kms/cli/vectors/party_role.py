"""What the Initiator and the Responder of a vector share: the parties with their keys, and CSB updates."""

from collections.abc import Callable, Iterable

from kms.cli.vectors.entries import BrokenVector
from kms.cli.vectors.party_keys import PartyKeys
from kms.cli.vectors.report import equal_messages
from kms.cli.vectors.setting import CLOCK_SKEW, ScriptedSources, Setting
from kms.cli.vectors.steps import Step, sessions_of
from kms.crypto.protection import MessageProtection
from kms.crypto.software import SoftwareKeys
from kms.mikey.errors import MikeyError
from kms.mikey.exchange import Role
from kms.mikey.message import Message
from kms.mikey.payloads import Cert, Flags, Idr, Kemac, KeyData, Randr, Sp, T
from kms.mikey.registry import DataType, IdRole, RandRole
from kms.mikey.srtp import SrtpPolicy
from kms.party.acceptance import Acceptance
from kms.party.party import Party
from kms.party.session import Session

PUBLIC_KEY = (DataType.REQUEST_INIT_PK, DataType.RESOLVE_INIT_PK)

_RANDS = {RandRole.INITIATOR: "RANDRi", RandRole.RESPONDER: "RANDRr"}


def acceptance_of(messages: Iterable[Message]) -> Acceptance:
    """What the parties of a vector accept: everything that RFC 6043 lets them choose, and the SRTP policies in it."""
    policies = dict.fromkeys(Acceptance().srtp)
    for message in messages:
        for sp in message.find_all(Sp):
            try:
                policies[SrtpPolicy.of(sp)] = None
            except MikeyError:
                continue  # the party that receives it says so
    return Acceptance(Flags(0), srtp=tuple(policies), skew=CLOCK_SKEW, counter=True, same_initiator=False)


class PartyRole:
    """All parties of one role in one vector. Messages that they send are made anew and compared byte for byte."""

    role: Role

    def __init__(self, setting: Setting, acceptance: Acceptance) -> None:
        self.setting = setting
        self.acceptance = acceptance
        self.ops = SoftwareKeys()
        self.sources = ScriptedSources(setting.clock)
        self.established: list[Session] = []
        self._keys = PartyKeys(setting, self.ops, self.sources)
        self._updates: dict[int, Step] = {}
        self._waiting: Callable[[bytes], object] | None = None

    def play(self, steps: list[Step]) -> None:
        """Play every message of this role. Raises Mismatch, MikeyError or BrokenVector."""
        for step in steps:
            self.on(step)
        self.finish()

    def on(self, step: Step) -> None:
        """Play one message, if this role sends or receives it."""
        raise NotImplementedError

    def finish(self) -> None:
        """What is left to do when no message follows."""
        for step in self._updates.values():
            self.session(step.csb_id).answer_update(step.message.raw)

    # -- parties -----------------------------------------------------------------------------------------------------

    def party(self, identity: bytes, step: Step | None = None) -> Party:
        """A subscriber of the vector's KMS. `step` is the message to the KMS that says how it authenticates."""
        signing = step is not None and step.kind in PUBLIC_KEY
        chain = step.message.find_all(Cert) if step is not None else ()
        # Anew each time: a party never takes a CSB ID again that it remembers, a vector may.
        return self._keys.party(identity, chain, signing=signing)

    def script(self, step: Step) -> None:
        """Make the next message that is made have the CSB ID, T, RANDRs and envelope key of this one."""
        message = step.message
        self.sources.clear()
        self.sources.clock = step.time
        self.sources.put("CSB ID", message.hdr.csb_id.to_bytes(4, "big"))
        for randr in message.find_all(Randr):
            if randr.role in _RANDS:
                self.sources.put(_RANDS[RandRole(randr.role)], randr.rand)
        self.sources.put_timestamp(message.get(T))
        self._keys.script(message)

    def hear(self, step: Step) -> None:
        """Set the clock to when this message is received."""
        self.sources.clear()
        self.sources.clock = step.time

    def compare(self, step: Step, made: Message) -> None:
        """Raise Mismatch unless the message that was made is the vector's."""
        equal_messages(step.where, step.message.raw, made.raw)

    def supplied(self, message: Message, protection: MessageProtection) -> tuple[KeyData, ...]:
        """The keys that a party chose for the KEMAC of its message: the vector's, decrypted."""
        kemac = message.find(Kemac)
        return () if kemac is None else protection.open(kemac, message.get(T))

    # -- receiving a negative ----------------------------------------------------------------------------------------

    def waits_for(self, receive: Callable[[bytes], object]) -> None:
        """Note what takes the answer to the message that was sent last."""
        self._waiting = receive

    def receive_answer(self, raw: bytes, time: float) -> None:
        """Take `raw` as the answer to the message that was sent last. Raises MikeyError if it is refused."""
        if self._waiting is None:
            raise BrokenVector("context has no message of this role that `bad` could answer")
        self.sources.clear()
        self.sources.clock = time
        self._waiting(raw)

    # -- CSB update (5.2) ----------------------------------------------------------------------------------------------

    def session(self, csb_id: int) -> Session:
        """The latest session with this CSB ID."""
        found = next((s for s in reversed(self.established) if s.static.csb_id == csb_id), None)
        if found is None:
            raise BrokenVector(f"an update of the bundle {csb_id:#x}, which was not established before")
        return found

    def update(self, step: Step) -> None:
        """Play a message of a CSB update, which either side may start."""
        session, message = self.session(step.csb_id), step.message
        if step.kind == DataType.TRANSFER_INIT and self._is_mine(message):
            self.script(step)
            arguments = sessions_of(message), self.supplied(message, session.static.protection)
            made = session.start_update(*arguments, policies=message.find_all(Sp), response=message.hdr.v)
            self.compare(step, made)
            self.waits_for(session.complete_update)
        elif step.kind == DataType.TRANSFER_INIT and message.hdr.v:
            self._updates[step.csb_id] = step
        elif step.kind == DataType.TRANSFER_INIT:
            self.hear(step)
            session.answer_update(message.raw)
        elif step.csb_id in self._updates:
            initial = self._updates.pop(step.csb_id)
            self.script(step)
            arguments = sessions_of(message), self.supplied(message, session.static.protection)
            answer = session.answer_update(initial.message.raw, *arguments, policies=message.find_all(Sp))
            assert answer is not None
            self.compare(step, answer)
        else:
            self.hear(step)
            session.complete_update(message.raw)

    def _is_mine(self, message: Message) -> bool:
        """Whether this role sent the update: the sender's IDR comes first (A-39)."""
        own = IdRole.INITIATOR if self.role is Role.INITIATOR else IdRole.RESPONDER
        roles = [i.role for i in message.find_all(Idr) if i.role in (IdRole.INITIATOR, IdRole.RESPONDER)]
        return roles[:1] == [own]
