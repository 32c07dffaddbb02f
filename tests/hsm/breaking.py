"""What goes wrong with a token, done to the module itself: its Token does not see it."""

import ctypes
from collections.abc import Callable
from ctypes import byref

import hsm
from hsm import cryptoki as ck

Break = Callable[[hsm.Token], None]


def close_session(token: hsm.Token) -> None:
    token.session.cryptoki.C_CloseSession(token.session.handle)


def close_all_sessions(token: hsm.Token) -> None:
    info = ck.SessionInfo()
    token.session.cryptoki.C_GetSessionInfo(token.session.handle, byref(info))
    position = ck._FUNCTIONS.split().index("C_CloseAllSessions")
    pointer = ctypes.c_void_p()
    module = ctypes.CDLL(str(token._spec.module))
    assert module.C_GetFunctionList(byref(pointer)) == 0
    assert pointer.value
    address = (ctypes.c_void_p * (position + 2)).from_address(pointer.value)[position + 1]
    assert address
    assert ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong)(address)(info.slot) == 0


def log_out(token: hsm.Token) -> None:
    token.session.cryptoki.C_Logout(token.session.handle)


def finalize(token: hsm.Token) -> None:
    token.session.cryptoki.C_Finalize(None)


def restart(token: hsm.Token) -> None:
    token._library.restart()


BREAKS: tuple[Break, ...] = (close_session, close_all_sessions, log_out, finalize, restart)
