"""This project's own exchanges with two KMSs (RFC 6043 10): KMS R has a derived ticket resolved by the KMS of it."""

from dataclasses import dataclass
from pathlib import Path

from kms.cli.vectors.derived_exchanges import key
from kms.cli.vectors.entries import Json
from kms.cli.vectors.kms_role import RESOLVES, KmsRefused, VectorKms
from kms.cli.vectors.scene import ALICE, KMS, LIFETIME, START, Draw, Scene
from kms.cli.vectors.setting import ScriptedSources
from kms.crypto.suite import SUITE_128, SUITE_256, Suite
from kms.engine.v1.link_pb2 import PeerAnswer, Refusal
from kms.mikey.message import Message
from kms.mikey.registry import KeyType

KMS_R = b"sip:kms@example.net"
DAVE = b"sip:dave@example.net"


@dataclass
class ForwardingScene(Scene):
    """A scene with KMS R and its subscriber Dave. KMS R has an enrolment with the other KMS, like a subscriber."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sources[DAVE] = ScriptedSources(START, Draw(self.seed, f"{self.name} {DAVE!r}"))
        assert self.setting.kms_r is not None
        folder = self.folder / "kms-r"
        folder.mkdir()
        sources = ScriptedSources(START, Draw(self.seed, f"{self.name} kms r"))
        self.kms_r = VectorKms(self.setting.kms_r, folder, ops=self.ops, sources=sources)

    def _config(self) -> Json:
        config = super()._config()
        master = self.draw(32)
        kms_r: Json = {
            "kms_id": KMS_R.hex(),
            "psk_master": master.hex(),
            "psk": {DAVE.decode(): self.psk(master, DAVE)},
            "peers": {KMS.decode(): self.psk(bytes.fromhex(config["psk_master"]), KMS_R)},
        }
        return {**config, "kms_r": kms_r}

    def _ask(self, message: Message) -> bytes:
        if message.hdr.data_type not in RESOLVES:
            return super()._ask(message)
        asked = self._note("FORWARDED RESOLVE_INIT", self.kms_r.forward(message.raw, self.now))
        try:
            answer = self._note("FORWARDED RESOLVE_RESP", self.kms.answer(asked, self.now))
            peer_answer = PeerAnswer(asked=asked, mikey_message=answer)
        except KmsRefused as refused:
            error = self._note("FORWARDED ERROR", refused.answer)
            peer_answer = PeerAnswer(asked=asked, refusal=Refusal(mikey_error_message=error))
        return self.kms_r.answer(message.raw, self.now, peer_answer)

    def refused_call(self, lifetime: int) -> None:
        """A call whose ticket is refused: it is valid for `lifetime` seconds only, and ends on its way."""
        granted = self.request(ALICE, self.policy(ALICE, [DAVE], lifetime=lifetime))
        try:
            self.offer(ALICE, granted, DAVE)
        except KmsRefused as refused:
            self._note("ERROR", refused.answer)

    def exchange(self) -> Json:
        """See Scene."""
        self.kms_r.close()
        return super().exchange()


def write_forwarding(seed: str, folder: Path) -> list[Json]:
    """All exchanges. `folder`, which is made, is for the KMSs' directories."""
    folder.mkdir()
    return [
        _forked(SUITE_256, seed, folder / "256"),
        _forked(SUITE_128, seed, folder / "128"),
        _refused(seed, folder / "refused"),
    ]


def _forked(suite: Suite, seed: str, folder: Path) -> Json:
    scene = ForwardingScene(f"psk{suite.bits}-forwarded-derived-forked", suite, seed, folder)
    policy = scene.policy(ALICE, [DAVE], keys=[key(scene, KeyType.TGK, 1)], lifetime=LIFETIME)
    scene.transfer(ALICE, scene.request(ALICE, policy), DAVE)
    return scene.exchange()


def _refused(seed: str, folder: Path) -> Json:
    """The KMS of the ticket refuses it; KMS R passes the Error no on, under the Responder's own PSK."""
    scene = ForwardingScene("psk256-forwarded-refused", SUITE_256, seed, folder)
    scene.refused_call(lifetime=3)
    return scene.exchange()
