"""`kms user`: enrol, list, revoke.

The enrolment file is the one place a PSK goes: never standard output, a log or a command line.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kms.admin.v1 import admin_pb2
from kms.admin.v1.admin_pb2 import (
    AddUserReply,
    AddUserRequest,
    AdminRequest,
    ListUsersRequest,
    RevokeUserRequest,
    SharedTpk,
)
from kms.cli import home as home_folder
from kms.cli import output, tls
from kms.cli.admin import open_admin
from kms.cli.errors import CommandError
from kms.config import Address, Config
from kms.crypto.suite import SUITES, suite_of

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_MAX_URI = 1024
_ROLES = {
    "client": admin_pb2.ROLE_CLIENT,
    "focus": admin_pb2.ROLE_FOCUS,
    "gateway": admin_pb2.ROLE_GATEWAY,
    "peer": admin_pb2.ROLE_PEER,
}
_ROLE_NAMES = {number: name for name, number in _ROLES.items()}
_TPK_ROLES = {
    "responder": admin_pb2.TPK_ROLE_RESPONDER,
    "initiator": admin_pb2.TPK_ROLE_INITIATOR,
}
_TPK_ROLE_NAMES = {number: name for name, number in _TPK_ROLES.items()}


@dataclass(frozen=True)
class Enrolment:
    """Who is to be enrolled, as typed. `suite` is in bits; `target` is HOST:PORT, None for where the KMS listens.

    By `cert`, a file with its certificate (PEM), or `pk`, a new RSA key certified by the home's CA; else with a PSK.
    `share_tpk` are the roles (responder, initiator) that it gets a TPK of the KMS for, `share_tpk_with` the users that
    it gets one in common with.
    """

    identity: str
    role: str
    suite: int
    aliases: tuple[str, ...] = ()
    acts_for: tuple[str, ...] = ()
    target: str | None = None
    cert: Path | None = None
    pk: bool = False
    share_tpk: tuple[str, ...] = ()
    share_tpk_with: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise CommandError for what can be seen to be wrong without asking the KMS."""
        check_uri(self.identity, "URI")
        for alias in self.aliases:
            check_uri(alias, "--alias")
        for peer in self.share_tpk_with:
            check_uri(peer, "--share-tpk-with")
        if self.role not in ("client", "focus") and (self.share_tpk or self.share_tpk_with):
            raise CommandError("a TPK is shared with clients and foci only: leave --share-tpk out")
        if self.role == "gateway" and not self.acts_for:
            raise CommandError("a gateway needs --acts-for PATTERN: whose messages it may carry")
        if self.role == "peer" and not self.acts_for:
            raise CommandError("a peer needs --acts-for PATTERN: for whom it may have tickets resolved")
        if self.role not in ("gateway", "peer") and self.acts_for:
            raise CommandError("--acts-for is for gateways and peers: give --role or leave it out")
        if self.role == "gateway" and self.aliases:
            raise CommandError("a gateway speaks for nobody in MIKEY messages: leave --alias out")
        if self.cert is not None and self.pk:
            raise CommandError("--cert brings a certificate and --pk makes one: give one of them")
        if self.role not in ("client", "focus") and (self.cert is not None or self.pk):
            raise CommandError("--cert and --pk are for clients and foci: leave them out")
        if self.role == "peer" and self.aliases:
            raise CommandError("a peer speaks for those of --acts-for: leave --alias out")


@dataclass(frozen=True)
class _Signer:
    """How a user signs: its certificate and those that certify it, and its key (PEM) if it was made here.

    Without certificate it has a PSK.
    """

    chain: Sequence[x509.Certificate] = ()
    key: str | None = field(default=None, repr=False)


def check_uri(uri: str, what: str) -> None:
    """Raise CommandError unless uri can be an identity and the subjectAltName of a certificate."""
    if not _URI.fullmatch(uri) or len(uri) > _MAX_URI:
        raise CommandError(f"{what} {uri!r}: must be a URI of printable ASCII, such as sip:alice@example.com")


def add_command(home: Path, enrolment: Enrolment, out: Path | None, *, as_json: bool) -> None:
    """Enrol a user and write the enrolment file, which must not exist. Raises CommandError."""
    enrolment.check()
    home = home_folder.resolve(home)
    config = home_folder.load(home)
    target = enrolment.target or default_target(config)
    ca = tls.load_ca(config.tls_ca, home / home_folder.TLS_CA_KEY)
    signer = _signer(enrolment, ca)
    path = (out or Path(default_file_name(enrolment.identity))).expanduser()
    # The file comes first: once the KMS has enrolled the user, there must be a place for the PSK.
    _reserve(path)
    try:
        with open_admin(home) as admin:
            request = _request(enrolment)
            request.certificates.extend(
                certificate.public_bytes(Encoding.DER) for certificate in signer.chain
            )
            reply = admin.ask(AdminRequest(add_user=request)).add_user
        certificate = tls.issue_client(ca, enrolment.identity)
        path.write_text(
            json.dumps(_credentials(enrolment, target, reply, signer, ca, certificate), indent=2) + "\n"
        )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if as_json:
        output.print_json(
            {"identity": enrolment.identity, "role": enrolment.role, "target": target, "file": str(path)}
        )
    else:
        print(
            f"enrolled {enrolment.identity} as {enrolment.role}; enrolment file (mode 0600, keep it secret): {path}"
        )


def list_command(home: Path, *, as_json: bool) -> None:
    """Print the users. Raises CommandError."""
    with open_admin(home_folder.resolve(home)) as admin:
        users = admin.ask(AdminRequest(list_users=ListUsersRequest())).list_users.users
    if as_json:
        output.print_json([_user_json(user) for user in users])
        return
    rows = [
        (
            user.identity,
            _ROLE_NAMES.get(user.role, "?"),
            "revoked" if user.revoked else "enrolled",
            str(user.version),
            output.utc(user.enrolled_at),
            " ".join(
                [
                    *user.aliases,
                    *(f"acts for {pattern}" for pattern in user.acts_for),
                    *_by_certificate(user),
                    *_tpks_of(user),
                ]
            ),
        )
        for user in users
    ]
    columns = ("identity", "role", "state", "version", "enrolled", "aliases and rights")
    output.console().print(
        output.table("Users", columns, rows) if rows else "No users: add one with `kms user add`."
    )


def revoke_command(home: Path, uri: str) -> None:
    """Revoke a user. Raises CommandError."""
    with open_admin(home_folder.resolve(home)) as admin:
        admin.ask(AdminRequest(revoke_user=RevokeUserRequest(identity=uri)))
    print(f"revoked {uri}")


def default_target(config: Config) -> str:
    """Where clients find a KMS that listens as config says. Raises CommandError where that cannot be known."""
    address = config.grpc
    if address.port == 0:
        raise CommandError(
            "kms.toml leaves the port open (0): give --target HOST:PORT, which `kms serve` printed"
        )
    if tls.is_wildcard(address.host):
        return str(Address(tls.server_hosts(address.host)[-1], address.port))
    return str(address)


def default_file_name(identity: str) -> str:
    """A file name for an identity: sip:alice@example.com becomes sip-alice@example.com.json."""
    return re.sub(r"[^A-Za-z0-9@._-]+", "-", identity).lstrip(".-") + ".json"


def _reserve(path: Path) -> None:
    if str(path) == "-":
        raise CommandError("the enrolment file holds a PSK, which is never printed: give --out FILE")
    try:
        home_folder.write_new(path, b"")
    except FileExistsError:
        raise CommandError(f"{path} exists: give another --out FILE, or move it away") from None
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}; give another --out FILE") from None


def _signer(enrolment: Enrolment, ca: tls.Issued) -> _Signer:
    if enrolment.cert is not None:
        return _Signer(tls.load_certificates(enrolment.cert.expanduser()))
    if enrolment.pk:
        issued = tls.issue_signer(ca, enrolment.identity)
        return _Signer((issued.certificate,), issued.key_pem().decode())
    return _Signer()


def _request(enrolment: Enrolment) -> AddUserRequest:
    return AddUserRequest(
        identity=enrolment.identity,
        role=_ROLES[enrolment.role],
        prf_func=SUITES[enrolment.suite].prf,
        acts_for=enrolment.acts_for,
        aliases=enrolment.aliases,
        share_tpk=[_TPK_ROLES[role] for role in enrolment.share_tpk],
        share_tpk_with=enrolment.share_tpk_with,
    )


def _credentials(
    enrolment: Enrolment,
    target: str,
    reply: AddUserReply,
    signer: _Signer,
    ca: tls.Issued,
    certificate: tls.Issued,
) -> dict[str, Any]:
    """What the enrolment file holds; binary values are hex, `suite` is in bits, certificates and key are PEM."""
    psks = [
        {"suite": suite_of(psk.prf_func).bits, "psk_id": psk.psk_id.hex(), "psk": psk.psk.hex()}
        for psk in reply.psks
    ]
    psks.sort(key=lambda psk: psk["suite"] != enrolment.suite)
    credentials: dict[str, Any] = {
        "identity": enrolment.identity,
        "kms_identity": reply.kms_identity,
        "target": target,
        "role": enrolment.role,
    }
    if psks:
        credentials |= psks[0]
    if len(psks) > 1:
        credentials["psks"] = psks
    if signer.chain:
        credentials["suite"] = enrolment.suite
        credentials["cert"] = "".join(tls.pem(certificate) for certificate in signer.chain)
        if signer.key is not None:
            credentials["key"] = signer.key
        credentials["kms_cert"] = tls.pem(x509.load_der_x509_certificate(reply.kms_certificate))
    if reply.tpks:
        credentials["tpks"] = [_tpk(tpk) for tpk in reply.tpks]
    return credentials | {
        "ca_cert": ca.certificate_pem().decode(),
        "tls_cert": certificate.certificate_pem().decode(),
        "tls_key": certificate.key_pem().decode(),
    }


def _tpk(shared: SharedTpk) -> dict[str, Any]:
    tpk = {
        "role": _TPK_ROLE_NAMES[shared.role],
        "suite": suite_of(shared.prf_func).bits,
        "tpk_id": shared.tpk_id.hex(),
        "tpk": shared.tpk.hex(),
    }
    return {**tpk, "peer": shared.peer} if shared.peer else tpk


def _by_certificate(user: admin_pb2.User) -> list[str]:
    return [f"signs by certificate {user.certificate_sha256.hex()[:16]}"] if user.certificate_sha256 else []


def _tpks_of(user: admin_pb2.User) -> list[str]:
    return [f"TPK as {_TPK_ROLE_NAMES.get(role, '?')}" for role in user.tpk_roles]


def _user_json(user: admin_pb2.User) -> dict[str, Any]:
    return {
        "identity": user.identity,
        "role": _ROLE_NAMES.get(user.role, "?"),
        "version": user.version,
        "revoked": user.revoked,
        "aliases": list(user.aliases),
        "acts_for": list(user.acts_for),
        "enrolled_at": user.enrolled_at,
        "share_tpk": [_TPK_ROLE_NAMES.get(role, "?") for role in user.tpk_roles],
        "certificate_sha256": user.certificate_sha256.hex() or None,
    }
