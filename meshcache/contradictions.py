"""What can be wrong between settings, each of which is fine by itself. Pure: it looks at no file and at no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from meshcache.address import is_loopback, split_address

PUBLISH_PORT_OFFSET: Final = 100
"""The invalidation stream's port, from ``listen``'s, where ``node.publish`` is empty."""

HTTP_PORT_OFFSET: Final = 200
"""The HTTP port, from ``listen``'s, where ``node.http`` is empty."""

HTTP_OFF: Final = "off"
"""As ``node.http``: the node serves no HTTP."""


def contradictions(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong between settings, each of which is fine by itself."""
    bounds = (
        ("cluster.write_quorum", "cluster.replicas", "not be greater than"),
        ("cluster.read_quorum", "cluster.replicas", "not be greater than"),
        ("limits.value_bytes_max", "store.max_bytes", "not be greater than"),
        ("limits.value_bytes_max", "limits.request_bytes_max", "be less than"),
        ("membership.link_dead_after_s", "membership.dead_after_s", "not be greater than"),
    )
    problems = [
        f"{low}: must {relation} {high}: {values[low]:,} and {values[high]:,}"
        for low, high, relation in bounds
        if values[low] > values[high] or (values[low] == values[high] and relation == "be less than")
    ]
    if values["snapshot.enabled"] and not values["node.data_dir"]:
        problems.append("snapshot.enabled: needs node.data_dir, a directory for this node alone")
    return problems + _file_problems(values) + _address_problems(values) + _memcached_problems(values)


def _file_problems(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the files for keys and for TLS, of which one needs the other."""
    pairs = (
        ("security.key_file", "security.allowed_keys_dir", "`meshcache keygen` makes both"),
        ("http.tls_cert_file", "http.tls_key_file", "a certificate and its private key, in PEM"),
        ("memcached.tls_cert_file", "memcached.tls_key_file", "a certificate and its private key, in PEM"),
    )
    problems = [
        f"{one}: needs {other}, too: {advice}"
        for first, second, advice in pairs
        for one, other in ((first, second), (second, first))
        if values[one] and not values[other]
    ]
    if values["security.permissive"] and not (values["security.key_file"] or values["security.allowed_keys_dir"]):
        problems.append("security.permissive: needs security.key_file and security.allowed_keys_dir")
    return problems


_WILDCARDS: Final = frozenset({"0.0.0.0", "::", "0"})  # noqa: S104 - this refuses them


def _address_problems(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the addresses. What follows from ``listen`` is not held against the user again."""
    listen = values["node.listen"]
    given = {key: values[f"node.{key}"] for key in ("listen", "publish", "http") if values[f"node.{key}"]}
    is_off = given.get("http") == HTTP_OFF
    if is_off:
        del given["http"]
    host, port = split_address(listen)
    problems = []
    offsets = {"publish": PUBLISH_PORT_OFFSET} | ({} if is_off else {"http": HTTP_PORT_OFFSET})
    beyond = [key for key, offset in offsets.items() if key not in given and port + offset > 65535]
    if len(beyond) == 1:
        key = beyond[0]
        problems.append(f"node.{key}: is node.listen's port + {offsets[key]} by default, which is above 65535: set it")
    elif beyond:
        problems.append(
            f"node.listen: port {port} leaves no room for node.publish and node.http, which are at this port + "
            f"{PUBLISH_PORT_OFFSET} and + {HTTP_PORT_OFFSET} by default: set those, or choose a lower port"
        )
    used = {("listen", host, port)}
    for key, offset in offsets.items():
        address = split_address(given[key]) if key in given else (host, port + offset)
        problems += [
            f"node.{key}: is the same address as node.{other}" for other, *taken in sorted(used) if (*taken,) == address
        ]
        used.add((key, *address))
    is_closed = bool(values["security.key_file"]) and not values["security.permissive"]
    is_insecure = values["security.insecure"]
    trusted = ("listen", "publish") if is_closed or is_insecure else ()
    if is_insecure or values["http.token_file"]:
        trusted = (*trusted, "http")
    advertise = values["node.advertise"]
    problems += _exposed({key: given[key] for key in given if key != "http"}, advertise, trusted)
    if "http" in given:
        return problems + _http_exposed("node.http", split_address(given["http"])[0], advertise, trusted)
    if "listen" in trusted and not is_off:  # HTTP beside it has a rule of its own
        problems += _http_exposed("node.http, which is beside node.listen", host, advertise, trusted)
    return problems


def _exposed(given: Mapping[str, str], advertise: str, trusted: tuple[str, ...]) -> list[str]:
    """Return what is wrong with the reach of addresses: nobody can dial a wildcard, and all can dial some others.

    ``trusted``: what may be reached from other machines.
    """
    hosts = {key: split_address(address)[0] for key, address in given.items()}
    problems = [_wildcard(f"node.{key}") for key, host in hosts.items() if host in _WILDCARDS and not advertise]
    exposed: dict[str, list[str]] = {}
    for key, host in hosts.items():
        if key not in trusted and _is_reached(host, advertise):
            exposed.setdefault(host, []).append(f"node.{key}")
    return problems + [
        f"{', '.join(names)}: {host} can be reached from other machines, and there is no encryption and no "
        "authentication: set security.key_file and allowed_keys_dir, see `meshcache keygen --help`, "
        "or security.insecure = true if every machine of that network is trusted"
        for host, names in exposed.items()
    ]


def _http_exposed(name: str, host: str, advertise: str, trusted: tuple[str, ...]) -> list[str]:
    """Return what is wrong with the reach of the address of HTTP, for which keys do nothing."""
    if host in _WILDCARDS and not advertise:
        return [_wildcard(name)] if name == "node.http" else []
    if "http" in trusted or not _is_reached(host, advertise):
        return []
    advice = f'set http.token_file, and best http.tls_cert_file and tls_key_file, too; or node.http = "{HTTP_OFF}"'
    reached = f"{host} can be reached from other machines, and whoever reaches it could read the statistics"
    return [f"{name}: {reached}: {advice}; or security.insecure = true if every machine of that network is trusted"]


def _wildcard(name: str) -> str:
    return f"{name}: must be the very address that other nodes dial, not a wildcard, unless node.advertise names it"


def _is_reached(host: str, advertise: str) -> bool:
    """Tell whether other machines reach what is bound there. A wildcard that nobody can dial is a mistake itself."""
    return not is_loopback(host) and (bool(advertise) or host not in _WILDCARDS)


def _memcached_problems(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the address of the memcached door, for which keys do nothing."""
    address = values["memcached.listen"]
    if not address:
        return []
    host, port = split_address(address)
    problems = [
        f"memcached.listen: is the same address as node.{key}"
        for key in ("listen", "publish", "http")
        if (other := values[f"node.{key}"]) not in {"", HTTP_OFF} and split_address(other) == (host, port)
    ]
    if is_loopback(host) or values["security.insecure"] or values["memcached.password_file"]:
        return problems
    problems.append(
        f"memcached.listen: {host} can be reached from other machines, and whoever reaches it could read and change "
        "everything: set memcached.password_file, and best memcached.tls_cert_file and tls_key_file, too; or "
        "security.insecure = true if every machine of that network is trusted"
    )
    return problems
