"""The directory: who is enrolled, with which role, aliases and groups. SQLite, one file in the home folder.

It holds no key (PSKs are derived) and nothing about calls. Engine 0 writes it for the operator; every engine reads.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path

_MIGRATIONS = (
    """
CREATE TABLE users (
    identity TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    version INTEGER NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0,
    acts_for TEXT NOT NULL DEFAULT '[]',
    enrolled_at INTEGER NOT NULL,
    certificate BLOB
) STRICT;
CREATE TABLE aliases (alias TEXT PRIMARY KEY, identity TEXT NOT NULL REFERENCES users) STRICT;
CREATE INDEX aliases_of ON aliases (identity);
CREATE TABLE members (name TEXT NOT NULL, identity TEXT NOT NULL, PRIMARY KEY (identity, name)) STRICT
""",
    """
CREATE TABLE shared_tpks (
    identity TEXT NOT NULL REFERENCES users,
    role TEXT NOT NULL,
    PRIMARY KEY (identity, role)
) STRICT
""",
)
"""What makes each version of the schema from the one before, from version 0, an empty file."""


class Role(Enum):
    """What a subscriber may do: a focus may have group keys; a gateway carries others' messages and has no PSK; a peer
    is another KMS, which has our tickets resolved for its subscribers.
    """

    CLIENT = "client"
    FOCUS = "focus"
    GATEWAY = "gateway"
    PEER = "peer"


class TpkRole(Enum):
    """What for a subscriber shares a TPK with the KMS: for opening tickets (mode 2), or for making them (mode 3)."""

    RESPONDER = "responder"
    INITIATOR = "initiator"


class DirectoryError(Exception):
    """A change to the directory is refused; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class User:
    """One enrolled identity (a URI in UTF-8). `version` grows with each enrolment; `groups` are names of IDRr.

    One that signs is enrolled with its `certificate` (DER).
    """

    identity: bytes
    role: Role
    version: int
    revoked: bool = False
    aliases: frozenset[bytes] = frozenset()
    groups: frozenset[bytes] = frozenset()
    acts_for: tuple[str, ...] = ()
    enrolled_at: int = 0
    certificate: bytes | None = None
    tpk_roles: frozenset[TpkRole] = frozenset()

    def may_speak_as(self, identity: bytes) -> bool:
        """Whether `identity` is the user's own or one of its aliases, byte for byte."""
        return identity == self.identity or identity in self.aliases

    def may_carry(self, identity: bytes) -> bool:
        """Whether this gateway may carry messages of `identity`."""
        return self.role is Role.GATEWAY and self._acts_for(identity)

    def may_resolve_for(self, identity: bytes) -> bool:
        """Whether this peer may have tickets resolved for a responder that is its subscriber."""
        return self.role is Role.PEER and self._acts_for(identity)

    def _acts_for(self, identity: bytes) -> bool:
        # `*` is the one wildcard: brackets are those of an IPv6 address, a question mark that of a URI's headers.
        text = identity.decode("utf-8", "replace")
        literal = (pattern.replace("[", "[[]").replace("?", "[?]") for pattern in self.acts_for)
        return any(fnmatchcase(text, pattern) for pattern in literal)


class Directory:
    """The directory in an SQLite file."""

    def __init__(self, path: Path) -> None:
        """Open, and make if new. Raises DirectoryError."""
        try:
            # SQLite gives the files that it puts beside it the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate()
        except (sqlite3.Error, OSError) as error:
            raise DirectoryError(f"{path}: the directory cannot be opened: {error}") from None

    def _migrate(self) -> None:
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > len(_MIGRATIONS):
                raise DirectoryError(
                    f"the directory has schema {version}, newer than this program's {len(_MIGRATIONS)}"
                )
            for migration in _MIGRATIONS[version:]:
                for statement in migration.split(";"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)

    def find(self, identity: bytes) -> User | None:
        """The user with this identity (not an alias), revoked or not; None if there is none."""
        try:
            text = _text(identity)
        except UnicodeDecodeError:
            return None
        row = self._db.execute(
            "SELECT role, version, revoked, acts_for, enrolled_at, certificate FROM users WHERE identity = ?",
            (text,),
        ).fetchone()
        if row is None:
            return None
        role, version, revoked, acts_for, enrolled_at, certificate = row
        return User(
            identity,
            Role(role),
            version,
            bool(revoked),
            self._names("SELECT alias FROM aliases WHERE identity = ?", identity),
            self.groups_of(identity),
            tuple(json.loads(acts_for)),
            enrolled_at,
            certificate,
            frozenset(
                TpkRole(name.decode())
                for name in self._names("SELECT role FROM shared_tpks WHERE identity = ?", identity)
            ),
        )

    def certificate_of(self, identity: bytes) -> bytes | None:
        """The certificate (DER) that an identity is enrolled with; None for whoever has none or is unknown.

        One query for everybody: it is asked before the sender is authenticated.
        """
        try:
            text = _text(identity)
        except UnicodeDecodeError:
            return None
        row = self._db.execute("SELECT certificate FROM users WHERE identity = ?", (text,)).fetchone()
        return None if row is None else row[0]

    def is_ours(self, identity: bytes) -> bool:
        """Whether somebody here is or was enrolled with this identity, or has it as an alias."""
        try:
            text = _text(identity)
        except UnicodeDecodeError:
            return False
        query = "SELECT 1 FROM users WHERE identity = ? UNION SELECT 1 FROM aliases WHERE alias = ?"
        return self._db.execute(query, (text, text)).fetchone() is not None

    def groups_of(self, identity: bytes) -> frozenset[bytes]:
        """The groups that an identity is in, also one that is enrolled with another KMS only."""
        try:
            return self._names("SELECT name FROM members WHERE identity = ?", identity)
        except UnicodeDecodeError:
            return frozenset()

    def all(self) -> list[User]:
        """Every user, by identity."""
        rows = self._db.execute("SELECT identity FROM users ORDER BY identity").fetchall()
        found = (self.find(identity.encode()) for (identity,) in rows)
        return [user for user in found if user is not None]

    def enrol(
        self,
        identity: bytes,
        role: Role,
        *,
        aliases: tuple[bytes, ...] = (),
        acts_for: tuple[str, ...] = (),
        certificate: bytes | None = None,
        tpk_roles: Iterable[TpkRole] = (),
    ) -> User:
        """Add a user, or a revoked one again with the next version, no alias and no group of before.

        Raises DirectoryError if it is enrolled.
        """
        with self._transaction():
            old = self.find(identity)
            if old is not None and not old.revoked:
                raise DirectoryError(f"{_text(identity)} is enrolled already: revoke it first")
            self._refuse_taken(identity, aliases)
            version = old.version + 1 if old else 1
            for table in ("aliases", "shared_tpks", "members"):
                self._db.execute(f"DELETE FROM {table} WHERE identity = ?", (_text(identity),))  # noqa: S608
            self._db.execute(
                "INSERT OR REPLACE INTO users VALUES (?, ?, ?, 0, ?, ?, ?)",
                (_text(identity), role.value, version, json.dumps(acts_for), int(time.time()), certificate),
            )
            self._db.executemany(
                "INSERT INTO aliases VALUES (?, ?)", [(_text(alias), _text(identity)) for alias in aliases]
            )
            self._db.executemany(
                "INSERT INTO shared_tpks VALUES (?, ?)", [(_text(identity), r.value) for r in set(tpk_roles)]
            )
        found = self.find(identity)
        assert found is not None
        return found

    def _refuse_taken(self, identity: bytes, aliases: tuple[bytes, ...]) -> None:
        for name in (identity, *aliases):
            owner = self._db.execute(
                "SELECT identity FROM aliases WHERE alias = ?", (_text(name),)
            ).fetchone()
            if owner is not None and owner[0] != _text(identity):
                raise DirectoryError(f"{_text(name)} is an alias of {owner[0]}")
            if self.members(name):
                raise DirectoryError(f"{_text(name)} is the name of a group")
        for alias in aliases:
            if self.find(alias) is not None:
                raise DirectoryError(f"{_text(alias)} is an enrolled identity and cannot be an alias")

    def revoke(self, identity: bytes) -> None:
        """Revoke a user: its PSK verifies nothing from now on. Raises DirectoryError if it is not enrolled."""
        with self._transaction():
            changed = self._db.execute(
                "UPDATE users SET revoked = 1 WHERE identity = ? AND revoked = 0", (_text(identity),)
            )
            if changed.rowcount == 0:
                raise DirectoryError(f"{_text(identity)} is not enrolled")

    def next_version(self, identity: bytes) -> int:
        """The version of an identity's enrolment, or if it is not enrolled now, of its next one."""
        user = self.find(identity)
        return 1 if user is None else user.version + user.revoked

    # -- groups --------------------------------------------------------------------------------------------------------

    def add_member(self, group: bytes, identity: bytes) -> None:
        """Make an identity, also one of another KMS, a member of a group, which an IDRr of a ticket may name.

        Raises DirectoryError if the name is somebody's: members of such a group could open that user's tickets.
        """
        with self._transaction():
            if self.is_ours(group):
                raise DirectoryError(f"{_text(group)} is a user or an alias, and cannot be a group")
            self._db.execute("INSERT OR IGNORE INTO members VALUES (?, ?)", (_text(group), _text(identity)))

    def remove_member(self, group: bytes, identity: bytes) -> None:
        """Take an identity out of a group. Raises DirectoryError if it is not in it."""
        changed = self._db.execute(
            "DELETE FROM members WHERE name = ? AND identity = ?", (_text(group), _text(identity))
        )
        if changed.rowcount == 0:
            raise DirectoryError(f"{_text(identity)} is not a member of {_text(group)}")

    def members(self, group: bytes) -> frozenset[bytes]:
        """The members of a group; none if there is no such group."""
        try:
            return self._names("SELECT identity FROM members WHERE name = ?", group)
        except UnicodeDecodeError:
            return frozenset()

    def groups(self) -> list[tuple[bytes, frozenset[bytes]]]:
        """Every group with its members, by name."""
        rows = self._db.execute("SELECT DISTINCT name FROM members ORDER BY name").fetchall()
        return [(name.encode(), self.members(name.encode())) for (name,) in rows]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _names(self, query: str, identity: bytes) -> frozenset[bytes]:
        return frozenset(name.encode() for (name,) in self._db.execute(query, (_text(identity),)))


class _Transaction:
    """BEGIN IMMEDIATE to COMMIT, or ROLLBACK on an exception."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_rest: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _text(identity: bytes) -> str:
    return identity.decode("utf-8")
