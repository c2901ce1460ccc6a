"""Key files and lists of allowed keys: what is wrong with one is said by its name, and no secret is ever told."""

from __future__ import annotations

import os
import stat
from itertools import count
from pathlib import Path

import pytest

from meshcache import keys as k
from meshcache.errors import ConfigError
from meshcache.keys import ALL_RIGHTS, AllowedKey, AllowedKeys, Rights, SecretKey, read_allowed_keys, read_secret_key
from meshcache.sockets.curve import KeyPair, new_pair, require_curve

OWN, MESH = new_pair(), new_pair()
PIECE = 8
"""Characters of a secret that are too many to be told."""


def text_of(**changes: str) -> str:
    fields = {
        "kind": "node",
        "name": "node1",
        "public": OWN.public,
        "secret": OWN.secret,
        "mesh_public": MESH.public,
        "mesh_secret": MESH.secret,
    }
    return "\n".join(f"{name} = {value!r}" for name, value in (fields | changes).items() if value) + "\n"


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def tells_no_secret(text: str, *pairs: KeyPair) -> bool:
    secrets = [pair.secret for pair in pairs or (OWN, MESH)]
    return not any(secret[i : i + PIECE] in text for secret in secrets for i in range(len(secret) - PIECE + 1))


def refusal(path: Path, *kinds: str) -> str:
    """Return why a secret key file is refused; it names the file, and tells no secret."""
    with pytest.raises(ConfigError) as caught:
        require_curve(read_secret_key(path, *(kinds or ("node",))), str(path))
    text = str(caught.value)
    assert str(path) in text
    assert tells_no_secret(text + repr(caught.value))
    assert caught.value.__cause__ is None
    return text


# -- secret key files --------------------------------------------------------------------------------------


def test_a_secret_key_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    key = SecretKey("node", "node1", OWN.public, OWN.secret, MESH.public, MESH.secret)
    assert read_secret_key(write(tmp_path / "a", k.secret_key_text(key)), "node", "client") == key
    client = SecretKey("client", "web", OWN.public, OWN.secret, MESH.public)
    assert read_secret_key(write(tmp_path / "b", k.secret_key_text(client)), "client") == client


def test_a_key_is_shown_without_its_secrets() -> None:
    key = SecretKey("node", "node1", OWN.public, OWN.secret, MESH.public, MESH.secret)
    assert tells_no_secret(f"{key} {key!r} {[key]} {{'key': {key!r}}}")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no secret key file, or was cut off"),
        ("node node1 " + OWN.public + "\n", "is a file of public keys"),
        ("client web " + OWN.public + " read\n", "is a file of public keys"),
        (b"\xff\xfe\0\0", "no secret key file, or was cut off"),
        (text_of(name=""), "name missing"),
        (text_of(secret="", public=""), "public, secret missing"),
        (text_of(secret="") + 'secret = ""\n', "secret: a key has 40 characters of Z85"),
        (text_of(secret=OWN.secret[:-1]), "secret: a key has 40 characters of Z85"),
        (text_of(secret=OWN.secret[:-1] + "~"), "secret: a key has 40 characters of Z85"),
        (text_of(public=OWN.public + "a"), "public: a key has 40 characters of Z85"),
        (text_of(mesh_public="é" * 40), "mesh_public: a key has 40 characters of Z85"),
        (text_of(mesh_secret="") + "mesh_secret = 5\n", "mesh_secret: a key has 40 characters of Z85"),
        (text_of(mesh_secret="") + "mesh_secret = []\n", "mesh_secret: a key has 40 characters of Z85"),
        (text_of(secret="") + "secret = 5\n", "secret missing"),
        (text_of(mesh_secret=""), "mesh_secret is missing"),
        (text_of(name="no name"), "name must be 1 to 64 letters"),
        (text_of(name="n" * 5000), "name must be 1 to 64 letters"),
        (text_of(kind="client"), "is the key of a 'client'; that of a node belongs here"),
        (text_of(kind="mesh"), "is the key of a 'mesh'; that of a node belongs here"),
        (text_of(kind="other"), "is the key of a 'other'; that of a node belongs here"),
        (text_of(public=OWN.secret, secret=OWN.public), "public is not the public key of the secret one beside it"),
        (text_of(public=MESH.public), "public is not the public key of the secret one beside it"),
        (text_of(mesh_public=OWN.public), "mesh_public is not the public key of the secret one beside it"),
        (text_of() + "#" * (k.KEY_FILE_BYTES_MAX + 1), "is longer than 65,536 bytes"),
    ],
    ids=count(),
)
def test_a_bad_secret_key_file_is_refused_with_the_reason(tmp_path: Path, text: str | bytes, why: str) -> None:
    told = refusal(write(tmp_path / "node1.secret", text))
    assert why in told
    assert len(told) < 1000


def test_a_secret_key_file_that_was_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = text_of()
    for end in range(len(whole) - 2):
        refusal(write(tmp_path / "node1.secret", whole[:end]))


def test_a_clients_file_is_refused_where_a_nodes_belongs_and_the_other_way_round(tmp_path: Path) -> None:
    path = write(tmp_path / "a.secret", text_of(kind="mesh"))
    assert "a client or a node belongs here" in refusal(path, "client", "node")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o640, 0o660, 0o666, 0o777])
def test_a_secret_key_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    told = refusal(write(tmp_path / "a.secret", text_of(), mode))
    assert f"mode {mode:04o}" in told
    assert "chmod 600" in told


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_key_file_for_its_owner_alone_is_fine(tmp_path: Path, mode: int) -> None:
    assert read_secret_key(write(tmp_path / "a.secret", text_of(), mode), "node").name == "node1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_may_be_read_by_its_group_but_by_nobody_else(tmp_path: Path) -> None:
    path = write(tmp_path / "a.secret", text_of(), 0o440)
    os.chown(path, 12345, -1)
    assert read_secret_key(path, "node").name == "node1"
    path.chmod(0o444)
    assert "mode 0444" in refusal(path)
    path.chmod(0o460)
    assert "mode 0460" in refusal(path)


def test_a_secret_key_file_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.secret")
    assert "Is a directory" in refusal(tmp_path)
    pipe = tmp_path / "pipe.secret"
    os.mkfifo(pipe, 0o600)
    assert "is no file" in refusal(pipe)


# -- allowed keys ------------------------------------------------------------------------------------------


def allowed(directory: Path, **files: str) -> AllowedKeys:
    for name, text in files.items():
        write(directory / f"{name}.pub", text, 0o644)
    return read_allowed_keys(directory)


def publics(count: int) -> list[str]:
    return [new_pair().public for _ in range(count)]


def test_allowed_keys_are_read_from_all_files_of_the_directory(tmp_path: Path) -> None:
    a, b, c = publics(3)
    text = f"# people\n\n  client  web {b}  read,write  prefix=users:\n   # and so on\nclient ops {c} read,admin\n"
    found = allowed(tmp_path, a=f"node node1 {a}\n", people=text)
    assert found.problems == ()
    assert found.keys == {
        a: AllowedKey("node", "node1", a, ALL_RIGHTS, b""),
        b: AllowedKey("client", "web", b, Rights.READ | Rights.WRITE, b"users:"),
        c: AllowedKey("client", "ops", c, Rights.READ | Rights.ADMIN, b""),
    }
    assert found.nodes == {"node1"}


@pytest.mark.parametrize("prefix", [b"users:", b"a b", b"\0\xff", "é".encode(), b"50%20", b"#", b"x=y,z"])
def test_a_line_with_any_prefix_is_read_as_it_was_written(tmp_path: Path, prefix: bytes) -> None:
    key = AllowedKey("client", "web", OWN.public, Rights.READ, prefix)
    found = allowed(tmp_path, a=key.line)
    assert list(found.keys.values()) == [key]
    assert found.problems == ()


def test_a_percent_sign_stands_for_a_space_in_a_prefix(tmp_path: Path) -> None:
    found = allowed(tmp_path, a=f"client web {OWN.public} read prefix=a%20b\n")
    assert found.keys[OWN.public].prefix == b"a b"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nobody", 'a line begins with "node" or "client"'),
        (f"mesh mesh {OWN.public}", 'a line begins with "node" or "client"'),
        ("node", "the name and the public key follow"),
        ("node node1", "the name and the public key follow"),
        (f"node {OWN.public}", "the name and the public key follow"),
        (f"node node1 {OWN.public[:-1]}", "the name and the public key follow"),
        (f"node node1 {OWN.public} read", "a node's line ends with its key"),
        (f"node -x {OWN.public}", "must be 1 to 64 letters"),
        (f"client web {OWN.public}", "rights are missing"),
        (f"client web {OWN.public} all", "the rights are read, write, admin"),
        (f"client web {OWN.public} read,", "the rights are read, write, admin"),
        (f"client web {OWN.public} read, write", "only prefix="),
        (f"client web {OWN.public} read prefix=", "only prefix="),
        (f"client web {OWN.public} read prefix=a prefix=b", "only prefix="),
        (f"client web {OWN.public} read prefix=a b", "only prefix="),
        (f"client web {OWN.public} read prefix={'p' * (k.PREFIX_BYTES_MAX + 1)}", "the prefix has more than"),
        (f'secret = "{OWN.secret}"', 'a line begins with "node" or "client"'),
        (f"node node1 {OWN.secret}x", "the name and the public key follow"),
        (f"client web {OWN.public} {OWN.secret}", "the rights are read, write, admin"),
        (f"client web {OWN.public} read {OWN.secret}", "only prefix="),
        (f"client {OWN.secret} {OWN.public} read", "must be 1 to 64 letters"),
        (f"node {OWN.secret} {OWN.public}", "must be 1 to 64 letters"),
    ],
    ids=count(),
)
def test_a_broken_line_is_named_and_the_others_hold(tmp_path: Path, line: str, why: str) -> None:
    good = publics(2)
    found = allowed(tmp_path, a=f"node n1 {good[0]}\n{line}\nclient web {good[1]} read\n")
    assert set(found.keys) == set(good)
    (problem,) = found.problems
    assert problem.startswith(f"{tmp_path / 'a.pub'}:2: ")
    assert why in problem
    assert tells_no_secret(problem)


def test_a_key_that_is_listed_twice_for_different_owners_holds_as_it_was_first(tmp_path: Path) -> None:
    found = allowed(
        tmp_path,
        a=f"client web {OWN.public} read\nclient web {OWN.public} read\n",
        b=f"client web {OWN.public} read,write\nnode node1 {OWN.public}\n",
    )
    assert found.keys[OWN.public].rights == Rights.READ
    assert [problem.partition(": ")[2] for problem in found.problems] == ["this key is that of client web, too"] * 2


def test_one_owner_may_have_two_keys_while_one_replaces_the_other(tmp_path: Path) -> None:
    a, b = publics(2)
    found = allowed(tmp_path, a=f"node node1 {a}\n", b=f"node node1 {b}\n")
    assert set(found.keys) == {a, b}
    assert found.problems == ()


def test_the_number_of_keys_files_bytes_and_problems_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(k, "KEYS_MAX", 3)
    monkeypatch.setattr(k, "PROBLEMS_MAX", 5)
    lines = [f"client web {key} read" for key in publics(4)]
    found = allowed(tmp_path, a="\n".join(lines))
    assert len(found.keys) == 3
    assert "there are more than 3 keys" in found.problems[0]
    found = allowed(tmp_path, a="x\n" * 1000)
    assert len(found.problems) == 6
    assert found.problems[-1] == f"{tmp_path}: 995 more"
    monkeypatch.setattr(k, "PUBLIC_FILES_MAX", 1)
    found = allowed(tmp_path, a=lines[0], b=lines[1])
    assert len(found.keys) == 1
    assert "has 2 files; only the first 1 count" in found.problems[0]
    monkeypatch.setattr(k, "PUBLIC_FILE_BYTES_MAX", 10)
    assert "is longer than 10 bytes" in allowed(tmp_path).problems[1]


def test_files_that_cannot_be_trusted_or_read_are_named_and_the_others_hold(tmp_path: Path) -> None:
    a, b = publics(2)
    write(tmp_path / "open.pub", f"node n2 {b}\n", 0o646)
    write(tmp_path / "node1.secret", text_of())
    (tmp_path / "folder.pub").mkdir()
    (tmp_path / "nowhere.pub").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe.pub", 0o600)
    write(tmp_path / "README", "not a key")
    found = allowed(tmp_path, a=f"node n1 {a}\n")
    assert set(found.keys) == {a}
    told = "\n".join(found.problems)
    assert len(found.problems) == 5, told
    for part in ("open.pub: everybody may write to it", "node1.secret: a secret key does not belong among public ones"):
        assert part in told
    for name in ("folder.pub", "nowhere.pub", "pipe.pub"):
        assert f"{tmp_path / name}: " in told
    assert tells_no_secret(told)


def test_a_directory_that_is_not_there_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    for path in (tmp_path / "none", write(tmp_path / "file", "")):
        with pytest.raises(ConfigError, match=r"security\.allowed_keys_dir") as caught:
            read_allowed_keys(path)
        assert str(path) in str(caught.value)


def test_the_signature_of_a_directory_changes_with_what_is_in_it(tmp_path: Path) -> None:
    seen = [k.signature_of(tmp_path)]
    path = write(tmp_path / "a.pub", "one", stat.S_IRUSR)
    seen.append(k.signature_of(tmp_path))
    os.utime(path, ns=(1, 1))
    seen.append(k.signature_of(tmp_path))
    path.rename(tmp_path / "b.pub")
    seen.append(k.signature_of(tmp_path))
    path = write(tmp_path / "new", "two")
    os.utime(path, ns=(1, 1))
    path.replace(tmp_path / "b.pub")  # same name, size and time
    seen.append(k.signature_of(tmp_path))
    assert len(set(seen)) == len(seen)
    assert k.signature_of(tmp_path / "none") == ()
