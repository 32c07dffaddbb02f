"""GStreamer's MIKEY code (libgstsdp), called in a process of its own: where it crashes, a test fails and nothing else.

Run as a program it reads a JSON list of jobs from its standard input and writes the list of their results: a job is
{"parse": hex} or {"build": message}, a result the message, the hex, or null where GStreamer refuses. A message is
{"type", "v", "prf", "csb_id", "sessions": [[policy_no, ssrc, roc]], "payloads": [{"payload": name, ...}]}.

libgstsdp is called through ctypes and not through PyGObject: its binding does not let None stand for "no keys", so it
can neither parse nor write a message. The structs below are those of gst/sdp/gstmikey.h, a stable ABI of GStreamer 1.x.
"""

import ctypes
import json
import subprocess
import sys
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from typing import Any

Json = dict[str, Any]

LIBRARY = "libgstsdp-1.0.so.0"
KEMAC, PKE, T, SP, RAND, KEY_DATA = 1, 2, 5, 10, 11, 20
_T_LENGTHS = {0: 8, 1: 8, 2: 4}
_SPI, _INTERVAL = 1, 2


def run(jobs: list[Json]) -> list[Any]:
    """The results of `jobs`, one process for all of them."""
    command = [sys.executable, "-I", __file__]
    result = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, timeout=20)
    assert result.returncode == 0, f"exit code {result.returncode}: {result.stderr[-500:]}"
    results: list[Any] = json.loads(result.stdout)
    return results


# -- structs of gstmikey.h ---------------------------------------------------------------------------------------------


class _Array(Structure):
    _fields_ = (("data", c_void_p), ("len", c_uint))


class _Message(Structure):
    _fields_ = (
        ("mini_object", u8 * 64),
        ("version", u8),
        ("type", c_int),
        ("v", c_int),
        ("prf", c_int),
        ("csb_id", u32),
        ("map_type", c_int),
        ("map_info", POINTER(_Array)),
        ("payloads", POINTER(_Array)),
    )


class _MapSrtp(Structure):
    _fields_ = (("policy", u8), ("ssrc", u32), ("roc", u32))


class _Payload(Structure):
    _fields_ = (("mini_object", u8 * 64), ("type", c_int), ("len", c_uint))


class _Kemac(Structure):
    _fields_ = (("pt", _Payload), ("encr_alg", c_int), ("mac_alg", c_int), ("keys", POINTER(_Array)))


class _Pke(Structure):
    _fields_ = (("pt", _Payload), ("cache", c_int), ("data_len", u16), ("data", c_void_p))


class _T(Structure):
    _fields_ = (("pt", _Payload), ("ts_type", c_int), ("value", c_void_p))


class _SpParam(Structure):
    _fields_ = (("type", u8), ("len", u8), ("value", c_void_p))


class _Sp(Structure):
    _fields_ = (("pt", _Payload), ("policy", c_uint), ("proto", c_int), ("params", POINTER(_Array)))


class _Rand(Structure):
    _fields_ = (("pt", _Payload), ("len", u8), ("rand", c_void_p))


class _KeyData(Structure):
    _fields_ = (
        ("pt", _Payload),
        ("key_type", c_int),
        ("key_len", u16),
        ("key", c_void_p),
        ("salt_len", u16),
        ("salt", c_void_p),
        ("kv_type", c_int),
        ("kv_len", u8 * 2),
        ("kv", c_void_p * 2),
    )


def _hex(pointer: int | None, length: int) -> str:
    return ctypes.string_at(pointer, length).hex() if pointer and length else ""


# -- the library -------------------------------------------------------------------------------------------------------


class GStreamer:
    """The functions of libgstsdp that parse and build messages."""

    def __init__(self) -> None:
        self._sdp = sdp = ctypes.CDLL(LIBRARY)
        for name in ("message_new", "message_get_payload", "message_get_cs_srtp", "message_new_from_data"):
            getattr(sdp, f"gst_mikey_{name}").restype = c_void_p
        for name in ("message_to_bytes", "payload_new", "payload_kemac_get_sub", "payload_sp_get_param"):
            getattr(sdp, f"gst_mikey_{name}").restype = c_void_p
        self._glib = glib = ctypes.CDLL("libglib-2.0.so.0")
        glib.g_bytes_get_data.restype = c_void_p

    # -- parsing -------------------------------------------------------------------------------------------------------

    def parse(self, raw: bytes) -> Json | None:
        """The message, or None if GStreamer refuses it."""
        sdp = self._sdp
        found = sdp.gst_mikey_message_new_from_data(c_char_p(raw), c_size_t(len(raw)), None, None)
        if not found:
            return None
        message = _Message.from_address(found)
        pointer = c_void_p(found)
        n_cs, n_payloads = (
            sdp.gst_mikey_message_get_n_cs(pointer),
            sdp.gst_mikey_message_get_n_payloads(pointer),
        )
        sessions = [_MapSrtp.from_address(sdp.gst_mikey_message_get_cs_srtp(pointer, i)) for i in range(n_cs)]
        payloads = [sdp.gst_mikey_message_get_payload(pointer, i) for i in range(n_payloads)]
        return {
            "type": message.type,
            "v": bool(message.v),
            "prf": message.prf,
            "csb_id": message.csb_id,
            "sessions": [[s.policy, s.ssrc, s.roc] for s in sessions],
            "payloads": [self._payload(p) for p in payloads],
        }

    def _payload(self, address: int) -> Json:
        number = _Payload.from_address(address).type
        if number == KEMAC:
            kemac = _Kemac.from_address(address)
            count = self._sdp.gst_mikey_payload_kemac_get_n_sub(c_void_p(address))
            keys = [self._sdp.gst_mikey_payload_kemac_get_sub(c_void_p(address), i) for i in range(count)]
            found = [self._payload(k) for k in keys]
            return {"payload": "KEMAC", "encr_alg": kemac.encr_alg, "mac_alg": kemac.mac_alg, "keys": found}
        if number == PKE:
            pke = _Pke.from_address(address)
            return {"payload": "PKE", "cache": pke.cache, "data": _hex(pke.data, pke.data_len)}
        if number == T:
            t = _T.from_address(address)
            return {"payload": "T", "ts_type": t.ts_type, "value": _hex(t.value, _T_LENGTHS[t.ts_type])}
        if number == SP:
            sp = _Sp.from_address(address)
            count = self._sdp.gst_mikey_payload_sp_get_n_params(c_void_p(address))
            at = [self._sdp.gst_mikey_payload_sp_get_param(c_void_p(address), i) for i in range(count)]
            params = [_SpParam.from_address(a) for a in at]
            return {
                "payload": "SP",
                "policy_no": sp.policy,
                "prot_type": sp.proto,
                "params": [[p.type, _hex(p.value, p.len)] for p in params],
            }
        if number == RAND:
            rand = _Rand.from_address(address)
            return {"payload": "RAND", "rand": _hex(rand.rand, rand.len)}
        if number == KEY_DATA:
            return self._key_data(_KeyData.from_address(address))
        return {"payload": number}

    def _key_data(self, key: _KeyData) -> Json:
        count = {_SPI: 1, _INTERVAL: 2}.get(key.kv_type, 0)
        return {
            "payload": "KeyData",
            "key_type": key.key_type,  # TGK or TEK: a salt says whether it is the +SALT type
            "key": _hex(key.key, key.key_len),
            "salt": _hex(key.salt, key.salt_len),
            "kv": [key.kv_type, *(_hex(key.kv[i], key.kv_len[i]) for i in range(count))],
        }

    # -- building ------------------------------------------------------------------------------------------------------

    def build(self, form: Json) -> str | None:
        """The message in hex, or None if GStreamer cannot write it."""
        sdp = self._sdp
        message = c_void_p(sdp.gst_mikey_message_new())
        _must(
            sdp.gst_mikey_message_set_info(
                message, u8(1), form["type"], c_int(form["v"]), form["prf"], u32(form["csb_id"]), 0
            )
        )
        for policy_no, ssrc, roc in form["sessions"]:
            _must(sdp.gst_mikey_message_add_cs_srtp(message, u8(policy_no), u32(ssrc), u32(roc)))
        for payload in form["payloads"]:
            _must(sdp.gst_mikey_message_add_payload(message, self._new(payload)))
        written = sdp.gst_mikey_message_to_bytes(message, None, None)
        if not written:
            return None
        size = c_size_t()
        data = self._glib.g_bytes_get_data(c_void_p(written), byref(size))
        return _hex(data, size.value)

    def _new(self, form: Json) -> c_void_p:
        sdp, name = self._sdp, form["payload"]
        number = {"KEMAC": KEMAC, "PKE": PKE, "T": T, "SP": SP, "RAND": RAND, "KeyData": KEY_DATA}[name]
        payload = c_void_p(sdp.gst_mikey_payload_new(number))
        if name == "KEMAC":
            _must(sdp.gst_mikey_payload_kemac_set(payload, form["encr_alg"], form["mac_alg"]))
            for key in form["keys"]:
                _must(sdp.gst_mikey_payload_kemac_add_sub(payload, self._new(key)))
        elif name == "PKE":
            data = bytes.fromhex(form["data"])
            _must(sdp.gst_mikey_payload_pke_set(payload, form["cache"], u16(len(data)), data))
        elif name == "T":
            _must(sdp.gst_mikey_payload_t_set(payload, form["ts_type"], bytes.fromhex(form["value"])))
        elif name == "SP":
            _must(sdp.gst_mikey_payload_sp_set(payload, c_uint(form["policy_no"]), form["prot_type"]))
            for kind, text in form["params"]:
                value = bytes.fromhex(text)
                _must(sdp.gst_mikey_payload_sp_add_param(payload, u8(kind), u8(len(value)), value))
        elif name == "RAND":
            rand = bytes.fromhex(form["rand"])
            _must(sdp.gst_mikey_payload_rand_set(payload, u8(len(rand)), rand))
        else:
            self._set_key(payload, form)
        return payload

    def _set_key(self, payload: c_void_p, form: Json) -> None:
        sdp = self._sdp
        key, salt = bytes.fromhex(form["key"]), bytes.fromhex(form["salt"])
        _must(sdp.gst_mikey_payload_key_data_set_key(payload, form["key_type"], u16(len(key)), key))
        if salt:
            _must(sdp.gst_mikey_payload_key_data_set_salt(payload, u16(len(salt)), salt))
        kind, *data = form["kv"]
        values = [bytes.fromhex(d) for d in data]
        if kind == _SPI:
            _must(sdp.gst_mikey_payload_key_data_set_spi(payload, u8(len(values[0])), values[0]))
        elif kind == _INTERVAL:
            first, last = values
            _must(
                sdp.gst_mikey_payload_key_data_set_interval(
                    payload, u8(len(first)), first, u8(len(last)), last
                )
            )


def _must(done: int) -> None:
    if not done:
        raise RuntimeError("GStreamer refused a field")


def main() -> None:
    """Do the jobs of standard input."""
    gstreamer = GStreamer()
    results = [
        gstreamer.parse(bytes.fromhex(job["parse"])) if "parse" in job else gstreamer.build(job["build"])
        for job in json.load(sys.stdin)
    ]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
