"""The command: fuzz until enough frames were sent, and show what was found, as short as it gets."""

from __future__ import annotations

import argparse
import sys
import time

from fuzzing.episodes import STEPS, TARGETS, Episode, Target, play, run
from fuzzing.handshakes import knock
from fuzzing.http import browse
from fuzzing.memcached import compare
from fuzzing.processes import storm
from fuzzing.shrinking import kind_of, shrink
from meshcache.errors import ProtocolError
from meshcache.protocol.wire import decode_frame

REPORT_S = 5.0
THREE_STEPS = 150
EXAMPLES = """\
examples:
  scripts/fuzz                                       100,000 frames to one node's core, in about a minute
  scripts/fuzz --target three --seconds 10           to a simulated mesh of three
  scripts/fuzz --target processes --frames 20000     to three processes, over ZeroMQ
  scripts/fuzz --target processes --keys             over CURVE, from those who have a key
  scripts/fuzz --target handshakes --frames 50000    connections that are no messages, to nodes with keys
  scripts/fuzz --target gateway --frames 20000       HTTP that no honest client says, to a gateway over three nodes
  scripts/fuzz --target memcached                    100,000 pipelines of commands to a memcached and to a node
  scripts/fuzz --target one --seed 17 --frames 1     one episode again

A finding is printed with its seed, and with the fewest steps that lead to it: make a test of them.
"""


def main(arguments: list[str]) -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Send frames to nodes that no honest peer would send, or commands whose answers are held "
        "against those of a memcached. Exit 1 if anything is found.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--target",
        choices=[*TARGETS, "processes", "handshakes", "gateway", "memcached"],
        default="one",
        help="one node core, three of them in the simulator, three processes over ZeroMQ, the ports of three "
        "with keys, a gateway over three, or the memcached door of one, beside a memcached (default: one)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=100_000,
        help="how many to send at least (100,000); of memcached, how many sequences of commands",
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long in any case")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode (0)")
    parser.add_argument(
        "--rate",
        type=float,
        default=1000.0,
        help="processes, handshakes and gateway: how many a second at most (1,000), of hostile ones and, to compare "
        "with, of harmless ones",
    )
    parser.add_argument("--keys", action="store_true", help="processes: with keys, and frames from those who have one")
    parser.add_argument(
        "--at", default="", metavar="HOST:PORT", help="memcached: another server than a node of its own"
    )
    options = parser.parse_args(arguments)
    if options.keys and options.target != "processes":
        parser.error("--keys goes with --target processes")
    if options.at and options.target != "memcached":
        parser.error("--at goes with --target memcached")
    if options.target == "memcached":
        return compare(options.frames, options.seconds, options.seed, options.at)
    if options.target == "handshakes":
        return knock(options.frames, options.seconds, options.seed, options.rate)
    if options.target == "gateway":
        return browse(options.frames, options.seconds, options.seed, options.rate)
    if options.target == "processes":
        return storm(options.frames, options.seconds, options.seed, options.rate, keys=options.keys)
    return 1 if search(TARGETS[options.target], options.seed, options.frames, options.seconds) else 0


def search(target: Target, first: int, frames: int, seconds: float) -> int:
    """Run episodes; return how many kinds of findings there were."""
    began = reported = time.monotonic()
    steps = THREE_STEPS if target is TARGETS["three"] else STEPS
    kinds: dict[str, int] = {}
    sent, seed = 0, first
    while sent < frames and time.monotonic() - began < seconds:
        episode = run(target, seed, steps)
        sent += episode.frames
        if episode.finding:
            kind = kind_of(episode.finding)
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] == 1:
                show(target, seed, episode)
        seed += 1
        if time.monotonic() - reported > REPORT_S:
            reported = time.monotonic()
            print(f"{sent:,} frames, {seed - first} episodes, findings: {kinds}", file=sys.stderr)
    took_s = time.monotonic() - began
    print(f"{sent:,} frames in {seed - first} episodes and {took_s:.0f} s; findings: {kinds or 'none'}")
    return len(kinds)


def show(target: Target, seed: int, episode: Episode) -> None:
    """Print a finding and what leads to it."""
    kind = kind_of(episode.finding)
    steps = shrink(episode.steps, lambda fewer: kind_of(play(target, fewer)) == kind)
    print(f"seed {seed}: {episode.finding}\n  {len(steps)} of {len(episode.steps)} steps lead to it:")
    for step in steps:
        print(f"    {step!r}")
        if step and isinstance(step[-1], bytes):
            try:
                print(f"      {decode_frame(step[-1])[1]!r:.600}")
            except ProtocolError as error:
                print(f"      {error}")
    sys.stdout.flush()
