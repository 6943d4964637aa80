"""Attacks a daemon of its own for a while, at random, and tells whether others have noticed."""

import argparse
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from capd_client.cli.text import count, table
from tests.support.attack import on_older_kernel, with_limits
from tests.support.hostile import judgement
from tests.support.hostile.crowd import Reports
from tests.support.hostile.endurance import DaemonEnded, Plan, Run
from tests.support.hostile.isolation import run_isolated
from tests.support.hostile.judgement import Check, Observed
from tests.support.hostile.witnesses import RING_FILES, file_kb
from tests.support.hostile.world import world

_SECONDS = 600.0
_LEAST_SECONDS = 5.0
_RATE_PPS = 50_000.0
#: After which a worker that does not start, or end, is killed (20 and 10), a client left that says nothing, or does not
#: read (10 and 5), an order that is not carried out is given up (10), a list of all interfaces made anew (1), and a
#: thread of trio's ends that has nothing to do (10).
_HASTY = {
    "START_TIMEOUT_S": 2.0,
    "END_TIMEOUT_S": 1.0,
    "REQUEST_TIMEOUT_S": 1.0,
    "LAST_EVENTS_TIMEOUT_S": 1.0,
    "ORDER_TIMEOUT_S": 1.0,
    "LIST_AGE_S": 0.1,
    "IDLE_TIMEOUT": 1.0,
}
#: Requests that are refused in a second: of those who may capture, of one who may not, and of all of these.
_HASTY |= {"REFUSALS": 100.0, "REFUSALS_OF_STRANGER": 20.0, "REFUSALS_OF_STRANGERS": 100.0}
#: The same for what one who may not capture asks, and all of these.
_HASTY |= {"QUESTIONS_OF_STRANGER": 100.0, "QUESTIONS_OF_STRANGERS": 300.0}
#: For what is not alice's, the daemon's log among it. Chosen: a line for each request of an hour.
_PLACE_MIB = 2048
#: Between two lines where there is no terminal, and between two changes of the line where there is one.
_LINE_S, _CHANGE_S = 30.0, 0.5


class Progress:
    """Tells on standard error what goes on: in one line that changes on a terminal, in lines of their own elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._name = ""
        self._next_s = 0.0

    def say(self, name: str, left_s: float, reports: Reports) -> None:
        """Tell what goes on, if it is time to."""
        now_s = time.monotonic()
        if name == self._name and now_s < self._next_s:
            return
        self._next_s = now_s + (_CHANGE_S if self._is_terminal else _LINE_S)
        self._name = name
        left = f", {left_s:.0f} s more" if left_s else ""
        acts = (
            f"; {count(reports.acts.total())} things done, {count(reports.killed)} clients killed"
            if reports.acts
            else ""
        )
        line = f"hostile: {name}{left}{acts}"
        sys.stderr.write(f"\r\x1b[K{line}" if self._is_terminal else f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/hostile", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=_SECONDS, help="how long (%(default)g)")
    parser.add_argument(
        "--seed", help="repeat a run's chances; what happens at once still differs (default: a new one)"
    )
    parser.add_argument(
        "--rate", type=float, default=_RATE_PPS, help="packets a second that alice records (%(default)g)"
    )
    parser.add_argument("--calm", action="store_true", help="the same without anybody hostile")
    parser.add_argument("--older-kernel", action="store_true", help="as before Linux 6.16, which takes descriptors")
    parser.add_argument(
        "--hasty", action="store_true", help="the daemon gives up sooner what does not come, so that all settles sooner"
    )
    parser.add_argument("--json", action="store_true", help="print one object instead of tables")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the daemon's log there")
    arguments = parser.parse_args()
    if arguments.seconds < _LEAST_SECONDS:
        parser.error(f"it takes {_LEAST_SECONDS:g} seconds at least")
    if os.geteuid() != 0:
        parser.error("it makes namespaces, accounts and interfaces: run it as root")
    arguments.seed = arguments.seed or secrets.token_hex(4)
    return arguments


def _run(place: Path, arguments: argparse.Namespace) -> int:
    plan = Plan(arguments.seconds, arguments.rate, arguments.seed, arguments.calm)
    progress = Progress()
    make_prefix = on_older_kernel if arguments.older_kernel else with_limits
    prefix = make_prefix(**_HASTY) if arguments.hasty else on_older_kernel() if arguments.older_kernel else ()
    # All files of the ring, the next one, and room that nobody misses.
    alice_mib = (RING_FILES + 2) * file_kb(plan.rate_pps) // 1000 + 64
    observed: Observed | None = None
    checks: list[Check] = []
    with world(place, prefix, alice_mib) as made:
        try:
            observed = Run(plan, made, progress.say).go()
            checks += judgement.checks(observed)
            checks.append(judgement.check_sequence(Path(observed.heard.closed[-1].name)))
        except DaemonEnded as ended:
            checks.append(Check("the daemon goes on", False, str(ended)))
        finally:
            progress.end()
            if arguments.log is not None:
                arguments.log.write_bytes(made.daemon.log_path.read_bytes())
    checks += judgement.checks_of_place(made)
    is_well = all(each.holds for each in checks)
    if arguments.json:
        head: dict[str, Any] = {"ok": is_well, "seconds": plan.seconds, "rate_pps": plan.rate_pps, "seed": plan.seed}
        found = observed.as_json() if observed is not None else {}
        _put(json.dumps(head | found | {"checks": [vars(each) for each in checks]}))
    else:
        if observed is not None:
            _put_figures(observed)
        _put("\n".join(f"{'ok' if each.holds else 'FAILED':6}  {each.name}: {each.text}" for each in checks))
        _put(f"\nseed {plan.seed}")
    return 0 if is_well else 1


def _put(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _put_figures(observed: Observed) -> None:
    calm = observed.calm
    rows = [
        (name, *(f"{1000 * value:.1f}" for value in (*calm[name].times_s, *found.times_s)), count(found.number))
        for name, found in observed.hostile.items()
    ]
    phase = ("MEDIAN", "99 %", "WORST", "OWN")
    header = ("MILLISECONDS; CALM, THEN HOSTILE", *phase, *phase, "NUMBER")
    _put("\n".join(table(header, rows, frozenset(range(1, 10)))) + "\n")
    acts: dict[str, list[str]] = {}
    for line, number in sorted(observed.reports.acts.items()):
        name, _, outcome = line.partition(" ")
        acts.setdefault(name, []).append(f"{count(number)} {outcome}")
    rows = [(name, ", ".join(outcomes)) for name, outcomes in acts.items()]
    _put("\n".join(table(("WHAT HOSTILE CLIENTS DID", ""), rows)) + "\n")


def main() -> int:
    """Run the command."""
    arguments = _arguments()
    return run_isolated(lambda place: _run(place, arguments), _PLACE_MIB)


if __name__ == "__main__":
    sys.exit(main())
