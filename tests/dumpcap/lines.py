"""Command lines of dumpcap: some that people type, and others drawn at random, valid and not."""

import random
from collections.abc import Sequence

#: What people type, and what programs that start dumpcap do.
PICKED: Sequence[Sequence[str]] = [
    line.split()
    for line in """
    -i {va} -c 5 -w a.pcapng
    -i {va} -c 5 -w a.pcapng -Z none
    -i {va} -w a.pcap -P -c 3
    -n -i {va} -w a -c 3 -q
    -i {va} -a duration:4 -w a.pcapng
    -i {va} -a packets:4 -w a.pcapng
    -i {va} -a filesize:1 -w a.pcapng
    -i {va} -b packets:3 -b files:2 -w ring.pcapng -c 12
    -i {va} -b packets:3 -b files:2 -w ring.pcapng -c 12 -Z none
    -i {va} -b packets:5 -a files:2 -w ring.pcapng
    -i {va} -b packets:5 -w d/ring -c 10
    -i {va} -b packets:5 -b printname:stdout -w ring.pcapng -c 10
    -i {va} -b packets:5 -b printname:names -w ring.tar.pcapng -c 10
    -i {va} -b duration:60 -w ring.pcapng -c 3
    -i {va} -b interval:3600 -w ring.pcapng -c 3
    -i {va} -b files:2 -c 3
    -i {va} -b files:2 -w ring -c 3
    -i {va} -a files:1 -w ring -c 3
    -i {va} -f ip -w a.pcapng -c 3
    -i {va} -s 40 -w a.pcapng -c 3
    -i {va} -s 0 -w a.pcapng -c 3
    -s 60 -p -i {va} -i {vb} -s 50 -w a.pcapng -c 3
    -i {va} -p -B 4 -y EN10MB -w a.pcapng -c 3
    -i {va} -y en10mb -w a.pcapng -c 3
    -i {va} -g -w a.pcapng -c 3
    -i {va} -w - -c 3
    -i {va} -w - -c 3 -P
    -i {va} -w - -c 3 -Z none
    -i {va} -c 3
    -i {va} -P -c 3
    -i {va} -c 3 -Z none
    -i {va} -i {vb} -w a.pcapng -P -c 3
    -i {va} -t -N 100 -C 100000 -w a.pcapng -c 3
    -i 1 -w a.pcapng -c 1
    -i 99
    -i 0
    -i -1
    -i nope0
    -i nope0 -Z none
    -i {va} -i nope0 -Z none
    -i {va} -w nodir/a -Z none
    -i {va} -w nodir/a
    -i {va} -w d
    -i {va} -I
    -i {va} -I -Z none
    -i {va} -y NOPE
    -i {va} -y NOPE -Z none
    -i {va} -s x
    -i {va} -c x -Z none
    -i {va} -c 0
    -i {va} -c -3
    -i {va} -c 3000000000
    -i {va} -B 0
    -i {va} -a
    -i {va} -a foo:3
    -i {va} -a duration
    -i {va} -b files:0
    -i {va} -b printname
    -i {va} -b duration:2 -b interval:2 -w a
    -i {va} -b files:2 -w -
    --nope
    -G
    -Z none -G
    -w
    a b
    -i {va} -c 1 -w a.pcapng stray
    --interface {va} --autostop packets:3 -w a.pcapng
    --interface={va} --snapshot-length=33 -c 3 -w a.pcapng
    --inter {va} -c 3 -w a.pcapng
    --ifname x
    -i {va} --ifname other -c 3 -w a.pcapng
    -i {va} --temp-dir nodir
    -i {va} --temp-dir d -c 3
    -i {va} --time-stamp-type host -c 3 -w a.pcapng
    -i {va} --time-stamp-type nope
    --compress-type lzma
    -i {va} -b packets:4 -b nametimenum:2 -w c.pcapng
    -i {va} -b packets:4 -b nametimenum:1 -w d/c.pcapng
    -i {va} --compress-type gzip -c 3 -w a.pcapng
    -i {va} --compress-type none -c 3 -w a.pcapng.gz
    -i {va} -b packets:4 -b files:3 -w c.pcapng.gz
    -D
    -D -M
    -D -Z none
    -D -L
    -D -b files:2
    -L -i {va}
    -L -i {va} -M
    -L -i {va} -i {vb} -Z none
    -L -i nope0
    -L -i nope0 -Z none
    --list-time-stamp-types -i {va}
    -L --list-time-stamp-types -i {va} -Z none
    -d -i {va} -f tcp
    -d -i {va}
    -k 2412
    -Q
    -F pcap
    --update-interval 5
    """.strip().splitlines()
]
#: Filters have spaces.
SPACED: Sequence[Sequence[str]] = [
    ["-i", "{va}", "-f", "ether proto 0x88b5", "-c", "3", "-w", "a.pcapng"],
    ["-f", "greater 100", "-i", "{va}", "-w", "a.pcapng", "-c", "3"],
    ["-i", "{va}", "-f", "foo bar"],
    ["-i", "{va}", "-f", "foo bar", "-Z", "none"],
    ["-i", "{va}", "-i", "{vb}", "-f", "no such", "-Z", "none"],
    ["-d", "-i", "{va}", "-f", "udp port 53 or icmp"],
    ["-d", "-i", "{va}", "-f", "nonsense here"],
]


def drawn(seed: int, count: int) -> list[list[str]]:
    """Return so many command lines, the same for each seed."""
    choose = random.Random(seed)  # no secret
    return [_one(choose) for _ in range(count)]


def _one(choose: random.Random) -> list[str]:
    words: list[str] = []
    for options, share in _BEFORE:
        if choose.random() < share:
            words += choose.choice(options)
    for _ in range(choose.choice((1, 1, 1, 1, 2))):
        words += ["-i", choose.choice(("{va}", "{va}", "{va}", "{va}", "{vb}", "nope0"))]
        for options, share in _OF_INTERFACE:
            if choose.random() < share:
                words += choose.choice(options)
    for options, share in _BEHIND:
        if choose.random() < share:
            words += choose.choice(options)
    return words


_OF_INTERFACE: list[tuple[list[list[str]], float]] = [
    ([["-f", "ether proto 0x88b5"], ["-f", "greater 120"], ["-f", "arp"], ["-f", "port x y"]], 0.3),
    ([["-s", "0"], ["-s", "60"], ["-s", "65535"], ["-s", "-1"], ["-s", "1x"]], 0.25),
    ([["-p"]], 0.2),
    ([["-B", "1"], ["-B", "8"], ["-B", "0"], ["-B", "many"]], 0.15),
    ([["-y", "EN10MB"], ["-y", "en10mb"], ["-y", "FOO"]], 0.1),
    ([["--time-stamp-type", "host"], ["--time-stamp-type", "soon"]], 0.05),
]
_BEFORE: list[tuple[list[list[str]], float]] = [
    ([["-Z", "none"]], 0.5),
    ([["-f", "greater 90"], ["-s", "80"], ["-p"]], 0.15),
    ([["-q"], ["-t"], ["-n"]], 0.2),
]
_BEHIND: list[tuple[list[list[str]], float]] = [
    (
        [
            ["-c", "3"],
            ["-c", "12"],
            ["-a", "packets:5"],
            ["-c", "0"],
            ["-a", "packets:"],
            ["-c", "7", "-a", "packets:4"],
        ],
        0.6,
    ),
    ([["-a", "duration:30"], ["-a", "duration:-1"], ["-a", "files:2"], ["-a", "sometimes:3"]], 0.2),
    ([["-b", "packets:4"], ["-b", "packets:5", "-b", "files:2"], ["-b", "duration:100"], ["-b", "files:x"]], 0.3),
    ([["-b", "printname:names"], ["-b", "printname:stdout"]], 0.05),
    ([["-w", "a.pcapng"], ["-w", "d/a"], ["-w", "a.b.c"], ["-w", "nodir/a"], ["-w", "-"]], 0.75),
    ([["-P"], ["-n"], ["-g"], ["-q"]], 0.3),
    ([["stray"], ["stray", "words"], ["--nonsense"]], 0.05),
]
