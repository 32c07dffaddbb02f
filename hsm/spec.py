"""Which token: what `kms init` writes into the [token] table of kms.toml."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsm.errors import TokenNotFound

_KINDS = {str: "text", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """A token: the PKCS#11 module and what tells its token apart. At least one of label, serial and slot is needed.

    `softhsm_conf` is the file that SOFTHSM2_CONF names, `nss_folder` the folder of an NSS database: only for those.
    With `require_native_prf` a token is refused that does not derive every key by itself. Never holds a PIN.
    """

    module: Path
    label: str | None = None
    serial: str | None = None
    slot: int | None = None
    softhsm_conf: Path | None = None
    nss_folder: Path | None = None
    require_native_prf: bool = False

    @classmethod
    def from_config(cls, table: Mapping[str, Any], base: Path) -> "TokenSpec":
        """Read a [token] table; paths are relative to `base`. Raises TokenNotFound that names the key."""
        kinds: dict[str, type] = {
            "module": str,
            "label": str,
            "serial": str,
            "slot": int,
            "softhsm_conf": str,
            "nss_folder": str,
            "require_native_prf": bool,
        }
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in kinds:
                raise TokenNotFound(f"[token] {key} is not a known key: {', '.join(kinds)}")
            if type(value) is not kinds[key]:
                raise TokenNotFound(f"[token] {key} must be {_KINDS[kinds[key]]}")
            is_path = key in ("module", "softhsm_conf", "nss_folder")
            values[key] = Path(base, str(value)).absolute() if is_path else value
        if "module" not in values:
            raise TokenNotFound("[token] module is missing: the path of the token's PKCS#11 library")
        spec = cls(**values)
        if spec.label is None and spec.serial is None and spec.slot is None:
            raise TokenNotFound("[token] needs label, serial or slot, to tell the token apart")
        return spec

    def to_config(self, base: Path) -> dict[str, str | int | bool]:
        """The [token] table; paths inside `base` become relative to it."""
        table: dict[str, str | int | bool] = {"module": str(self.module)}
        for key in ("label", "serial", "slot"):
            if (value := getattr(self, key)) is not None:
                table[key] = value
        for key in ("softhsm_conf", "nss_folder"):
            if (path := getattr(self, key)) is not None:
                inside = path.is_relative_to(base)
                table[key] = os.path.relpath(path, base) if inside else str(path)
        if self.require_native_prf:
            table["require_native_prf"] = True
        return table

    def __str__(self) -> str:
        parts = [f"label {self.label!r}"] if self.label is not None else []
        parts += [f"serial {self.serial}"] if self.serial is not None else []
        parts += [f"slot {self.slot}"] if self.slot is not None else []
        return f"token with {', '.join(parts)} in {self.module}"
