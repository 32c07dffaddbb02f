"""`kms peer add`: enter another KMS, which gave this one an enrolment file, into the home.

The file holds the PSK of this KMS with the other and a TLS key. The engines need the one, the frontend the other, and
the frontend must not have the PSK: so they become files of their own.
"""

import json
import shutil
from pathlib import Path

from kms.cli import home as home_folder
from kms.cli.errors import CommandError
from kms.cli.users import default_file_name
from kms.config import CONFIG_NAME, Config, peer_table
from kms.party.credential import Credential, CredentialError

_FOLDER = Path("peers")


def add_command(home: Path, file: Path) -> None:
    """Split the enrolment file and append the peer to kms.toml. Raises CommandError."""
    home = home_folder.resolve(home)
    config = home_folder.load(home)
    credential = _load(file.expanduser(), config)
    folder = _FOLDER / default_file_name(credential.kms_identity).removesuffix(".json")
    paths = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key")} | {"psk": folder / "psk.json"}
    contents = {
        "ca": credential.ca_cert,
        "cert": credential.tls_cert,
        "key": credential.tls_key,
        "psk": _psk_json(credential),
    }
    try:
        (home / _FOLDER).mkdir(mode=0o700, exist_ok=True)
        (home / folder).mkdir(mode=0o700)
    except FileExistsError:
        raise CommandError(f"{home / folder} exists: move it away to enter this peer again") from None
    except OSError as error:
        raise CommandError(f"{home / folder}: {error.strerror}") from None
    try:
        for name, path in paths.items():
            home_folder.write_new(home / path, contents[name].encode())
        values = {"target": credential.target, **{name: str(path) for name, path in paths.items()}}
        with (home / CONFIG_NAME).open("a", encoding="utf-8") as stream:
            stream.write(peer_table(credential.kms_identity, values))
    except OSError as error:
        shutil.rmtree(home / folder)
        raise CommandError(f"{error.filename or home}: {error.strerror}") from None
    print(
        f"peer {credential.kms_identity} at {credential.target} entered into {home / CONFIG_NAME}; "
        f"restart `kms serve`, then delete {file}"
    )


def _load(file: Path, config: Config) -> Credential:
    try:
        credential = Credential.load(file)
    except CredentialError as error:
        raise CommandError(str(error)) from None
    if credential.role != "peer":
        raise CommandError(f"{file} enrols a {credential.role}: it must be made with --role peer")
    if credential.identity != config.identity:
        raise CommandError(
            f"{file} is for {credential.identity}, but this KMS is {config.identity}: "
            "its operator must enrol this KMS by that URI"
        )
    if credential.kms_identity == config.identity:
        raise CommandError(f"{file} was made by a KMS with this KMS's own identity, {config.identity}")
    if credential.kms_identity in config.peers:
        raise CommandError(
            f"{credential.kms_identity} is a peer already: remove its table from {CONFIG_NAME}"
        )
    return credential


def _psk_json(credential: Credential) -> str:
    psks = [{"suite": psk.suite, "psk_id": psk.psk_id.hex(), "psk": psk.psk.hex()} for psk in credential.psks]
    return json.dumps({"kms_identity": credential.kms_identity, "psks": psks}, indent=2) + "\n"
