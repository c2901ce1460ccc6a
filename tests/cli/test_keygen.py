"""The command keygen: which files it makes, for whose eyes, and what it refuses."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from meshcache.cli import main as cli
from meshcache.errors import ConfigError
from meshcache.keys import ALL_RIGHTS, Rights, read_allowed_keys, read_secret_key
from meshcache.sockets.curve import require_curve


def keygen(
    capsys: pytest.CaptureFixture[str], directory: Path, *arguments: str, options: Sequence[str] = ()
) -> tuple[int, str, str]:
    code = cli.main([*options, "keygen", *arguments, "--dir", str(directory)])
    told = capsys.readouterr()
    return code, told.out, told.err


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "made" / "keys"


def test_a_nodes_key_comes_with_the_meshs_and_is_for_its_owner_alone(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = keygen(capsys, keys, "node1", "--node")
    assert (code, err) == (0, "")
    assert str(keys / "node1.secret") in out
    assert str(keys / "allowed" / "node1.pub") in out
    node, mesh = read_secret_key(keys / "node1.secret", "node"), read_secret_key(keys / "mesh.secret", "mesh")
    for key in (node, mesh):
        require_curve(key, "a file")
    assert (node.mesh_public, node.mesh_secret) == (mesh.public, mesh.secret)
    assert node.public != mesh.public
    assert {path.name: mode(path) for path in keys.iterdir()} == {
        "node1.secret": 0o600,
        "mesh.secret": 0o600,
        "allowed": mode(keys / "allowed"),
    }
    assert mode(keys) == 0o700
    assert mode(keys / "allowed") & 0o022 == 0
    assert mode(keys / "allowed" / "node1.pub") == 0o644
    allowed = read_allowed_keys(keys / "allowed")
    assert allowed.problems == ()
    assert (set(allowed.nodes), allowed.keys[node.public].rights) == ({"node1"}, ALL_RIGHTS)
    told = out + (keys / "allowed" / "node1.pub").read_text()
    assert not any(secret in told for secret in (node.secret, mesh.secret))


def test_a_clients_key_has_the_rights_and_the_prefix_that_were_asked_for(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keygen(capsys, keys, "web")[0] == 0
    assert keygen(capsys, keys, "ops", "--rights", "read,admin", "--prefix", "a b:é%20")[0] == 0
    web, ops = (read_secret_key(keys / f"{name}.secret", "client") for name in ("web", "ops"))
    assert web.mesh_public == ops.mesh_public
    assert web.mesh_secret == ops.mesh_secret == ""
    mesh = read_secret_key(keys / "mesh.secret", "mesh")
    assert mesh.secret not in (keys / "web.secret").read_text()
    allowed = read_allowed_keys(keys / "allowed").keys
    assert (allowed[web.public].rights, allowed[web.public].prefix) == (Rights.READ | Rights.WRITE, b"")
    assert (allowed[ops.public].rights, allowed[ops.public].prefix) == (Rights.READ | Rights.ADMIN, "a b:é%20".encode())
    require_curve(web, "a file")


def test_without_a_name_only_the_meshs_key_is_made_once(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keygen(capsys, keys)[0] == 0
    made = contents(keys)
    assert list(made) == [str(keys / "mesh.secret")]
    code, out, _ = keygen(capsys, keys)
    assert code == 0
    assert "meshcache keygen NAME" in out
    assert contents(keys) == made


@pytest.mark.parametrize("left", ["web.secret", "allowed/web.pub"])
def test_no_file_is_ever_written_over(keys: Path, capsys: pytest.CaptureFixture[str], left: str) -> None:
    assert keygen(capsys, keys, "web")[0] == 0
    for path in (keys / "web.secret", keys / "allowed" / "web.pub"):
        if path != keys / left:
            path.unlink()
    before = contents(keys)
    code, _, err = keygen(capsys, keys, "web")
    assert code == 2
    assert f"{keys / left}: is there already" in err
    assert contents(keys) == before


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["mesh"], "NAME must not be mesh"),
        (["a/b"], "NAME must be 1 to 64 letters"),
        (["../web"], "NAME must be 1 to 64 letters"),
        (["web", "--rights", "all"], "--rights: rights are read, write, admin"),
        (["web", "--rights", "read, write"], "--rights: rights are read, write, admin"),
        (["node1", "--node", "--rights", "read"], "--node: a node has all rights"),
        (["node1", "--node", "--prefix", "a"], "--node: a node has all rights"),
        (["web", "--prefix", "p" * 1025], "--prefix: must have at most 1,024 bytes"),
        (["web", "--prefix", ""], "--prefix: is empty"),
        (["node1", "--node", "--prefix", ""], "--node: a node has all rights"),
        ([""], "NAME must be 1 to 64 letters"),
        (["--node"], "--node: NAME is missing"),
        (["--prefix", "a"], "--prefix: NAME is missing"),
        (["--rights", "read"], "--rights: NAME is missing"),
    ],
)
def test_what_makes_no_sense_is_refused_and_makes_no_file(
    keys: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    code, out, err = keygen(capsys, keys, *arguments)
    assert (code, out) == (2, "")
    assert why in err
    assert not keys.exists()


def test_the_meshs_key_is_not_read_where_others_may_read_it(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keygen(capsys, keys)
    (keys / "mesh.secret").chmod(0o644)
    code, _, err = keygen(capsys, keys, "web")
    assert code == 2
    assert "chmod 600" in err
    assert not (keys / "web.secret").exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = keygen(capsys, tmp_path / "file" / "keys", "web")
    assert code == 2
    assert str(tmp_path / "file") in err
    assert "--dir" in err


def test_programs_may_read_what_was_made(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(keygen(capsys, keys, "web", options=["--json"])[1])
    assert told == {
        "files": [str(keys / "web.secret"), str(keys / "allowed" / "web.pub")],
        "public": read_secret_key(keys / "web.secret", "client").public,
    }
    told = json.loads(keygen(capsys, keys, options=["--json"])[1])
    assert told == {"files": [], "public": read_secret_key(keys / "mesh.secret", "mesh").public}


def test_help_says_where_the_files_go_and_how_a_key_is_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["keygen", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for part in ("DIR/NAME.secret", "DIR/allowed/NAME.pub", "DIR/mesh.secret", "delete its .pub file", "--rights"):
        assert part in out


def test_a_pair_whose_halves_do_not_belong_together_is_refused(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keygen(capsys, keys, "a")
    keygen(capsys, keys, "b")
    a, b = (read_secret_key(keys / f"{name}.secret", "client") for name in "ab")
    path = keys / "a.secret"
    path.write_text(path.read_text().replace(a.public, b.public))
    with pytest.raises(ConfigError, match="public is not the public key"):
        require_curve(read_secret_key(path, "client"), str(path))
