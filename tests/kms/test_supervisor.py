"""`kms serve` with real processes: what dies is replaced, what cannot start says why, what stops drains first."""

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2

from kms import link
from kms.admin.v1.admin_pb2 import AdminReply, AdminRequest, DoctorRequest, ListUsersRequest
from kms.client.v1 import client_pb2, client_pb2_grpc
from kms.focus.v1 import focus_pb2, focus_pb2_grpc
from tests.kms.fault_engine import SECRET
from tests.kms.serving import WAIT_SECONDS, Authority, Serving, make_home
from tests.kms.test_frontend import health, reason, refused, request_ticket, wait_for


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, make_home(tmp_path)) as running:
        yield running


def stub(channel: grpc.Channel) -> client_pb2_grpc.ClientServiceStub:
    return client_pb2_grpc.ClientServiceStub(channel)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_an_idle_engine_that_dies_is_replaced(serving: Serving) -> None:
    with serving.channel() as channel:
        first = request_ticket(stub(channel), b"before")["pid"]
        os.kill(first, signal.SIGKILL)
        # No call fails: this one waits for the replacement.
        second = request_ticket(stub(channel), b"after")["pid"]
    assert second == serving.wait_replaced("engine 0", 2) != first


def test_a_message_whose_engine_died_is_tried_once_more(serving: Serving, tmp_path: Path) -> None:
    with serving.channel() as channel:
        answer = request_ticket(stub(channel), b"crash-once:" + bytes(tmp_path / "crashed"))
    assert answer["pid"] == serving.wait_replaced("engine 0", 2)
    assert serving.metrics()["kms_frontend_engine_losses_total"] == 1


def test_a_message_that_killed_two_engines_is_refused_and_no_third(serving: Serving) -> None:
    with serving.channel() as channel:
        status = refused(stub(channel), b"crash:twice")
        assert (status.code, reason(status)) == (code_pb2.UNAVAILABLE, "ENGINE_LOST")
        answer = request_ticket(stub(channel), b"and all is well")
    assert answer["pid"] == serving.wait_replaced("engine 0", 3)


def test_an_engine_without_its_token_ends_and_is_replaced(serving: Serving) -> None:
    with serving.channel() as channel:
        assert reason(refused(stub(channel), b"gone")) == "ENGINE_LOST"
    died = serving.wait_log(lambda line: line["event"] == "child died", 2)
    assert {line["ended"] for line in died} == {"exit code 75"}
    assert SECRET not in "".join(serving.lines)


def test_a_bug_in_the_periodic_work_does_not_end_the_engine(serving: Serving) -> None:
    (serving.home / "bug-in-tick").touch()
    serving.wait_log(lambda line: line["event"] == "fault in the periodic work")
    with serving.channel() as channel:
        assert request_ticket(stub(channel), b"message")["pid"] == serving.pids("engine 0")[0]
    assert SECRET not in "".join(serving.lines)


def test_one_deadly_message_in_a_batch_fails_alone(serving: Serving) -> None:
    messages = [b"of a batch 1", b"crash:in a batch", b"of a batch 2", b"of a batch 3"]
    batch = focus_pb2.BatchResolveTicketsRequest(
        requests=[focus_pb2.ResolveTicketRequest(mikey_message=each) for each in messages]
    )
    with serving.channel() as channel:
        results = (
            focus_pb2_grpc.FocusServiceStub(channel).BatchResolveTickets(batch, timeout=WAIT_SECONDS).results
        )
    assert [each.WhichOneof("result") for each in results] == [
        "mikey_message",
        "error",
        "mikey_message",
        "mikey_message",
    ]
    assert reason(results[1].error) == "ENGINE_LOST"


def test_a_frontend_that_dies_is_replaced_at_the_same_address(serving: Serving) -> None:
    with serving.channel() as channel:
        request_ticket(stub(channel), b"before")
        os.kill(serving.pids("frontend 0")[0], signal.SIGKILL)
        serving.wait_replaced("frontend 0", 2)
        request_ticket(stub(channel), b"after")
    assert serving.metrics()['kms_frontend_engines{state="linked"}'] == 1


def test_a_stopping_server_finishes_the_calls_in_flight(serving: Serving, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    children = serving.pids("engine 0") + serving.pids("frontend 0")
    with serving.channel() as channel:
        message = b"hold:" + bytes(gate)
        pending = stub(channel).RequestTicket.future(
            client_pb2.RequestTicketRequest(mikey_message=message), timeout=WAIT_SECONDS
        )
        watch = health(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_SECONDS)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        wait_for(gate.with_suffix(".held"))
        serving.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        gate.touch()
        assert json.loads(pending.result().mikey_message)["message"] == message.hex()
    assert serving.end() == (0, "")
    assert all(map(gone, children))


def test_what_dies_again_and_again_is_restarted_slower(serving: Serving) -> None:
    for lives in range(1, 7):
        os.kill(serving.wait_replaced("engine 0", lives), signal.SIGKILL)
    deaths = serving.wait_log(lambda line: line["event"] == "child died", 6)
    assert [line["restart_in_seconds"] for line in deaths] == [0.0] * 5 + [15.0]
    with serving.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        stub(channel).RequestTicket(client_pb2.RequestTicketRequest(mikey_message=b"no engine"), timeout=1)
    assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert serving.metrics()['kms_frontend_engines{state="linked"}'] == 0


def test_children_do_not_outlive_a_killed_supervisor(serving: Serving) -> None:
    pidfds = [os.pidfd_open(pid) for pid in serving.pids("engine 0") + serving.pids("frontend 0")]
    serving.process.kill()
    serving.end()
    for pidfd in pidfds:
        # Readable once the process has ended.
        assert select.select([pidfd], [], [], WAIT_SECONDS)[0]
        os.close(pidfd)


def test_the_admin_socket_answers_while_the_server_runs(serving: Serving) -> None:
    with link.connect_path(serving.home / "run/admin.sock") as sock:
        link.send(sock, AdminRequest(doctor=DoctorRequest()))
        reply = link.receive(sock, AdminReply, timeout=WAIT_SECONDS)
        assert reply.doctor.token == f"fault engine 0, asked by {os.geteuid()}"
        link.send(sock, AdminRequest(list_users=ListUsersRequest()))
        reply = link.receive(sock, AdminReply, timeout=WAIT_SECONDS)
        assert "fault" in reply.error.message
        assert SECRET not in reply.error.message
    assert (serving.home / "run").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_the_admin_socket_refuses_other_users(serving: Serving) -> None:
    # The folder keeps them out; the peer check is what remains if someone opens it up.
    folder = serving.home / "run"
    script = (
        "import os, socket, sys; os.chdir(sys.argv[1]); os.setuid(65534);"
        "s = socket.socket(socket.AF_UNIX); s.connect('admin.sock'); s.settimeout(20); print(len(s.recv(1)))"
    )
    folder.chmod(0o711)
    (folder / "admin.sock").chmod(0o666)
    ran = subprocess.run(
        [sys.executable, "-I", "-c", script, folder], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "0\n", ran.stderr
    serving.wait_log(lambda line: line["event"] == "admin connection refused" and line["uid"] == 65534)


def test_no_process_leaves_core_dumps(serving: Serving) -> None:
    pids = [serving.process.pid, *serving.pids("engine 0"), *serving.pids("frontend 0")]
    for pid in pids:
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert line.split()[4:6] == ["0", "0"]


def test_neither_supervisor_nor_frontend_loads_pkcs11_and_the_supervisor_no_grpc() -> None:
    for module, forbidden in (
        ("kms.supervisor", ("grpc", "pkcs11", "hsm")),
        ("kms.frontend.process", ("pkcs11", "hsm")),
    ):
        code = f"import sys, {module}; print([name for name in {forbidden!r} if name in sys.modules])"
        ran = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
        assert ran.stdout == "[]\n"


# --- starts that fail


def failed_start(home: Path, complaint: str) -> None:
    """Exit code 2, nothing on standard output, and one line that is not a log line, with the complaint."""
    failed = Serving(home, Authority())
    assert failed.end() == (2, "")
    assert failed.ready_line == ""
    said = [line for line in failed.lines if '"level": "info"' not in line]
    assert len(said) == 1, failed.lines
    assert said[0].startswith("kms: ")
    assert complaint in said[0]
    for line in failed.log():
        assert "pid" not in line or gone(line["pid"])


def test_a_wrong_pin_is_tried_once(tmp_path: Path) -> None:
    make_home(tmp_path, pin=b"wrong", engines=2)
    failed_start(tmp_path, "engine 0 could not start: the token refused the PIN: correct [token] pin_file")
    assert (tmp_path / "pin-attempts").read_text() == "0\n"


def test_a_pin_that_became_wrong_is_not_tried_again_and_again(serving: Serving) -> None:
    # The engine is replaced and the test's token refuses the PIN, which the supervisor does not read anew:
    # so the token has to change its mind.
    (serving.home / "pin-changed").touch()
    os.kill(serving.pids("engine 0")[0], signal.SIGKILL)
    code, _rest = serving.end()
    assert code == 2
    assert "the token refused the PIN" in serving.lines[-1]
    assert (serving.home / "pin-attempts").read_text() == "0\n0\n"


def test_a_pin_file_that_cannot_be_used(tmp_path: Path) -> None:
    make_home(tmp_path)
    (tmp_path / "pin").unlink()
    failed_start(tmp_path, f"the PIN file {tmp_path / 'pin'} cannot be read: No such file or directory")
    (tmp_path / "pin").write_text("\n")
    failed_start(tmp_path, "must hold one line of 1 to 255 bytes")


@pytest.mark.parametrize("key", ["grpc", "metrics"])
def test_a_busy_port(tmp_path: Path, key: str) -> None:
    make_home(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        config = tmp_path / "kms.toml"
        config.write_text(config.read_text().replace(f'{key} = "127.0.0.1:0"', f'{key} = "{address}"'))
        failed_start(
            tmp_path, f"{address} is in use by another program; free it or set [listen] {key} in kms.toml"
        )


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    make_home(tmp_path)
    key = tmp_path / "tls/server.key"
    good = key.read_bytes()
    key.write_bytes((tmp_path / "tls/server.pem").read_bytes())
    failed_start(tmp_path, f"{key} are no certificate and its key")
    key.unlink()
    failed_start(tmp_path, f"{key} cannot be read: No such file or directory; set [tls] key")
    key.write_bytes(good)
    (tmp_path / "tls/ca.pem").write_text("nonsense")
    failed_start(tmp_path, "holds no usable CA certificate")


def test_an_engine_that_dies_at_its_start(tmp_path: Path) -> None:
    make_home(tmp_path)
    (tmp_path / "die-at-start").touch()
    failed_start(tmp_path, "engine 0 ended with signal SIGKILL during the start")
    assert (tmp_path / "pin-attempts").read_text() == "0\n"


def test_a_second_server_for_the_same_home(serving: Serving) -> None:
    failed_start(serving.home, f"another `kms serve` runs in {serving.home}")
    with serving.channel() as channel:
        request_ticket(stub(channel), b"the first goes on")


def test_a_lock_left_by_a_dead_server_is_no_obstacle(tmp_path: Path) -> None:
    authority = make_home(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/kms.lock").touch()
    (tmp_path / "run/admin.sock").touch()
    with (
        Serving(tmp_path, authority),
        (tmp_path / "run/kms.lock").open("r+") as lock,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
