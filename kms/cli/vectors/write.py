"""`kms vectors write`: this project's own vectors, drawn from a seed and played by the real code."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from kms.cli.errors import CommandError
from kms.cli.vectors.derived_exchanges import write_exchanges
from kms.cli.vectors.derived_negatives import write_negatives
from kms.cli.vectors.entries import Json
from kms.cli.vectors.forwarding_exchanges import write_forwarding
from kms.cli.vectors.primitives import OWN_LABELS, own
from kms.cli.vectors.scene import ALICE, BOB, Draw

SEED = "MIKEY-TICKET derived tickets"
"""The seed of the vectors in tests/vectors."""

_ABOUT = "made by kms vectors write; docs/vectors.md describes the format"


def write_command(folder: Path, *, seed: str) -> int:
    """Write the vector files into a folder, which is made if it is not there. Raises CommandError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents(seed).items():
            file = folder / f"{name}.json"
            file.write_text(content)
            print(file)
    except OSError as error:
        raise CommandError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    return 0


def contents(seed: str) -> dict[str, str]:
    """The text of each file by its name, the same for the same seed."""
    with TemporaryDirectory() as folder:
        found: dict[str, Json] = {
            "derived-primitives": {"own_derivations": _own_derivations(Draw(seed, "primitives"))},
            "derived-exchanges": {"exchanges": write_exchanges(seed, Path(folder))},
            "derived-negatives": {"negatives": write_negatives(seed, Path(folder))},
            "forwarding-exchanges": {"exchanges": write_forwarding(seed, Path(folder) / "forwarding")},
        }
    return {name: json.dumps({"about": _ABOUT, **entry}, indent=1) + "\n" for name, entry in found.items()}


def _own_derivations(draw: Draw) -> list[Json]:
    """One entry for each label and, where it has fields, for different ones."""
    fields: dict[str, list[Json]] = {
        "user branch": [
            {"identity": identity.hex(), "version": version, "prf": prf}
            for identity, version, prf in ((ALICE, 1, 1), (ALICE, 1, 0), (ALICE, 2, 1), (b"", 0, 1))
        ],
        "ticket branch": [
            {"rand": draw(32).hex(), "thdr_data": draw(thdr).hex(), "ticket_body": draw(body).hex()}
            for thdr, body in ((9, 150), (18, 151), (0, 0))
        ],
        "session key": [{"index": index} for index in (0, 1, 15)],
        "session salt": [{"index": index} for index in (0, 1, 15)],
        "shared TPK": [
            {
                "mode": mode,
                "owner": ALICE.hex(),
                "version": 1,
                "peer": peer.hex(),
                "peer_version": version,
                "prf": 1,
            }
            for mode, peer, version in ((2, b"", 0), (3, b"", 0), (4, BOB, 3))
        ],
    }
    lengths = {"ticket MAC key": (20, 32), "session key": (16, 32), "session salt": (14,)}
    return [
        _own_derivation(name, given, draw(32), length)
        for name in OWN_LABELS
        for given in fields.get(name, [{}])
        for length in lengths.get(name, (32,))
    ]


def _own_derivation(name: str, given: Json, aes_key: bytes, length: int) -> Json:
    entry = {"name": name, **given, "aes_key": aes_key.hex()}
    label = OWN_LABELS[name](entry)
    return entry | {"label": label.hex(), "outkey": own(aes_key, label, length).hex()}
