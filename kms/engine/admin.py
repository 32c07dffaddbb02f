"""Operators' commands, as they come over the local admin socket or from `kms` itself while no server runs."""

from hashlib import sha256

import structlog

from hsm import Token
from kms.admin.v1 import admin_pb2 as pb
from kms.crypto.suite import SUITES
from kms.engine import epochs as epoch_names
from kms.engine import public_key
from kms.engine.context import Context
from kms.engine.directory import DirectoryError, Role, TpkRole, User
from kms.engine.epochs import Epochs
from kms.engine.psk import DiversifiedPsks, encode_psk_id
from kms.engine.shared_tpks import DiversifiedTpks, is_shared_tpk_master, release_tpks
from kms.mikey.registry import PrfFunc

_ROLES = {
    pb.ROLE_CLIENT: Role.CLIENT,
    pb.ROLE_FOCUS: Role.FOCUS,
    pb.ROLE_GATEWAY: Role.GATEWAY,
    pb.ROLE_PEER: Role.PEER,
}
_ROLE_NUMBERS = {role: number for number, role in _ROLES.items()}
_TPK_ROLES = {pb.TPK_ROLE_RESPONDER: TpkRole.RESPONDER, pb.TPK_ROLE_INITIATOR: TpkRole.INITIATOR}
_TPK_ROLE_NUMBERS = {role: number for number, role in _TPK_ROLES.items()}

_log = structlog.get_logger()


class Administration:
    """Answers AdminRequests for one engine."""

    def __init__(
        self, context: Context, token: Token, psks: DiversifiedPsks, epochs: Epochs, tpks: DiversifiedTpks
    ) -> None:
        self._context = context
        self._directory = context.directory
        self._token = token
        self._psks = psks
        self._epochs = epochs
        self._tpks = tpks

    def handle(self, request: pb.AdminRequest, uid: int) -> pb.AdminReply:
        """One reply; what the operator did wrong becomes an AdminError."""
        kind = request.WhichOneof("request")
        try:
            if kind == "add_user":
                return pb.AdminReply(add_user=self._add_user(request.add_user, uid))
            if kind == "list_users":
                return pb.AdminReply(list_users=pb.ListUsersReply(users=map(_user, self._directory.all())))
            if kind == "revoke_user":
                self._directory.revoke(request.revoke_user.identity.encode())
                _log.info("user revoked", identity=request.revoke_user.identity, uid=uid)
                return pb.AdminReply(revoke_user=pb.RevokeUserReply())
            if kind == "add_member":
                return pb.AdminReply(add_member=self._add_member(request.add_member, uid))
            if kind == "remove_member":
                return pb.AdminReply(remove_member=self._remove_member(request.remove_member, uid))
            if kind == "list_groups":
                return pb.AdminReply(list_groups=pb.ListGroupsReply(groups=self._groups()))
            if kind == "doctor":
                return pb.AdminReply(doctor=self._doctor())
            if kind == "list_keys":
                return pb.AdminReply(list_keys=pb.ListKeysReply(keys=self._keys()))
        except DirectoryError as error:
            return pb.AdminReply(error=pb.AdminError(message=str(error)))
        return pb.AdminReply(
            error=pb.AdminError(message="unknown command: is `kms` of the server's version?")
        )

    def _add_user(self, request: pb.AddUserRequest, uid: int) -> pb.AddUserReply:
        role = _ROLES.get(request.role)
        if role is None:
            raise DirectoryError("a role is needed: client, focus, gateway or peer")
        _check_uri(request.identity)
        for alias in request.aliases:
            _check_uri(alias)
        self._check_shares(request, role)
        identity = request.identity.encode()
        certificate = public_key.check_enrolment(self._context, identity, role, request.certificates)
        user = self._directory.enrol(
            identity,
            role,
            tpk_roles=[_TPK_ROLES[number] for number in request.share_tpk],
            aliases=tuple(alias.encode() for alias in request.aliases),
            acts_for=tuple(request.acts_for),
            certificate=certificate,
        )
        _log.info("user enrolled", identity=request.identity, role=role.value, version=user.version, uid=uid)
        suites = _suites(role, request.prf_func)
        return pb.AddUserReply(
            kms_identity=self._context.kms_identity.decode(),
            psks=[
                pb.PreSharedKey(
                    prf_func=prf,
                    psk_id=encode_psk_id(identity, user.version),
                    psk=self._psks.release(identity, user.version, prf),
                )
                for prf in (suites if certificate is None else ())
            ],
            kms_certificate=b"" if certificate is None else public_key.own_certificate(self._context),
            tpks=[
                pb.SharedTpk(
                    prf_func=prf, role=_TPK_ROLE_NUMBERS[tpk_role], peer=peer or "", tpk_id=tpk_id, tpk=tpk
                )
                for prf in suites
                for tpk_role, peer, tpk_id, tpk in release_tpks(
                    self._tpks, self._directory, user, request.share_tpk_with, prf
                )
            ],
        )

    def _check_shares(self, request: pb.AddUserRequest, role: Role) -> None:
        """Raise DirectoryError unless the TPKs that are to be shared can be: before anybody is enrolled."""
        if not request.share_tpk and not request.share_tpk_with:
            return
        if role not in (Role.CLIENT, Role.FOCUS):
            raise DirectoryError("a TPK is shared with clients and foci only")
        if any(number not in _TPK_ROLES for number in request.share_tpk):
            raise DirectoryError("a TPK is shared with a responder or an initiator")
        for peer in request.share_tpk_with:
            _check_uri(peer)
            if peer == request.identity:
                raise DirectoryError(f"{peer} cannot share a TPK with itself")
        if not self._tpks.available:
            raise DirectoryError(
                "the token has no shared TPK master, which `kms init` makes: it was set up by an older version"
            )

    def _add_member(self, request: pb.AddMemberRequest, uid: int) -> pb.AddMemberReply:
        for uri in (request.group, request.identity):
            _check_uri(uri)
        self._directory.add_member(request.group.encode(), request.identity.encode())
        _log.info("group member added", group=request.group, identity=request.identity, uid=uid)
        user = self._directory.find(request.identity.encode())
        return pb.AddMemberReply(enrolled=user is not None and not user.revoked)

    def _remove_member(self, request: pb.RemoveMemberRequest, uid: int) -> pb.RemoveMemberReply:
        self._directory.remove_member(request.group.encode(), request.identity.encode())
        _log.info("group member removed", group=request.group, identity=request.identity, uid=uid)
        return pb.RemoveMemberReply()

    def _groups(self) -> list[pb.Group]:
        return [
            pb.Group(name=name.decode(), members=sorted(member.decode() for member in members))
            for name, members in self._directory.groups()
        ]

    def _doctor(self) -> pb.DoctorReply:
        probe = self._token.probe
        return pb.DoctorReply(
            token=probe.token,
            library=probe.library,
            rungs=[
                pb.OperationRung(operation=r.operation, rung=r.rung, mechanism=r.mechanism)
                for r in probe.rungs
            ],
            mechanisms=list(probe.mechanisms),
            keys=self._keys(),
            findings=[pb.Finding(level="warning", text=weakness) for weakness in probe.weaknesses],
        )

    def _keys(self) -> list[pb.MasterKey]:
        keys = []
        for info in self._token.masters():
            number = epoch_names.number_of(info.label)
            keys.append(
                pb.MasterKey(
                    label=info.label,
                    kind=_kind(info.label),
                    fingerprint=info.fingerprint,
                    created_at=info.created or 0,
                    destroy_at=0 if number is None else self._epochs.destroy_at(number),
                )
            )
        rsa_key = public_key.find(self._token)
        if rsa_key is not None:
            kind, mark = f"RSA {rsa_key.key_size}", public_key.fingerprint(rsa_key)
            keys.append(pb.MasterKey(label=public_key.LABEL, kind=kind, fingerprint=mark))
        return keys


def _kind(label: str) -> str:
    if epoch_names.number_of(label) is not None:
        return "TPK epoch"
    return "shared TPK master" if is_shared_tpk_master(label) else "PSK master"


def _suites(role: Role, prf_func: int) -> list[PrfFunc]:
    """Focus and peer are enrolled in both suites, the asked one first: so they can resolve every client's tickets."""
    if role is Role.GATEWAY:
        return []
    known = [suite.prf for suite in SUITES.values()]
    if prf_func not in known:
        raise DirectoryError(f"PRF func {prf_func} is unknown: 0 (128-bit suite) or 1 (256-bit suite)")
    chosen = PrfFunc(prf_func)
    return [chosen, *(prf for prf in known if prf != chosen)] if role in (Role.FOCUS, Role.PEER) else [chosen]


def _check_uri(identity: str) -> None:
    scheme, colon, rest = identity.partition(":")
    if not (scheme.isalnum() and colon and rest) or any(c.isspace() or not c.isprintable() for c in identity):
        raise DirectoryError(f"{identity!r} is not a URI such as sip:alice@example.com")


def _user(user: User) -> pb.User:
    return pb.User(
        identity=user.identity.decode(),
        role=_ROLE_NUMBERS[user.role],
        version=user.version,
        revoked=user.revoked,
        acts_for=user.acts_for,
        aliases=sorted(alias.decode() for alias in user.aliases),
        enrolled_at=user.enrolled_at,
        certificate_sha256=b"" if user.certificate is None else sha256(user.certificate).digest(),
        tpk_roles=sorted(_TPK_ROLE_NUMBERS[role] for role in user.tpk_roles),
    )
