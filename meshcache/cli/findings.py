"""What may be wrong with a mesh or a configuration: one function for each thing that is looked at, all of them pure.

A finding says how bad it is, what is so, and what to do. ``ok`` findings say what was looked at and is well, so that
nobody has to guess whether it was. A ``note`` is worth knowing and no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from meshcache._native import NATIVE
from meshcache.address import is_loopback, split_address
from meshcache.cli.counters import bytes_text
from meshcache.cli.health import RECENT_S
from meshcache.cli.survey import GONE, NodeAnswer, Survey
from meshcache.config import Config
from meshcache.durations import text_of
from meshcache.protocol.clock import LEAD_MS_MAX

CLOCK_WARNING_S: Final = 0.25
"""An entry may live longer than it should by as much as clocks differ."""
CLOCK_ERROR_S: Final = LEAD_MS_MAX / 1000
"""Beyond this nodes refuse each other's messages."""
HEARD_WARNING_S: Final = 10.0
FILES_MIN: Final = 1024
FILES_SHARE_MAX: Final = 0.8
NODE_BYTES: Final = 35_000_000
"""An empty node."""
ROOM_FACTOR: Final = 1.5
"""Messages under way need half as much memory again as the store."""
AVAILABLE_SHARE_MIN: Final = 0.1


class Severity(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was looked at."""

    severity: Severity
    check: str
    what: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return it for programs."""
        return {"severity": self.severity.value, "check": self.check, "what": self.what, "advice": self.advice}


Findings = Iterator[Finding]


def error(check: str, what: str, advice: str) -> Finding:
    """Return what keeps the mesh from its work."""
    return Finding(Severity.ERROR, check, what, advice)


def warning(check: str, what: str, advice: str) -> Finding:
    """Return what may become a fault, or is not what was meant."""
    return Finding(Severity.WARNING, check, what, advice)


def fine(check: str, what: str) -> Finding:
    """Return what is well."""
    return Finding(Severity.OK, check, what)


def note(check: str, what: str, advice: str = "") -> Finding:
    """Return what is worth knowing."""
    return Finding(Severity.NOTE, check, what, advice)


# -- settings ----------------------------------------------------------------------------------------------


def quorums(replicas: int, write: int, read: int) -> Findings:
    """Say in words what N, W and R promise."""
    told = f"N={replicas} copies, W={write} to write, R={read} to read"
    if write + read > replicas:
        yield fine("quorum", f"{told}: W+R > N, so a read sees every write that was acknowledged")
    else:
        yield warning(
            "quorum",
            f"{told}: W+R is not greater than N, so a read may miss a write that was just acknowledged",
            f"raise cluster.write_quorum or cluster.read_quorum, so that together they are more than {replicas}; or "
            "leave it, where a stale read does no harm",
        )
    if write == 1 and replicas > 1:
        yield warning(
            "quorum",
            "W=1: a write is acknowledged when one node has it, and is lost if that node dies at once",
            "set cluster.write_quorum = 2",
        )
    if replicas == 1:
        yield note(
            "quorum",
            "N=1: each key is held by one node, and is gone with it",
            "set cluster.replicas = 2, if losing entries makes your source suffer",
        )


def machine_memory(wanted_bytes: float, memory_bytes: float | None, where: str) -> Findings:
    """Compare what nodes of one machine may take with what it has."""
    if not memory_bytes:
        return
    if wanted_bytes > memory_bytes:
        yield error(
            "memory",
            f"{where} has {bytes_text(memory_bytes)} of memory, and its nodes may need {bytes_text(wanted_bytes)}",
            "lower store.max_bytes (a node needs half as much again, and 35 MB), or use machines with more memory",
        )
    else:
        yield fine(
            "memory", f"{where}: its nodes need at most {bytes_text(wanted_bytes)} of {bytes_text(memory_bytes)}"
        )


def needed_bytes(max_bytes: float) -> float:
    """Return what a node may need that holds so much."""
    return NODE_BYTES + ROOM_FACTOR * max_bytes


def of_config(config: Config, memory_bytes: float | None) -> Findings:
    """Look at one configuration that is free of mistakes."""
    cluster = config.cluster
    yield fine("configuration", "every setting is known, of the right kind and within its limits")
    yield from quorums(cluster.replicas, cluster.write_quorum, cluster.read_quorum)
    yield from machine_memory(needed_bytes(config.store.max_bytes), memory_bytes, "this machine")
    if not config.node.seeds:
        yield note("configuration", "node.seeds is empty: this node begins a mesh of its own, unless it is a seed")
    if config.security.permissive:
        yield note(
            "configuration",
            "security.permissive is true: those without a key are let in, too",
            "set it to false when `meshcache stats` counts nobody without a key any more",
        )
    if config.security.insecure and not config.security.key_file:
        yield note(
            "configuration",
            "security.insecure is true: whoever reaches the node's port can read, write and delete everything",
            "close the ports to all but the machines of the mesh and its clients",
        )

    yield from _http(config)


def _http(config: Config) -> Findings:
    """Say who could read what a node tells by HTTP."""
    address = config.node.http_address
    if not address or is_loopback(split_address(address)[0]):
        return
    if not config.http.token_file:
        yield note(
            "configuration",
            f"whoever reaches HTTP of the node, at {address}, can read its statistics",
            "set http.token_file, and a certificate for TLS; or close the port to strangers",
        )
    elif not config.http.tls_cert_file:
        yield note(
            "configuration",
            f"whoever sees the traffic of HTTP, at {address}, can read the tokens",
            "set http.tls_cert_file and http.tls_key_file",
        )


def of_settings(nodes: Sequence[NodeAnswer]) -> Findings:
    """Compare the settings of running nodes, and say what their quorums promise."""
    told = [(node, settings) for node in nodes if (settings := node.stats.get("settings"))]
    if not told:
        yield note("configuration", "no node tells its settings: all run an older version")
        return
    same = True
    for table, key in [(table, key) for table, keys in told[0][1].items() for key in keys]:
        values: dict[Any, list[str]] = {}
        for node, settings in told:
            values.setdefault(settings.get(table, {}).get(key), []).append(node.node_id)
        if len(values) > 1:
            same = False
            text = "; ".join(f"{value} on {', '.join(names)}" for value, names in values.items())
            if table == "cluster":
                yield error("configuration", f"cluster.{key} differs: {text}", "make it the same on all nodes")
            else:
                yield warning(
                    "configuration", f"{table}.{key} differs: {text}", "make it the same, unless you meant it"
                )
    if same:
        yield fine("configuration", f"{len(told)} nodes have the same settings")
    cluster = told[0][1]["cluster"]
    yield from quorums(cluster["replicas"], cluster["write_quorum"], cluster["read_quorum"])


# -- members -----------------------------------------------------------------------------------------------


def of_members(found: Survey) -> Findings:
    """Look at who is there, who serves, and whether they agree."""
    well = True
    for node in found.nodes:
        name = node.node_id
        if node.state == "dead":
            yield error("members", f"{name} is dead", f"start it again, or give it up with `meshcache forget {name}`")
        elif node.state == "suspect":
            yield warning("members", f"{name} is silent", "wait some seconds; if it stays so, see its log")
        elif node.error and node.state not in GONE:
            yield error("members", f"{name} does not answer: {node.error}", "see its log, and the network on the way")
        elif node.answers and not node.status.get("ready"):
            yield error("members", f"{name} does not serve yet", "wait; if it stays so, see its log")
        else:
            continue
        well = False
    if well:
        yield fine("members", f"{len(found.answering)} nodes serve")
    yield from _agreement(found.answering)
    owners = [node for node in found.nodes if node.state not in GONE and node.member.get("weight", 1) != 0]
    replicas = max((node.status.get("replicas") or 0 for node in found.answering), default=0)
    if len(owners) < replicas:
        yield warning(
            "members",
            f"cluster.replicas is {replicas}, but {_nodes(len(owners))} there to hold copies",
            "add nodes, or lower cluster.replicas",
        )


def _nodes(count: int) -> str:
    return "1 node is" if count == 1 else f"{count} nodes are"


def _agreement(answering: Sequence[NodeAnswer]) -> Findings:
    by_ring: dict[Any, list[str]] = {}
    for node in answering:
        by_ring.setdefault(node.status.get("ring_digest"), []).append(node.node_id)
    if len(by_ring) > 1:
        sides = " and ".join(", ".join(names) for names in by_ring.values())
        yield error(
            "ring",
            f"the nodes do not agree on who owns what: {sides} each have another ring",
            "wait some seconds; if it stays so, they can not reach each other: see the links",
        )
    elif answering:
        yield fine("ring", "all nodes have the same ring")
    moving = sum(node.status.get("slots_missing") or 0 for node in answering)
    if moving:
        yield warning("ring", f"{moving:,} slots are on the move", "wait until `meshcache status` is well")


def of_hints(found: Survey, earlier: Survey | None) -> Findings:
    """Look whether writes that were kept for a node get to it."""
    for node in found.answering:
        waiting = (node.stats.get("hints") or {}).get("waiting") or {}
        before = earlier.of(node.node_id) if earlier else None
        for target, count in waiting.items():
            was = ((before.stats.get("hints") or {}).get("waiting") or {}).get(target, 0) if before else 0
            if was and count >= was:
                yield warning(
                    "hints",
                    f"{node.node_id} keeps {count:,} writes that {target} has missed, and they do not get fewer",
                    f"see whether {target} is up, and whether {node.node_id} reaches it",
                )


def of_failures(answering: Sequence[NodeAnswer]) -> Findings:
    """Look at what nodes have had to drop."""
    for node in answering:
        failed = sum(((node.stats.get("node") or {}).get("failed") or {}).values())
        if failed:
            yield warning(
                "failures", f"{node.node_id} dropped {failed:,} messages that it failed on", "see `failed` in its log"
            )
        refused = node.count("node", "clock_refused")
        if refused:
            yield warning(
                "clock",
                f"{node.node_id} refused {refused:,.0f} messages, since a clock in them was too far ahead",
                "have all machines keep their time by NTP",
            )


# -- the network -------------------------------------------------------------------------------------------


def of_links(found: Survey) -> Findings:
    """Look at how each node sees the others."""
    up, told = 0, 0
    for node in [node for node in found.answering if "links" in node.stats]:
        told += 1
        for other in found.nodes:
            if other.node_id == node.node_id or other.state in GONE:
                continue
            address = other.member["address"]
            link = node.stats["links"].get(address)
            if link is None or not link["up"]:
                since = "" if link is None else f" for {text_of(link['since_s'])}"
                yield error(
                    "links",
                    f"{node.node_id} has had no connection to {other.node_id} at {address}{since}",
                    f"is {other.node_id} up? Else open {address} in the firewalls on the way from {node.node_id}",
                )
            elif link["heard_s_ago"] is not None and link["heard_s_ago"] > HEARD_WARNING_S + len(found.nodes):
                yield warning(
                    "links",
                    f"{node.node_id} has not heard of {other.node_id} for {text_of(link['heard_s_ago'])}",
                    "the connection stands, but nothing passes: look at the network, and at the load of both",
                )
            else:
                up += 1
    if told:
        yield fine("links", f"{up} connections from node to node are up, as the nodes see them")


def of_breakers(answering: Sequence[NodeAnswer]) -> Findings:
    """Tell whom nodes do not ask for now, since it failed those who wait."""
    told = [(node.node_id, node.stats["breakers"]["open"]) for node in answering if "breakers" in node.stats]
    is_any = False
    for node_id, others in told:
        for other in [other for other, is_open in others.items() if is_open]:
            is_any = True
            yield warning(
                "breakers",
                f"{node_id} does not ask {other} for now: it was too slow, or did not answer, again and again",
                f"look at the load, the memory and the longest turn of {other}, and at the network between the two",
            )
    if told and not is_any:
        yield fine("breakers", "each node asks all others")


def of_ports(unreachable: Mapping[tuple[str, str, str], str]) -> Findings:
    """Tell of ports that can not be reached from here: by (node, port, address), why."""
    for (node_id, port, address), why in unreachable.items():
        if port == "publish":
            yield warning(
                "ports",
                f"the invalidation stream of {node_id} at {address} can not be reached from here: {why}",
                "open the port: without it, clients here can neither subscribe nor keep near copies",
            )
        else:
            yield note("ports", f"HTTP of {node_id} at {address} can not be reached from here: {why}")
    if not any(port == "publish" for _, port, _ in unreachable):
        yield fine("ports", "the invalidation streams of all nodes can be reached from here")


def of_clocks(found: Survey) -> Findings:
    """Compare the clocks of nodes with the one here, and with each other."""
    worst = 0.0
    told = [node for node in found.answering if node.clock_ahead_s is not None]
    for node in told:
        off_s = max(0.0, abs(node.clock_ahead_s or 0.0) - node.clock_doubt_s)
        worst = max(worst, off_s)
        where = "ahead of" if (node.clock_ahead_s or 0.0) > 0 else "behind"
        if off_s > CLOCK_WARNING_S:
            how = error if off_s > CLOCK_ERROR_S else warning
            yield how("clock", f"the clock of {node.node_id} is {off_s:.1f} s {where} the one here", _CLOCK_ADVICE)
        host_ms, own_ms = (node.stats.get("host") or {}).get("wall_ms"), node.stats["clock"]["wall_ms"]
        if host_ms is not None and abs(host_ms - own_ms) > 1000 * CLOCK_WARNING_S + 1000 * node.clock_doubt_s:
            yield warning(
                "clock",
                f"the clock of {node.node_id}'s machine was set by {abs(host_ms - own_ms) / 1000:.1f} s while it ran, "
                "and the node goes on with the time that it began with",
                f"start {node.node_id} again",
            )
    if worst <= CLOCK_WARNING_S:
        yield from _clocks_between(told)
    if told and worst <= CLOCK_WARNING_S:
        yield fine("clock", f"the clocks of {len(told)} nodes are within {max(0.01, worst):.2f} s of the one here")


_CLOCK_ADVICE: Final = "have all machines keep their time by NTP; then start the nodes again"


def _clocks_between(told: Sequence[NodeAnswer]) -> Findings:
    ahead = sorted(((node.clock_ahead_s or 0.0), node.clock_doubt_s, node.node_id) for node in told)
    if len(ahead) < 2:
        return
    (low_s, low_doubt_s, low), (high_s, high_doubt_s, high) = ahead[0], ahead[-1]
    apart_s = high_s - low_s - low_doubt_s - high_doubt_s
    if apart_s > CLOCK_WARNING_S:
        how = error if apart_s > CLOCK_ERROR_S else warning
        yield how("clock", f"the clocks of {low} and {high} are {apart_s:.1f} s apart", _CLOCK_ADVICE)


# -- processes and machines --------------------------------------------------------------------------------


def of_processes(found: Survey) -> Findings:
    """Look at the memory and the descriptors of each node."""
    for node in [node for node in found.answering if node.stats.get("host")]:
        yield from _descriptors(node)
        store = node.status.get("store") or {}
        seconds = store.get("evicted_s_ago")
        if seconds is not None and seconds <= RECENT_S:
            yield warning(
                "memory",
                f"{node.node_id} is full: it dropped {store['evictions']:,} entries, the last {text_of(seconds)} ago",
                "raise store.max_entries or store.max_bytes, add nodes, or give keys shorter lifetimes",
            )
        resident, allowed = node.count("host", "resident_bytes"), needed_bytes(store.get("max_bytes") or 0)
        if resident is not None and resident > allowed + NODE_BYTES:
            yield warning(
                "memory",
                f"{node.node_id} takes {bytes_text(resident)}, more than its store may need ({bytes_text(allowed)})",
                "a node inside a program shares its memory; else see connection_cut and router_reset in its log",
            )
    yield from _machines(found.answering)


def _descriptors(node: NodeAnswer) -> Findings:
    allowed, used = node.count("host", "files_max"), node.count("host", "files_open")
    if allowed is None:
        return
    if used is not None and used > FILES_SHARE_MAX * allowed:
        yield error(
            "descriptors",
            f"{node.node_id} uses {used:,.0f} of {allowed:,.0f} descriptors, and cuts idle connections",
            "raise the limit (ulimit -n, or LimitNOFILE in systemd), or have fewer clients",
        )
    elif allowed < FILES_MIN:
        yield warning(
            "descriptors",
            f"{node.node_id} may open {allowed:,.0f} descriptors only, and each client and each node takes some",
            f"raise the limit to {FILES_MIN:,} at least (ulimit -n, or LimitNOFILE in systemd)",
        )
    else:
        yield fine("descriptors", f"{node.node_id} may open {allowed:,.0f}, and has {used or 0:,.0f} open")


def _machines(answering: Sequence[NodeAnswer]) -> Findings:
    by_host: dict[str, list[NodeAnswer]] = {}
    for node in answering:
        by_host.setdefault(str(node.member.get("host")), []).append(node)
    for host, nodes in by_host.items():
        memory = max((node.count("host", "memory_bytes") or 0 for node in nodes), default=0)
        available = min((node.count("host", "memory_available_bytes") or 0 for node in nodes), default=0)
        wanted = sum(needed_bytes((node.status.get("store") or {}).get("max_bytes") or 0) for node in nodes)
        yield from machine_memory(wanted, memory, f"{host} ({', '.join(node.node_id for node in nodes)})")
        if memory and available < AVAILABLE_SHARE_MIN * memory:
            yield warning(
                "memory",
                f"{host} has {bytes_text(available)} of {bytes_text(memory)} left",
                "see what takes it: a node that is swapped out looks dead to the others",
            )


_PARTS: Final = ("meshcache", "libzmq", "pyzmq", "python")


def of_versions(answering: Sequence[NodeAnswer]) -> Findings:
    """Compare the versions that nodes run."""
    told = [node for node in answering if node.stats.get("host")]
    same = []
    for part in _PARTS:
        versions: dict[str, list[str]] = {}
        for node in told:
            versions.setdefault(str(node.stats["host"].get(part)), []).append(node.node_id)
        if len(versions) > 1:
            text = "; ".join(f"{version} on {', '.join(names)}" for version, names in versions.items())
            yield warning("versions", f"the nodes run different versions of {part}: {text}", "update the older ones")
        elif versions:
            same.append(f"{part} {next(iter(versions))}")
    if same:
        yield fine("versions", f"the same on all nodes: {', '.join(same)}")


def of_native(answering: Sequence[NodeAnswer], here: str) -> Findings:
    """Say where the native module is missing; ``here`` is what is known of the program that looks."""
    places = {"here": here}
    places |= {node.node_id: str(node.stats["host"]["hot_path"]) for node in answering if _says_hot_path(node)}
    without = {place: how for place, how in places.items() if how != NATIVE}
    for how in dict.fromkeys(without.values()):
        names = ", ".join(place for place in without if without[place] == how)
        yield note("native", f"without the native module, so slower ({names}): {how}")
    if not without:
        yield fine("native", f"the native module serves ({', '.join(places)})")


def _says_hot_path(node: NodeAnswer) -> bool:
    return "hot_path" in (node.stats.get("host") or {})  # an older version says nothing
