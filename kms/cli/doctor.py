"""`kms doctor`: how this KMS does its key operations, and what is wrong with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from kms.admin.v1.admin_pb2 import AdminRequest, DoctorReply, DoctorRequest
from kms.cli import home as home_folder
from kms.cli import output, tls
from kms.cli.admin import open_admin
from kms.cli.errors import CommandError
from kms.cli.keys import key_json, key_table
from kms.config import Config

EXIT_FINDINGS = 1

_WARN_DAYS = 30
_COMPOSED = "composed"
_ENGINE, _FRONTEND = "kms.engine.process", "kms.frontend.process"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `level` is ok, warning or error."""

    level: str
    text: str


def doctor_command(home: Path, *, as_json: bool) -> int:
    """Print what was found; 1 if anything is an error, else 0. Raises CommandError if there is no KMS to look at."""
    home = home_folder.resolve(home)
    config = home_folder.load(home)
    findings = [*_file_findings(home, config), *_tls_findings(config)]
    reply = DoctorReply()
    try:
        with open_admin(home) as admin:
            reply = admin.ask(AdminRequest(doctor=DoctorRequest())).doctor
            findings += _process_findings(home, running=admin.running)
            findings += _rung_findings(reply)
            findings += _rsa_findings(reply)
    except CommandError as error:
        findings.append(Finding("error", str(error)))
    findings += [Finding(finding.level, finding.text) for finding in reply.findings]
    if as_json:
        output.print_json(_json(reply, findings))
    else:
        _print(reply, findings)
    return EXIT_FINDINGS if any(finding.level == "error" for finding in findings) else 0


def _file_findings(home: Path, config: Config) -> Iterator[Finding]:
    """Secrets must be readable by their owner alone."""
    peers = [path for peer in config.peers.values() for path in (peer.psk, peer.key)]
    secrets = (home, config.pin_file, config.tls_key, home / home_folder.TLS_CA_KEY, *peers)
    for path in secrets:
        try:
            mode = path.stat().st_mode & 0o777
        except FileNotFoundError:
            if path == home / home_folder.TLS_CA_KEY:
                yield Finding("warning", f"{path} is not here: users can be enrolled only where it is")
            else:
                yield Finding("error", f"{path} does not exist")
            continue
        except OSError as error:
            yield Finding("error", f"{path}: {error.strerror}")
            continue
        if mode & 0o077:
            yield Finding("error", f"{path} has mode {mode:04o}: others may use it; run `chmod go= {path}`")
        else:
            yield Finding("ok", f"{path} has mode {mode:04o}")


def _tls_findings(config: Config) -> Iterator[Finding]:
    own = [config.pk_cert] if config.pk_cert.exists() else []  # none: the token has no RSA key
    for path in dict.fromkeys((config.tls_ca, config.tls_cert, config.pk_ca, *own)):
        try:
            certificate = tls.load_certificate(path)
        except CommandError as error:
            yield Finding("error", str(error))
            continue
        end = certificate.not_valid_after_utc
        days = (end - datetime.now(UTC)).days
        expiry = f"certificate {path} expires on {end:%Y-%m-%d}, in {days} days"
        if days < 0:
            yield Finding(
                "error", f"certificate {path} expired on {end:%Y-%m-%d}: put a new one in its place"
            )
        else:
            yield Finding("warning" if days < _WARN_DAYS else "ok", expiry)


def _rung_findings(reply: DoctorReply) -> Iterator[Finding]:
    # Ciphers are composed of CKM_AES_ECB, through which no key passes.
    composed = [
        rung.operation
        for rung in reply.rungs
        if rung.rung == _COMPOSED and not rung.operation.startswith("encrypt")
    ]
    if composed:
        yield Finding(
            "warning",
            f"composed, so that bytes of derived keys pass through the engine's memory: {'; '.join(composed)}",
        )
    elif reply.rungs:
        yield Finding("ok", "the token derives every key itself")


def _rsa_findings(reply: DoctorReply) -> Iterator[Finding]:
    keys = [key.label for key in reply.keys if key.kind.startswith("RSA")]
    if keys:
        yield Finding("ok", f"public-key messages: envelope keys are opened in the token with {keys[0]!r}")
    else:
        yield Finding("ok", "public-key messages are refused: the token has no RSA key")


def _process_findings(home: Path, *, running: bool) -> Iterator[Finding]:
    """Whether the frontend-engine split is a security boundary here."""
    if not running:
        yield Finding("ok", "the server does not run: user ids of its processes not known")
        return
    engines, frontends = _user_ids(home, _ENGINE), _user_ids(home, _FRONTEND)
    if not engines or not frontends:
        yield Finding(
            "warning", "the server's processes are not visible from here: their user ids are not known"
        )
    elif engines & frontends:
        yield Finding(
            "warning",
            "frontend and engine run under one user id: the split isolates faults, it is not a security boundary",
        )
    else:
        yield Finding(
            "ok", "frontend and engine run under several user ids: the split is a security boundary"
        )


def _user_ids(home: Path, module: str) -> set[int]:
    """The user ids of this home's processes of a kind."""
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            uid = _real_uid(process)
        except OSError:
            continue
        if module in arguments and str(home) in arguments:
            found.add(uid)
    return found


def _real_uid(process: Path) -> int:
    # Not the owner of /proc/PID: that is root for a process that forbids core dumps.
    for line in (process / "status").read_text().splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    raise OSError(f"{process}/status has no Uid line")


def _print(reply: DoctorReply, findings: list[Finding]) -> None:
    console = output.console()
    if reply.token:
        console.print(Text(f"Token {reply.token}, library {reply.library}"))
        rungs = [(rung.operation, rung.rung, rung.mechanism) for rung in reply.rungs]
        console.print(output.table("Key operations", ("operation", "rung", "mechanism"), rungs))
        console.print(Text(f"Mechanisms: {', '.join(reply.mechanisms)}"))
        console.print(key_table(reply.keys))
    rows = [
        (Text(finding.level, style=output.LEVEL_STYLES.get(finding.level, "")), finding.text)
        for finding in findings
    ]
    console.print(output.table("Findings", ("level", "finding"), rows))


def _json(reply: DoctorReply, findings: list[Finding]) -> dict[str, Any]:
    return {
        "token": reply.token,
        "library": reply.library,
        "operations": [
            {"operation": rung.operation, "rung": rung.rung, "mechanism": rung.mechanism}
            for rung in reply.rungs
        ],
        "mechanisms": list(reply.mechanisms),
        "keys": [key_json(key) for key in reply.keys],
        "findings": [{"level": finding.level, "text": finding.text} for finding in findings],
    }
