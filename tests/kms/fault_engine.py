"""A fault injector: the real engine process around an engine that does what the message says.

Run by the supervisor in place of kms.engine.process. A message is COMMAND or COMMAND:ARGUMENT; see FaultEngine.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from kms.admin.v1.admin_pb2 import AdminReply, AdminRequest, DoctorReply
from kms.engine import process
from kms.engine.faults import EngineFault, StartRefused
from kms.engine.v1.link_pb2 import EngineReply, EngineRequest, Outcome, Refusal

PIN = b"correct-pin"
SECRET = "never-in-a-log"


class FaultEngine:
    """Echoes, refuses or breaks on command."""

    def __init__(self, home: Path, pin: bytes, index: int) -> None:
        with (home / "pin-attempts").open("a") as attempts:
            attempts.write(f"{index}\n")
        if (home / "die-at-start").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if pin != PIN or (home / "pin-changed").exists():
            raise StartRefused("the token refused the PIN: correct [token] pin_file", pin_rejected=True)
        self._home = home
        self._index = index

    def handle(self, request: EngineRequest) -> EngineReply:
        return EngineReply(outcomes=[self._answer(request, each) for each in request.mikey_messages])

    def _answer(self, request: EngineRequest, message: bytes) -> Outcome:
        command, _, argument = message.partition(b":")
        match command:
            case b"refuse":
                return Outcome(
                    refusal=Refusal(
                        code=16,
                        reason="AUTHENTICATION_FAILED",
                        message="not authentic",
                        mikey_error_message=b"mikey error",
                    )
                )
            case b"bug":
                raise ValueError(SECRET)
            case b"gone":
                raise EngineFault(SECRET)
            case b"crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"crash-once":
                marker = Path(os.fsdecode(argument))
                if not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            case b"hold":
                # Says that it has begun, and goes on when the test lets it.
                gate = Path(os.fsdecode(argument))
                gate.with_suffix(".held").touch()
                while not gate.exists():
                    time.sleep(0.005)
        return Outcome(
            mikey_message=json.dumps(
                {
                    "pid": os.getpid(),
                    "index": self._index,
                    "service": request.called_service,
                    "operation": request.operation,
                    "identities": list(request.tls_identities),
                    "message": message.hex(),
                }
            ).encode()
        )

    def handle_admin(self, request: AdminRequest, uid: int) -> AdminReply:
        if request.WhichOneof("request") != "doctor":
            raise ValueError(SECRET)
        return AdminReply(doctor=DoctorReply(token=f"fault engine {self._index}, asked by {uid}"))

    def tick(self) -> None:
        if (self._home / "bug-in-tick").exists():
            raise ValueError(SECRET)


if __name__ == "__main__":
    sys.exit(process.main(build=FaultEngine))
