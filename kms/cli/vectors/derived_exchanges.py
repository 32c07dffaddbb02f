"""This project's own exchanges: derived tickets with every kind of key, and base tickets in all four modes."""

from collections.abc import Callable
from pathlib import Path

from kms.cli.vectors.entries import Json
from kms.cli.vectors.scene import ALICE, BOB, CAROL, FOCUS, LIFETIME, Scene
from kms.crypto.suite import SUITE_128, SUITE_256, Suite
from kms.mikey import policy as rules
from kms.mikey.payloads import Flags, KeyData, with_spi
from kms.mikey.registry import ErrorNo, KeyType
from kms.mikey.srtp import SrtpPolicy
from kms.mikey.ticket_data import BASE_TICKET
from kms.party.making import MODE_3_FLAGS, MODE_4_FLAGS

UNFORKED = rules.FORKED_MODE_1 & ~Flags.I
REUSED = rules.FORKED_MODE_1 | Flags.J
BY_RESPONDER = (rules.FORKED_MODE_1 | Flags.M) & ~Flags.H
"""The Responder supplies the keys, and its RANDRr alone makes the TEK (A-38)."""
GROUP = b"sip:crew@example.com"


def write_exchanges(seed: str, folder: Path) -> list[Json]:
    """All exchanges. `folder` is for the KMSs' directories."""
    return [make(seed, folder / str(i)) for i, make in enumerate(_SCENES)]


def key(scene: Scene, key_type: KeyType, number: int, salt: int = 0) -> KeyData:
    """A key to ask for: its type, the suite's length, and `number` as its SPI."""
    return with_spi(key_type, bytes(scene.suite.key_length), bytes(salt), number.to_bytes(4, "big"))


def _forked(suite: Suite) -> Callable[[str, Path], Json]:
    def make(seed: str, folder: Path) -> Json:
        scene = Scene(f"psk{suite.bits}-derived-forked", suite, seed, folder)
        policy = scene.policy(ALICE, [BOB], keys=[key(scene, KeyType.TGK, 1)])
        scene.transfer(ALICE, scene.request(ALICE, policy), BOB)
        return scene.exchange()

    return make


def _default_key(suite: Suite) -> Callable[[str, Path], Json]:
    """No KEMAC in TP: the KMS gives one TGK and its SPI."""

    def make(seed: str, folder: Path) -> Json:
        scene = Scene(f"psk{suite.bits}-derived-default-key", suite, seed, folder)
        scene.transfer(ALICE, scene.request(ALICE, scene.policy(ALICE, [BOB])), BOB)
        return scene.exchange()

    return make


def _several_keys(suite: Suite, flags: Flags, name: str) -> Callable[[str, Path], Json]:
    def make(seed: str, folder: Path) -> Json:
        scene = Scene(f"psk{suite.bits}-derived-several-keys-{name}", suite, seed, folder)
        salted = (KeyType.TGK_SALT, KeyType.TEK_SALT, KeyType.GTGK_SALT)
        types = (t for t in KeyType if t != KeyType.MPK)
        keys = [key(scene, t, i + 1, 14 if t in salted else 0) for i, t in enumerate(types)]
        scene.transfer(FOCUS, scene.request(FOCUS, scene.policy(FOCUS, [BOB], flags, keys)), BOB)
        return scene.exchange()

    return make


def _group_key(key_type: KeyType, suite: Suite) -> Callable[[str, Path], Json]:
    """A focus asks for a group key once and calls its members with the one ticket: nobody's copy is forked."""

    def make(seed: str, folder: Path) -> Json:
        name = key_type.name.replace("_SALT", "").lower()
        scene = Scene(f"psk{suite.bits}-derived-group-{name}", suite, seed, folder)
        salt = 14 if key_type in (KeyType.TEK_SALT, KeyType.GTGK_SALT) else 0
        policy = scene.policy(FOCUS, [ALICE, BOB], REUSED, [key(scene, key_type, 1, salt)])
        granted = scene.request(FOCUS, policy)
        for member in (ALICE, BOB):
            scene.transfer(FOCUS, granted, member)
        return scene.exchange()

    return make


def _focus_supplies(seed: str, folder: Path) -> Json:
    """The members call the focus, which gives all of them one GTGK and one RANDRr: they derive the same TEK (A-38)."""
    scene = Scene("psk256-derived-focus-supplies-gtgk", SUITE_256, seed, folder)
    gtgk = with_spi(KeyType.GTGK, scene.draw(32), b"", b"conf")
    randr_r = scene.draw(32)
    for member in (ALICE, CAROL):
        granted = scene.request(member, scene.policy(member, [FOCUS], BY_RESPONDER, []))
        scene.transfer(member, granted, FOCUS, keys=[gtgk], randr_r=randr_r)
    return scene.exchange()


def _group_identity(seed: str, folder: Path) -> Json:
    scene = Scene("psk256-derived-group-identity", SUITE_256, seed, folder, groups={GROUP: (BOB, CAROL)})
    policy = scene.policy(ALICE, [GROUP], REUSED, [key(scene, KeyType.TGK, 1)])
    granted = scene.request(ALICE, policy)
    for member in (BOB, CAROL):
        scene.transfer(ALICE, granted, GROUP, member)
    return scene.exchange()


def _cut(seed: str, folder: Path) -> Json:
    """The KMS cuts the validity to its limit and sets K."""
    scene = Scene("psk256-derived-validity-cut", SUITE_256, seed, folder, max_lifetime=LIFETIME)
    policy = scene.policy(ALICE, [BOB], keys=[key(scene, KeyType.TGK, 1)], lifetime=2 * LIFETIME)
    scene.transfer(ALICE, scene.request(ALICE, policy), BOB)
    return scene.exchange()


def _base_of_epoch(suite: Suite) -> Callable[[str, Path], Json]:
    """A MIKEY base ticket whose TPK comes from the epoch."""

    def make(seed: str, folder: Path) -> Json:
        scene = Scene(f"psk{suite.bits}-base-of-epoch-forked", suite, seed, folder)
        policy = scene.policy(ALICE, [BOB], keys=[key(scene, KeyType.TGK, 1)], kind=BASE_TICKET)
        scene.transfer(ALICE, scene.request(ALICE, policy), BOB)
        return scene.exchange()

    return make


def _shared_tpk(mode: int, flags: Flags) -> Callable[[str, Path], Json]:
    """Modes 2 to 4 (RFC 6043 4.1.1): a base ticket whose TPK the KMS or a party shares."""

    def make(seed: str, folder: Path) -> Json:
        scene = Scene(f"psk256-base-mode-{mode}", SUITE_256, seed, folder, shared_tpk=True)
        keys = [key(scene, KeyType.TGK, 1)]
        wanted = None if mode > 2 else keys
        policy = scene.policy(ALICE, [BOB], flags, wanted, BASE_TICKET)
        granted = scene.make(ALICE, policy, keys) if mode > 2 else scene.request(ALICE, policy)
        scene.transfer(ALICE, granted, BOB)
        return scene.exchange()

    return make


def _refused_by_kms(seed: str, folder: Path) -> Json:
    """The KMS does not grant what was asked for: an Error message that only the PSK's owner can verify (5.4)."""
    scene = Scene("psk256-derived-refused-by-KMS", SUITE_256, seed, folder)
    salted = with_spi(KeyType.TGK_SALT, bytes(32), bytes(33), b"salt")
    scene.refused_request(ALICE, scene.policy(ALICE, [BOB], keys=[salted]))
    return scene.exchange()


def _refused_by_responder(seed: str, folder: Path) -> Json:
    """The Responder wants another SRTP policy, which its Error message names (5.4, 6.1.1)."""
    scene = Scene("psk256-derived-refused-by-Responder", SUITE_256, seed, folder)
    granted = scene.request(ALICE, scene.policy(ALICE, [BOB], keys=[key(scene, KeyType.TGK, 1)]))
    scene.refuse(scene.offer(ALICE, granted, BOB), ErrorNo.INVALID_SPPAR, [SrtpPolicy().sp(0)])
    return scene.exchange()


_SCENES: tuple[Callable[[str, Path], Json], ...] = (
    _forked(SUITE_256),
    _forked(SUITE_128),
    _default_key(SUITE_256),
    _several_keys(SUITE_256, rules.FORKED_MODE_1, "forked"),
    _several_keys(SUITE_256, UNFORKED, "unforked"),
    _several_keys(SUITE_128, UNFORKED, "unforked"),
    _group_key(KeyType.TEK_SALT, SUITE_256),
    _group_key(KeyType.GTGK, SUITE_256),
    _group_key(KeyType.TEK_SALT, SUITE_128),
    _focus_supplies,
    _group_identity,
    _cut,
    _base_of_epoch(SUITE_256),
    _base_of_epoch(SUITE_128),
    _shared_tpk(2, UNFORKED & ~Flags.E),
    _shared_tpk(3, MODE_3_FLAGS),
    _shared_tpk(4, MODE_4_FLAGS),
    _refused_by_kms,
    _refused_by_responder,
)
