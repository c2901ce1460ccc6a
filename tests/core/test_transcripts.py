"""The files in transcripts/ show what is said on the wire, for people to read: here each is made anew and compared.

A function is a story, its docstring the head of its file. Where a change of the protocol was meant, look at what
``scripts/test tests/core/test_transcripts.py --rewrite-transcripts`` makes of the files, and commit them with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from story import DEFAULT, LOOSE, STRICT, Story
from transcript import EVEN, Transcript

from meshcache.protocol import messages as m
from meshcache.protocol.near_store import NearCache
from meshcache.simulation.clients import ClientHost, Loader
from meshcache.simulation.hosts import NodeHost

FOLDER = Path(__file__).with_name("transcripts")
LEGEND = """\
A line: milliseconds since the beginning, who -> whom when it arrives (-x: it is lost, => published), what is said in
the terms of meshcache/protocol/messages.py. v1, v2, … are versions; n3+1 is n3 in its next incarnation. Left out are
fields that are empty, and numbers of requests, clocks and digests.
"""
FEW = {"slots": 8}
"""So that they can be shown by number."""
KEYS = ("user:ada", "user:eve", "user:gus")
"""Of three slots."""
LINES_MAX = 40
REWRITE = "scripts/test tests/core/test_transcripts.py --rewrite-transcripts"


def told(nodes: int, cluster: dict[str, Any]) -> Story:
    return Story(nodes, cluster, weather=EVEN)


def client(story: Story, name: str, host: NodeHost | None = None, **options: Any) -> ClientHost:
    """A client that has said hello to whom it will ask: to this node only, if one is named."""
    if host is None:
        made = story.mesh.client(name, **options)
    else:
        made = story.mesh.client(name, stray=1.0, **options)
        made._seeds = (host.address,)
    for number in range(8):
        story.get(f"hello:{number}", made)
    return made


def has_events(_: str, __: str, message: Any) -> bool:
    return not isinstance(message, m.Invalidations) or bool(message.events)


def get() -> Transcript:
    """A GET, with N=3 W=2 R=2.

    The client computes the owners of the key from the member list, as the nodes do, and asks one of them: that is the
    coordinator. It holds one record itself, and asks one more owner, since R is 2; the newer version wins. To hold
    nothing is no vote, as a cache forgets: so all are asked for a key that is missing, which is None and no error.
    """
    story = told(3, STRICT)
    story.set("user:ada", "Ada")
    c1 = client(story, "c1")
    transcript = Transcript(story.mesh, [m.Get, m.Read, m.ReadReply, m.Reply])
    transcript.call(c1, "get('user:ada')", c1.session.get("user:ada", None, None))
    transcript.call(c1, "get('user:bob')", c1.session.get("user:bob", None, None))
    return transcript


def set() -> Transcript:  # noqa: A001  (named as the operation is)
    """A SET on three nodes, with N=2 W=1 R=1.

    The coordinator is an owner of the key. It stamps the value with a version, stores it, and sends it to the other
    owner; as W is 1, it answers without waiting for that. With the answer it publishes what was changed, for c2, which
    has a near cache and follows the streams of all nodes.
    """
    story = told(3, LOOSE)
    c1 = client(story, "c1")
    client(story, "c2", near_cache=NearCache(ttl=60))
    story.mesh.run(1.0)
    transcript = Transcript(story.mesh, [m.Set, m.Write, m.WriteReply, m.Reply, m.Invalidations], has_events)
    transcript.call(c1, "set('user:ada', 'Ada')", c1.session.set("user:ada", "Ada", None, None))
    story.mesh.run(0.01)
    return transcript


def read_repair() -> Transcript:
    """A read repairs the owner that missed a write, with N=3 W=2 R=2.

    One owner is cut off while the key is written, which succeeds, as two of three have it. Later somebody reads with
    consistency "all": the coordinator sees that one owner holds an older version, answers with the newest, and sends
    that to the one that lacks it, marked as a repair.
    """
    story = told(3, STRICT)
    first, _, third = story.owners("user:ada")
    c1 = client(story, "c1", first)
    c2 = client(story, "c2", first, consistency="all")
    kinds = [m.Get, m.Read, m.ReadReply, m.Reply, m.Set, m.Write, m.WriteReply]
    transcript = Transcript(story.mesh, kinds)
    transcript.call(c1, "set('user:ada', 'Ada')", c1.session.set("user:ada", "Ada", None, None))
    story.mesh.cut([third.name])
    transcript.tell(f"{third.name} is cut off")
    transcript.call(c1, "set('user:ada', 'Countess')", c1.session.set("user:ada", "Countess", None, None))
    story.mesh.network.heal()
    transcript.tell(f"{third.name} can be reached again")
    transcript.call(c2, "get('user:ada')", c2.session.get("user:ada", None, None))
    story.mesh.run(0.01)
    assert story.held("user:ada")[third.name] == b"Countess"
    return transcript


def join() -> Transcript:
    """A third node joins two, with N=2.

    It dials its seeds, says who it is, and is told who is there; everybody dials it back and passes on that it is
    alive. With that it is in the ring of all, and owns slots, whose records it pulls from those who had them. Each
    member says by a greater incarnation that it is synced: that it holds all its slots of the new ring.
    """
    story = told(2, DEFAULT | FEW)
    for key in KEYS:
        story.set(key, "old")
    kinds = [m.Hello, m.Welcome, m.Gossip, m.Ping, m.Ack, m.Pull, m.PullReply]
    transcript = Transcript(story.mesh, kinds, lambda _, __, message: getattr(message, "rumours", True) != [])
    transcript.tell("n3 starts; its seeds are n1 and n2")
    story.mesh.add().start()
    story.mesh.settle()
    story.mesh.run(1.0)
    assert not story.mesh.disagreements(transitions=True)
    transcript.tell("all have one ring, and nobody works with the former one")
    return transcript


def leave() -> Transcript:
    """A node is asked to leave, with N=2.

    First it says that its weight is 0: it owns no slots any more, but still serves them. The others pull what they
    gain, from it and from each other. When it hears that both are synced it is needed no more, says that it has left,
    and ends.
    """
    story = told(3, DEFAULT | FEW)
    for key in KEYS:
        story.set(key, "old")
    c1 = client(story, "c1")
    kinds = [m.Leave, m.Reply, m.Gossip, m.Ping, m.Ack, m.Pull, m.PullReply]
    transcript = Transcript(story.mesh, kinds, lambda _, __, message: getattr(message, "rumours", True) != [])
    transcript.call(c1, "leave('n3')", c1.session.leave("n3", None))
    story.mesh.wait_for(lambda: story.node("n3").core is None)
    transcript.tell("the process of n3 has ended")
    return transcript


def refutation() -> Transcript:
    """A node is suspected, wrongly, and refutes it.

    n3 stands still for half a second. n1 gets no answer to its ping, and asks n2 to try; n2 hears nothing, either. So
    n1 says that n3 is suspect, to n3 as well: a suspect stays an owner, and has its time to answer. When it goes on it
    hears of that, raises its incarnation, which only it may, and that overrules what was said of the former one.
    """
    story = told(3, DEFAULT)
    kinds = [m.Ping, m.Ack, m.PingReq, m.Vouch, m.Nack, m.Gossip]

    def wanted(source: str, target: str, message: Any) -> bool:
        """Of other probes: nothing."""
        return not isinstance(message, m.Ping | m.Ack) or (target if isinstance(message, m.Ping) else source) == "n3"

    transcript = Transcript(story.mesh, kinds, wanted)
    story.node("n3").pause()
    transcript.tell("n3 stands still")
    story.mesh.run(0.5)
    story.node("n3").resume()
    transcript.tell("n3 goes on")
    story.mesh.run(0.02)
    return transcript


def fill_lease() -> Transcript:
    """Two clients miss a key at once, and one of them computes it; N=2 W=2 R=1.

    Who misses asks the first owner for the fill lease. c1 gets it (the answer is a version, which names it) and
    computes. c2 asks while it is held, and so its question is parked there. The fill is stored because the lease still
    stands, and with that the parked question is answered, by the record.
    """
    story = told(3, DEFAULT)
    clients = [client(story, "c1"), client(story, "c2")]
    transcript = Transcript(story.mesh, [m.Get, m.Read, m.ReadReply, m.Reply, m.Update, m.Write, m.WriteReply])

    def loader(name: str) -> Loader:
        def read() -> str:
            transcript.tell(f"{name} computes, for 200 ms")
            return "42 pages"

        return Loader(read, 0.2)

    ended = []
    for each in clients:
        flow = each.session.get_or_set("report", loader(each.name), None, 5.0)
        ended.append(transcript.begin(each, "get_or_set('report', …)", flow))
        story.mesh.run(0.005)
    story.mesh.wait_for(lambda: all(ended))
    return transcript


def invalidation_gap() -> Transcript:
    """A near cache misses an invalidation, and notices.

    c2 serves its own copy, without a message, while the streams of all nodes come without a gap. Each node numbers
    what it publishes, and repeats its number when it has nothing to say. The event of the write is lost on its way to
    c2, and for a moment it serves the old value; the next number does not follow, so it drops its copies and asks.
    """
    story = told(3, DEFAULT)
    story.set("user:ada", "Ada")
    c1 = client(story, "c1")
    c2 = client(story, "c2", near_cache=NearCache(ttl=60))
    story.mesh.run(1.0)
    story.get("user:ada", c2)
    transcript = Transcript(story.mesh, [m.Get, m.Reply, m.Set, m.Invalidations])

    def read() -> Any:
        return transcript.call(c2, "get('user:ada')", c2.get("user:ada", 2.0))

    story.mesh.run(0.3)
    assert read() == "Ada"
    story.mesh.network.stream_loss = 1.0
    transcript.call(c1, "set('user:ada', 'Countess')", c1.session.set("user:ada", "Countess", None, None))
    story.mesh.network.stream_loss = 0.0
    assert read() == "Ada"
    story.mesh.run(0.3)
    assert read() == "Countess"
    return transcript


def tag_drop() -> Transcript:
    """All keys with a tag are dropped, on three nodes with N=2.

    Tags know no slots: the coordinator has every node sweep what it holds, up to one version, and counts. The version
    is kept as a floor, so that a late copy of a dropped entry is refused. One event tells near caches the tag, and not
    the keys.
    """
    story = told(3, DEFAULT)
    for key in ("page:1", "page:2"):
        story.call(story.client.session.set(key, "by Ada", None, None, ["user:ada"]))
    story.set("page:3", "by Bob")
    c1 = client(story, "c1")
    client(story, "c2", near_cache=NearCache(ttl=60))
    story.mesh.run(1.0)
    kinds = [m.Get, m.Reply, m.InvalidateTags, m.SweepTags, m.SweepReply, m.Invalidations]
    transcript = Transcript(story.mesh, kinds, has_events)
    keys = ["page:1", "page:2", "page:3"]
    transcript.call(c1, f"get_many({keys})", c1.session.get_many(keys, None))
    transcript.call(c1, "invalidate_tags(['user:ada'])", c1.session.invalidate_tags(["user:ada"], None))
    transcript.call(c1, f"get_many({keys})", c1.session.get_many(keys, None))
    return transcript


def hand_over() -> Transcript:
    """Slots are handed over to a node that joins, while one of their keys is written and read; N=2 W=2 R=1.

    n4 asks what was dropped by name (FLOORS: here nothing), then pulls, slot by slot, from every owner of before, so
    that it has the newest of each. Until it is synced, a write goes to owners old and new, so that whoever is asked has
    it; what is pulled later is the same or older, and changes nothing. What others exchange is left out.
    """
    story = told(3, DEFAULT | FEW)
    for key in KEYS:
        story.set(key, "old")
    c1 = client(story, "c1")
    moving = [m.Floors, m.FloorsReply, m.Pull, m.PullReply, m.Gossip]

    def wanted(source: str, target: str, message: Any) -> bool:
        if isinstance(message, m.Gossip):
            return any(rumour[0][0] == "n4" and bool(m.Fact(*rumour[0]).synced) for rumour in message.rumours)
        return "n4" in {source, target} or not isinstance(message, tuple(moving))

    kinds = [*moving, m.Get, m.Read, m.ReadReply, m.Reply, m.Set, m.Write, m.WriteReply]
    transcript = Transcript(story.mesh, kinds, wanted)
    story.mesh.add().start()
    transcript.tell("n4 starts")
    gained: list[str] = []
    while not gained:
        story.mesh.run(0.001)
        gained = [key for key in KEYS if "n4" in story.mesh.owners(key)]
    key = gained[0]
    transcript.tell(f"n1 has n4 in its ring; {key} belongs to {' and '.join(story.mesh.owners(key))}")
    transcript.call(c1, f"set({key!r}, 'new')", c1.session.set(key, "new", None, None))
    transcript.call(c1, f"get({key!r})", c1.session.get(key, None, None))
    story.mesh.run(7.0)
    assert not story.mesh.disagreements(transitions=True)
    return transcript


STORIES: list[Callable[[], Transcript]] = [
    get,
    set,
    read_repair,
    join,
    leave,
    refutation,
    fill_lease,
    invalidation_gap,
    tag_drop,
    hand_over,
]


def text_of(story: Callable[[], Transcript]) -> str:
    return "\n".join([inspect.getdoc(story) or "", "", LEGEND, *story().lines, ""])


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_what_is_said_is_what_the_transcript_shows(
    story: Callable[[], Transcript], request: pytest.FixtureRequest
) -> None:
    path = FOLDER / f"{story.__name__}.txt"
    text = text_of(story)
    if request.config.getoption("--rewrite-transcripts"):
        path.write_text(text, encoding="utf-8")
    shown = path.read_text(encoding="utf-8") if path.exists() else ""
    assert text.splitlines() == shown.splitlines(), f"{path.name} shows something else; if that was meant: {REWRITE}"


def test_the_transcripts_are_of_these_stories_and_short() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(story.__name__ for story in STORIES)
    for path in FOLDER.iterdir():
        *_, messages = path.read_text(encoding="utf-8").split("\n\n")
        assert 5 <= len(messages.splitlines()) <= LINES_MAX, path.name
