"""Every bound of the daemon: its value, where it comes from, and what happens there."""

from capd_protocol.messages import DEFAULT_KERNEL_BUFFER_SIZE_BYTES

#: Connections at once; a further one is told to come later.
MAX_CLIENTS = 256
#: What the daemon asks the kernel for: more than the usual 1024. A client takes four while it captures; twice as many,
#: and one or two for each interface, while that starts.
DESCRIPTORS = 4096
#: Of one user, so that one cannot keep the others out.
MAX_CLIENTS_PER_USER = 128
#: Of all users who may not capture, so that they cannot keep those out who may.
MAX_STRANGERS = 64

# Interfaces ------------------------------------------------------------------------------------------------------

#: The list of interfaces is made anew after so long, or when one has changed. Chosen: libpcap also lists what the
#: kernel tells nothing of.
LIST_AGE_S = 1.0
#: What a driver says of its device (speed, name) is asked for again after so long, or when the interface has changed.
#: Chosen: the few drivers that let a speed be set without telling.
DRIVER_AGE_S = 10.0
#: What libpcap says of an interface, likewise; and that it cannot say anything.
CAPABILITIES_AGE_S = 60.0
NO_CAPABILITIES_AGE_S = 5.0
#: Of the event loop's time, for making what those are told who watch counters; beyond, ticks are left out, which costs
#: nothing but time: counters are totals. Chosen: a hundred interfaces 20 times a second for several clients.
STATISTICS_SHARE = 0.2

#: Processes at once that ask libpcap for somebody's curiosity; further questions wait, one of each user in turn.
#: Chosen: each keeps a processor busy for 0.2 s, and a queue of all who may capture is answered within the time that
#: one waits for its answer.
MAX_QUESTIONS = 4
#: Of one user, and of all who may not capture, together.
MAX_QUESTIONS_PER_USER = 1

# Captures --------------------------------------------------------------------------------------------------------

#: Rings at once that the kernel makes; further ones wait. Chosen: each keeps a thread waiting for 8 to 20 ms, and the
#: most that one capture may have, 64, are there within a tenth of a second.
MAX_RINGS_BEING_MADE = 16
#: A ring that is made ahead is kept so long after a capture was asked for. Chosen: programs that capture again and
#: again do so sooner; and nobody misses 32 MiB for a minute.
SPARE_RING_S = 60.0
#: It is made so long after a capture was asked for. Chosen: that one has started by then.
SPARE_RING_PAUSE_S = 0.1
#: None is made ahead that is larger than the usual ones: kernel memory, which is never swapped, and which a larger ring
#: that is asked for meanwhile cannot have.
MAX_SPARE_RING_BYTES = DEFAULT_KERNEL_BUFFER_SIZE_BYTES
#: Nor one whose blocks the kernel closes more often: its timer wakes a processor, whether packets come or not. Chosen:
#: a hundred times a second.
MIN_SPARE_RING_RETIRE_MS = 10
#: Captures at once of one user; a further one is refused. Chosen: each may take tens of MiB for its ring.
MAX_CAPTURES_PER_USER = 64
#: Of all users; a further one is refused. Each keeps two descriptors, here and in the service manager's store
#: (FileDescriptorStoreMax= in the unit is twice this).
MAX_DETACHED = 256
#: Of the machine's memory, for kernel's rings and recorders of one user's captures; a capture beyond is refused, and
#: asked to take smaller ones. Chosen: 64 captures of the usual size on a machine of 8 GiB. Root is not bound.
RING_SHARE_PER_USER = 0.25
#: A client that has connected must have said what it wants by then, or it is cut off.
REQUEST_TIMEOUT_S = 10.0
#: The process that forks workers is started anew so long after one has ended; a capture that is asked for meanwhile
#: waits. Chosen: a start takes 0.2 s of a processor, so that one which always fails takes a fifth of it.
SPAWNER_PAUSE_S = 1.0
#: It must have forked a worker by then, or it is killed; the capture is refused. Chosen: forking takes milliseconds.
FORK_TIMEOUT_S = 5.0
#: What clients have opened must be closed by then, or the process that closes it is killed, which closes it. Chosen:
#: closing takes microseconds, and whoever makes it last delays nothing but the closing of others'.
CLOSING_S = 0.5
#: That process ends when it has had nothing to close for so long. Chosen: forking one takes milliseconds, and a daemon
#: that nobody asks has none.
CLOSER_IDLE_S = 1.0
#: Descriptors of one user that are not closed yet; beyond, no further connection and no further capture of that user.
#: Chosen: many times what there is of those who do not keep them from being closed.
MAX_UNCLOSED_PER_USER = 64
#: A worker must have its first file by then, or it is killed. Chosen: it takes 25 ms on an idle machine, and 0.2 s
#: where the process that forks it has just been started.
START_TIMEOUT_S = 20.0
#: What a capture was ordered, it must have done by then, or the one who asked is told that it has not. Chosen: a
#: flush takes the time that the kernel keeps a block, 0.4 s at most; a slow disk may keep a worker longer.
ORDER_TIMEOUT_S = 10.0
#: The same for a snapshot, beyond the time that it covers. Chosen: it is written at the pace of the disk, and the
#: greatest recorder takes two minutes at 500 MB/s.
SNAPSHOT_TIMEOUT_S = 300.0
#: Of the machine's memory, for one recorder, root's too. Chosen: while it writes a snapshot to a slow disk it may take
#: twice what it was granted.
RECORDER_SHARE = 0.5
#: A worker that was told to end must have done so by then, or it is killed.
END_TIMEOUT_S = 10.0
#: When it is told to stop, the daemon waits so long for captures that are ended, or killed, by these limits.
STOP_TIMEOUT_S = 18.0
#: A client that does not read its last events by then is cut off.
LAST_EVENTS_TIMEOUT_S = 5.0
#: Connections at once that ask for metrics; further ones wait until one of these is done. Chosen: two scrapers and
#: somebody who tries it by hand, several times over.
MAX_SCRAPES = 8
#: From its connection to its last byte; then it is cut off. Chosen: Prometheus gives up after 10 s.
SCRAPE_TIMEOUT_S = 5.0
#: Between two connections that are accepted. Chosen: each costs about half a millisecond, so that whoever connects as
#: often as possible has a twentieth of a processor.
SCRAPE_PAUSE_S = 0.01
#: Metrics are made anew at most so often; who asks before gets the same ones again.
SCRAPE_INTERVAL_S = 1.0
#: Of what a request for metrics says before its body, which is not read. Chosen: h11's example, four times what
#: browsers send.
MAX_SCRAPE_REQUEST_BYTES = 8192
#: Events that wait for one client; beyond, those of files, interfaces and snapshots are dropped, oldest first, and it
#: is told how many.
MAX_PENDING_EVENTS = 1000
