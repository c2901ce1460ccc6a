"""The configuration: defaults, precedence, and mistakes that are all reported, with the path and what to do."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from meshcache.address import join_address, split_address
from meshcache.config import Config, NodeSettings, overrides_of
from meshcache.errors import ConfigError

CONFIGS = Path(__file__).parent.parent / "configs"
NAME_RULE = "must be 1 to 64 letters, digits, dots, dashes or underscores and begin with a letter or digit"


def problems(**tables: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.from_tables(**tables)
    return caught.value.problems


def load(tmp_path: Path, text: str = "", *overrides: str, **environ: str) -> Config:
    path = tmp_path / "mesh.toml"
    path.write_text(text, encoding="utf-8")
    return Config.load(path, overrides=overrides, environ=environ)


def test_default_file_equals_the_defaults_in_code_and_names_every_key() -> None:
    in_file = tomllib.loads((CONFIGS / "default.toml").read_text(encoding="utf-8"))
    in_code = asdict(Config())
    in_code["node"]["seeds"] = list(in_code["node"]["seeds"])
    assert in_file == in_code
    assert Config.load(CONFIGS / "default.toml", environ={}) == Config()


def test_default_file_explains_every_key() -> None:
    lines = (CONFIGS / "default.toml").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "=" in line and not line.startswith("#") and "  # " not in line] == []


@pytest.mark.parametrize("name", ["local.toml", "lan.toml", "wan.toml", "production.toml"])
def test_other_files_are_valid_and_differ_from_the_defaults(name: str) -> None:
    assert Config.load(CONFIGS / name, environ={}) != Config()


def test_the_defaults_of_the_design() -> None:
    config = Config()
    assert (config.cluster.replicas, config.cluster.write_quorum, config.cluster.read_quorum) == (2, 2, 1)
    assert (config.cluster.vnodes, config.cluster.slots, config.cluster.partition_policy) == (150, 1024, "available")
    assert (config.store.max_entries, config.store.max_bytes, config.store.default_ttl_s) == (10_000, 100_000_000, 300)
    assert (config.hot_keys.threshold_reads, config.hot_keys.window_s, config.hot_keys.copy_ttl_s) == (1000, 60, 1)
    assert config.limits.operation_timeout_s == 5


def test_overrides_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    text = "[store]\nmax_entries = 1\ndefault_ttl_s = 1\n[cluster]\nvnodes = 1"
    environ = {"MESHCACHE_STORE_DEFAULT_TTL_S": "2", "MESHCACHE_CLUSTER_VNODES": "2"}
    config = load(tmp_path, text, "cluster.vnodes=3", **environ)
    assert (config.store.max_entries, config.store.default_ttl_s, config.cluster.vnodes) == (1, 2.0, 3)
    assert config.store.max_bytes == Config().store.max_bytes


def test_text_becomes_the_type_of_the_setting(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "",
        "node.seeds=a:1, [::1]:2",
        "store.default_ttl_s=inf",
        "store.max_entries=1_000",
        "node.zone=5",
        MESHCACHE_SECURITY_INSECURE="TRUE",
    )
    assert config.node.seeds == ("a:1", "[::1]:2")
    assert config.store.default_ttl_s == math.inf
    assert (config.store.max_entries, config.node.zone, config.security.insecure) == (1000, "5", True)


def test_tables_survive_the_way_through_overrides() -> None:
    tables: dict[str, dict[str, object]] = {
        "node": {"seeds": ["a:1", "b:2"], "weight": 2},
        "security": {"insecure": True},
        "store": {"default_ttl_s": 0.5, "max_entries": 7},
    }
    assert Config.load(overrides=overrides_of(tables), environ={}) == Config.from_tables(**tables)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            "[store]\nmax_entrys = 1\nmax_bytes = 'big'\n[cluster]\nreplicas = 2\nread_quorum = 3",
            "limits.pending_max=0",
            MESHCACHE_STOR_MAX_BYTES="1",
        )
    where = f" (in {tmp_path / 'mesh.toml'})"
    assert caught.value.problems == [
        f"store.max_entrys: no such setting; did you mean store.max_entries?{where}",
        "MESHCACHE_STOR_MAX_BYTES: no such setting in the environment; did you mean MESHCACHE_STORE_MAX_BYTES?",
        f"store.max_bytes: must be a whole number, is 'big'{where}",
        "limits.pending_max: must be at least 1, is 0 (from --set)",
        "cluster.read_quorum: must not be greater than cluster.replicas: 3 and 2",
    ]
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_unknown_names_come_with_a_suggestion() -> None:
    assert problems(clusters={}) == ["clusters: no such table; did you mean cluster?"]
    assert problems(store={"replicas": 3}) == ["store.replicas: no such setting; did you mean cluster.replicas?"]
    assert problems(zebra={}) == ["zebra: no such table"]


def test_a_key_outside_of_its_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"replicas: no such table; did you mean cluster\.replicas\?"):
        load(tmp_path, "replicas = 3")
    with pytest.raises(ConfigError, match="store: must be a table, is 3"):
        load(tmp_path, "store = 3")


def test_override_without_a_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.replicas: an override must be table\.key=value"):
        load(tmp_path, "", "cluster.replicas")


def test_variables_that_are_no_settings(tmp_path: Path) -> None:
    others = {
        "MESHCACHE_SEEDS": "a:1",
        "MESHCACHE_PURE": "1",
        "MESHCACHE_PORT_7101_TCP": "tcp://10.0.0.1:7101",
        "MESHCACHE_SERVICE_HOST": "x",
    }
    assert load(tmp_path, "", **others, PATH="x") == Config()


@pytest.mark.parametrize(
    ("table", "key", "value", "says"),
    [
        ("cluster", "replicas", 0, "must be at least 1, is 0"),
        ("cluster", "replicas", True, "must be a whole number, is True"),
        ("cluster", "replicas", 2.0, "must be a whole number, is 2.0"),
        ("cluster", "slots", 1000, "must be a power of two from 1 to 1,048,576, is 1,000"),
        ("cluster", "partition_policy", "magic", 'must be "available" or "strict", is "magic"'),
        ("store", "default_ttl_s", 0, "must be greater than 0, is 0.0; for entries that never expire write inf"),
        ("store", "default_ttl_s", math.nan, "must be a number, is nan"),
        ("store", "tombstone_grace_s", math.inf, "must be greater than 0, is inf"),
        ("node", "weight", -1, "must be greater than 0, is -1.0"),
        ("node", "id", "a b", f"{NAME_RULE}, is 'a b'"),
        ("node", "id", "x" * 65, f"{NAME_RULE}, is {'x' * 65!r}"),
        ("cluster", "name", "", f"{NAME_RULE}, is ''"),
        ("node", "listen", "127.0.0.1", "must be host:port, is '127.0.0.1'"),
        ("node", "listen", "127.0.0.1:0", "must have a port from 1 to 65535, is '127.0.0.1:0'"),
        ("node", "listen", "127.0.0.1:65536", "must have a port from 1 to 65535, is '127.0.0.1:65536'"),
        ("node", "listen", "::1:7101", "must have an IPv6 address in brackets, as [::1]:7101, is '::1:7101'"),
        ("node", "listen", "[zz]:7101", "has no valid IPv6 address between the brackets: '[zz]:7101'"),
        ("node", "seeds", ["a:1", ":2"], "must be host:port, has '' as host"),
        ("node", "seeds", "a:1", "must be a list of strings, is 'a:1'"),
        ("node", "seeds", [1], "must be a list of strings, is [1]"),
        ("node", "zone", "a\nb", "must be printable and at most 255 characters long"),
        ("log", "level", "loud", 'must be "debug" or "info" or "warning" or "error", is "loud"'),
    ],
)
def test_a_value_that_is_wrong_by_itself(table: str, key: str, value: object, says: str) -> None:
    assert problems(**{table: {key: value}}) == [f"{table}.{key}: {says}"]


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"cluster": {"write_quorum": 3}}, "cluster.write_quorum: must not be greater than cluster.replicas: 3 and 2"),
        ({"cluster": {"read_quorum": 3}}, "cluster.read_quorum: must not be greater than cluster.replicas: 3 and 2"),
        (
            {"membership": {"link_dead_after_s": 2.0}},
            "membership.link_dead_after_s: must not be greater than membership.dead_after_s: 2.0 and 1.2",
        ),
        (
            {"store": {"max_bytes": 1000}, "limits": {"value_bytes_max": 1001}},
            "limits.value_bytes_max: must not be greater than store.max_bytes: 1,001 and 1,000",
        ),
        (
            {"node": {"listen": "127.0.0.1:65400"}},
            "node.http: is node.listen's port + 200 by default, which is above 65535: set it",
        ),
        ({"node": {"http": "127.0.0.1:7101"}}, "node.http: is the same address as node.listen"),
    ],
)
def test_settings_that_contradict_each_other(tables: dict[str, dict[str, object]], says: str) -> None:
    assert problems(**tables) == [says]


def test_a_default_gives_way_to_a_bound_that_was_given() -> None:
    config = Config.from_tables(cluster={"replicas": 1}, store={"max_bytes": 1000})
    assert config.cluster.write_quorum == 1
    assert config.limits.value_bytes_max == 1000


def test_listening_beyond_this_machine_must_be_asked_for() -> None:
    (found,) = problems(node={"listen": "10.0.0.1:7101"})  # what follows from it is not reported as a mistake
    assert found.startswith("node.listen: 10.0.0.1 can be reached")
    assert "security.insecure = true" in found
    (found,) = problems(node={"listen": "10.0.0.1:7101", "publish": "10.0.0.1:7201"})
    assert found.startswith("node.listen, node.publish: 10.0.0.1 can be reached")
    allowed = Config.from_tables(node={"listen": "10.0.0.1:7101"}, security={"insecure": True})
    assert allowed.node.publish_address == "10.0.0.1:7201"
    assert problems(node={"http": "10.0.0.1:80"})[0].startswith("node.http: 10.0.0.1 can be reached")
    assert Config.from_tables(node={"http": "10.0.0.1:80"}, http={"token_file": "t"}).http.token_file == "t"
    for loopback in ("127.9.9.9:7101", "[::1]:7101", "localhost:7101"):
        assert Config.from_tables(node={"listen": loopback}).node.listen == loopback


KEYS: dict[str, object] = {"key_file": "keys/{id}.secret", "allowed_keys_dir": "keys/allowed"}


@pytest.mark.parametrize("given", KEYS)
def test_a_key_file_and_the_directory_of_those_allowed_come_together(given: str) -> None:
    (other,) = set(KEYS) - {given}
    (found,) = problems(security={given: KEYS[given]})
    assert found.startswith(f"security.{given}: needs security.{other}, too")
    assert problems(security={given: KEYS[given], "permissive": True}) == [found]


def test_to_let_in_who_has_no_key_takes_keys_in_the_first_place() -> None:
    (found,) = problems(security={"permissive": True})
    assert found == "security.permissive: needs security.key_file and security.allowed_keys_dir"


def test_a_key_file_may_have_the_nodes_id_in_its_name() -> None:
    assert Config.from_tables(node={"id": "n7"}, security=KEYS).key_path == "keys/n7.secret"
    assert Config().key_path == ""


def test_with_keys_a_node_may_listen_beyond_this_machine_but_not_while_it_lets_in_who_has_none() -> None:
    beyond: dict[str, object] = {"listen": "10.0.0.1:7101", "publish": "10.0.0.1:7201", "http": "off"}
    assert Config.from_tables(node=beyond, security=KEYS).node.listen == "10.0.0.1:7101"
    (found,) = problems(node=beyond, security={**KEYS, "permissive": True})
    assert found.startswith("node.listen, node.publish: 10.0.0.1 can be reached")
    Config.from_tables(node=beyond, security={**KEYS, "permissive": True, "insecure": True})
    (found,) = problems(node={"http": "10.0.0.1:7301"}, security=KEYS)
    assert found.startswith("node.http: 10.0.0.1 can be reached"), "keys do not guard what is told by HTTP"


def test_keys_are_not_enough_for_http_beyond_this_machine() -> None:
    keys: dict[str, object] = {"key_file": "k", "allowed_keys_dir": "d"}
    nodes: list[dict[str, object]] = [
        {"listen": "10.0.0.1:7101"},
        {"listen": "0.0.0.0:7101", "advertise": "cache1:7101"},
        {"http": "10.0.0.1:80"},
    ]
    for node in nodes:
        (found,) = problems(node=node, security=keys)
        assert re.match(r"node\.http(, which is beside node\.listen)?: \S+ can be reached from other machines", found)
        assert all(advice in found for advice in ("http.token_file", 'node.http = "off"', "security.insecure = true"))
        for cure in (
            {"http": {"token_file": "t"}},
            {"security": {**keys, "insecure": True}},
            {"node": node | {"http": "off"}},
            {"node": node | {"http": "127.0.0.1:7301"}},
        ):
            Config.from_tables(**{"node": node, "security": keys} | cure)
    (found,) = problems(node={"listen": "10.0.0.1:7101"}, http={"token_file": "t"})
    assert found.startswith("node.listen: 10.0.0.1 can be reached")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http.tls_cert_file", "http.tls_key_file"),
        ("http.tls_key_file", "http.tls_cert_file"),
        ("security.key_file", "security.allowed_keys_dir"),
    ],
)
def test_a_file_that_needs_another_is_not_given_alone(one: str, other: str) -> None:
    table, _, key = one.partition(".")
    tables: dict[str, dict[str, object]] = {table: {key: "x"}}
    (found,) = problems(**tables)
    assert found.startswith(f"{one}: needs {other}, too")


def test_a_wildcard_is_no_address_to_dial() -> None:
    no_wildcard = "must be the very address that other nodes dial, not a wildcard, unless node.advertise names it"
    for insecure in (True, False):
        for wildcard in ("0.0.0.0:7101", "[::]:7101", "0:7101"):
            found = problems(node={"listen": wildcard}, security={"insecure": insecure})
            assert found == [f"node.listen: {no_wildcard}"]
    found = problems(node={"publish": "0.0.0.0:7201"})
    assert found == [f"node.publish: {no_wildcard}"]


def test_a_node_that_is_dialled_by_another_address_than_it_binds_may_bind_all() -> None:
    pod: dict[str, object] = {"listen": "0.0.0.0:7101", "advertise": "meshcache-0.meshcache:7101"}
    node = Config.from_tables(node=pod, security={"insecure": True}).node
    assert node.address == "meshcache-0.meshcache:7101"
    assert (node.publish_address, node.publish_dialled) == ("0.0.0.0:7201", "meshcache-0.meshcache:7201")
    assert (node.http_address, node.http_dialled) == ("0.0.0.0:7301", "meshcache-0.meshcache:7301")
    (problem,) = problems(node=pod)
    assert "0.0.0.0 can be reached from other machines" in problem
    for wildcard in ("0.0.0.0:7101", "[::]:7101"):
        found = problems(node={"advertise": wildcard})
        assert found == [f"node.advertise: must be the very address that others dial, is {wildcard!r}"]
    (problem,) = problems(node={"advertise": "meshcache-0"})
    assert problem.startswith("node.advertise: must be host:port")


def test_what_has_an_address_of_its_own_is_dialled_there() -> None:
    node = {"listen": "127.0.0.1:7101", "advertise": "cache1:7501", "http": "127.0.0.2:80"}
    config = Config.from_tables(node=node)
    assert (config.node.publish_dialled, config.node.http_dialled) == ("cache1:7201", "127.0.0.2:80")
    assert Config.from_tables(node=node | {"http": "off"}).node.http_dialled == ""
    assert Config().node.address == Config().node.listen


def test_a_port_too_high_is_one_mistake() -> None:
    (found,) = problems(node={"listen": "127.0.0.1:65500"})
    assert found.startswith("node.listen: port 65500 leaves no room for node.publish and node.http")


def test_durations_may_have_units_outside_of_a_file() -> None:
    config = Config.load(
        overrides=["store.default_ttl_s=5m", "membership.forget_after_s=inf", "node.weight=2"],
        environ={"MESHCACHE_MEMBERSHIP_DEAD_AFTER_S": "1500ms"},
    )
    assert (config.store.default_ttl_s, config.membership.forget_after_s) == (300.0, math.inf)
    assert (config.membership.dead_after_s, config.node.weight) == (1.5, 2.0)
    with pytest.raises(ConfigError, match=r"node\.weight: must be a number, is '5m' \(from --set\)"):
        Config.load(overrides=["node.weight=5m"], environ={})
    with pytest.raises(ConfigError, match=r"store\.default_ttl_s: must be a number, is 'soon' \(from --set\)"):
        Config.load(overrides=["store.default_ttl_s=soon"], environ={})


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mesh\.toml: not valid TOML: .*line 2"):
        load(tmp_path, "[store]\nmax_entries = = 3\n")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration file .*absent\.toml: No such file"):
        Config.load(tmp_path / "absent.toml", environ={})
    (tmp_path / "latin.toml").write_bytes(b'[node]\nzone = "\xe9"\n')
    with pytest.raises(ConfigError, match=r"latin\.toml: the file must be UTF-8 text"):
        Config.load(tmp_path / "latin.toml", environ={})


def test_what_follows_from_other_settings() -> None:
    node = NodeSettings(listen="[::1]:7101")
    assert (node.publish_address, node.http_address) == ("[::1]:7201", "[::1]:7301")
    assert NodeSettings(publish="127.0.0.1:1").publish_address == "127.0.0.1:1"
    assert NodeSettings(host="rack-7").host_label == "rack-7"
    assert NodeSettings().host_label


def test_a_node_without_id_gets_a_valid_one_from_host_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    assert NodeSettings(id="node1").node_id == "node1"
    monkeypatch.setattr("platform.node", lambda: "-ada's laptop" + "x" * 80)
    derived = NodeSettings().node_id
    assert derived.startswith("ada-s-laptop")
    assert derived.endswith("-7101")
    assert Config.from_tables(node={"id": derived}).node.id == NodeSettings().node_id
    monkeypatch.setattr("platform.node", lambda: "")
    assert NodeSettings().node_id == "node-7101"


@pytest.mark.parametrize("text", ["127.0.0.1:7101", "[::1]:7101", "cache-1.example.org:80"])
def test_addresses_split_and_join(text: str) -> None:
    assert join_address(*split_address(text)) == text


def test_http_is_off_where_that_is_said_and_then_takes_no_port() -> None:
    node = Config.from_tables(node={"http": "off"}).node
    assert (node.http, node.http_address) == ("off", "")
    assert Config.from_tables(node={"listen": "127.0.0.1:65400", "http": "off"}).node.publish_address
    assert problems(node={"http": "of"})[0].endswith('for no HTTP at all write "off"')
    assert problems(http={"stall_s": 0, "connections_max": 0, "request_timeout_s": -1}) == [
        "http.stall_s: must be greater than 0, is 0.0",
        "http.connections_max: must be at least 1, is 0",
        "http.request_timeout_s: must be greater than 0, is -1.0",
    ]
