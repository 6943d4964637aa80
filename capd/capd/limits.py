"""Every bound of the daemon: its value, where it comes from, and what happens there.

A bound of a user is one of a person, with all ids that this person has (``capd.policy.people``). Root, and the owner of
a private daemon, are bound only where a line states it.
"""

from capd.pacing.rates import Rate
from capd_protocol.messages import DEFAULT_KERNEL_BUFFER_SIZE_BYTES

# Connections -----------------------------------------------------------------------------------------------------

#: Connections at once of users who may capture; a further one must come later. Chosen: four users who have all
#: that they may; each takes some ten kilobytes.
MAX_CLIENTS = 512
#: Of one user, root too, so that one cannot keep the others out. Root's come on top of all others': nobody's number
#: keeps root from looking, and from stopping a capture.
MAX_CLIENTS_PER_USER = 128
#: Connections of all users who may not capture, beside those above.
MAX_STRANGERS = 64
#: Of one of these. Chosen: several programs that show interfaces.
MAX_CLIENTS_PER_STRANGER = 16
#: Connections of users whose person is not known yet; further ones must come later. Chosen: as many as are then let
#: in.
MAX_UNIDENTIFIED = 512
#: A client with more groups than this waits until these may be read: 65,536, the most that there can be, keep the event
#: loop for 4 ms. Chosen: nobody has as many who does not want to.
FEW_GROUPS = 1024
#: How often they are read, of all users together. Chosen: a twenty-fifth of the loop's time.
READINGS_OF_MANY_GROUPS = Rate(per_s=10, burst=10)
#: How many may wait for that; further ones must come later.
MAX_OF_MANY_GROUPS = 32
#: What the daemon asks the kernel for: more than the usual 1024. It is enough for all that may be at once: a client
#: takes one (MAX_CLIENTS and the three others above: 1,216), and another one for the directory of the capture that it
#: is attached to (704); a capture takes eight at most for its processes and its directory (MAX_CAPTURES, and 64 of
#: root: 2,560), and while it runs one for the ring of each of its 64 interfaces, and one for what triggers snapshots
#: there (40,960); a client that sends takes four more (MAX_SENDERS, and 16 of root: 320), one with a device too
#: (160). The rest is for captures of the configuration, and for what is opened and closed meanwhile. Where the system
#: allows less, whatever finds none is refused.
DESCRIPTORS = 65_536

# Accounts --------------------------------------------------------------------------------------------------------

#: An account that was found is asked for again after so long. Chosen: captures are not more frequent because of it.
ACCOUNT_AGE_S = 600.0
#: The same for one that was not found. Chosen: one that has just been made is soon known.
NO_ACCOUNT_AGE_S = 10.0
#: A group whose members may capture, and which was not there when the daemon was started, is looked for so often.
#: Chosen: as for accounts.
GROUP_LOOK_S = 10.0
#: A client whose user is not known waits so long for the system's accounts; then it must come later.
#: Chosen: sssd(8) answers from its cache, or from the network, in less; clients wait longer.
ACCOUNT_TIMEOUT_S = 5.0
#: Threads at once that ask for accounts, one for each; further questions wait. Chosen: where the network does not
#: answer, so many users who are only known there keep none waiting who is known here.
MAX_ACCOUNT_THREADS = 16

# How often -------------------------------------------------------------------------------------------------------
# Beyond, the next request is read later: nothing is refused. So a client that asks too often waits, as many times as
# there are connections: 128 starts, 6.4 s; 128 refusals, 12.8 s; clients wait for answers for 30 s.

#: Connections that one user makes. Chosen: far more than programs and scripts do, which begin processes for it.
CONNECTIONS = Rate(per_s=100, burst=256)
#: Questions: who one is, what runs, which interfaces there are and what they have counted. Chosen: far more than
#: programs ask; all together keep the daemon busy for a few percent of the time.
QUESTIONS = Rate(per_s=100, burst=256)
#: Captures that are asked for. Chosen: a script that starts 64 at once, twice; a test that starts one after the other
#: gets to the rate after hundreds.
STARTS = Rate(per_s=20, burst=128)
#: Rings, of which a capture has one for each interface; it waits for them while it starts. Chosen: captures of one
#: interface do not notice; one of 64 interfaces may be asked for twice, and then once a second, since each keeps the
#: kernel, the daemon and a worker busy for some tenths of a second.
RINGS = Rate(per_s=64, burst=128)
#: Orders to captures (stop, rotate, flush, snapshot), and attaching to one. Each has its line in the log, as
#: starts and refusals have.
ORDERS = Rate(per_s=50, burst=256)
#: Requests that are refused: the next request of any kind waits for it. Chosen: whoever tries what is possible need not
#: wait; and a day of it is a million lines, which a log can keep.
REFUSALS = Rate(per_s=10, burst=128)
#: The same for one who may not capture, and for all of them together.
CONNECTIONS_OF_STRANGER, CONNECTIONS_OF_STRANGERS = Rate(per_s=20, burst=64), Rate(per_s=60, burst=256)
QUESTIONS_OF_STRANGER, QUESTIONS_OF_STRANGERS = Rate(per_s=20, burst=64), Rate(per_s=60, burst=256)
REFUSALS_OF_STRANGER, REFUSALS_OF_STRANGERS = Rate(per_s=2, burst=32), Rate(per_s=10, burst=128)
#: Lines of the log about what clients of one user do wrong in the protocol; what is left out is counted. Chosen: a day
#: of it is 17,000 lines.
MISCONDUCT = Rate(per_s=0.2, burst=10)
#: Lines about one capture that its traffic brings about: files deleted, snapshots triggered. What is left out is
#: counted.
CAPTURE_NEWS = Rate(per_s=0.1, burst=20)
#: Questions are summed up in the log after so long.
QUESTIONS_SUM_S = 60.0
#: Lines for the journal that wait while it takes none; beyond, requests wait until it does. Chosen: some megabytes.
MAX_WAITING_LINES = 5000
#: So long; then they are refused. Chosen: a journal that is started anew is back by then.
JOURNAL_TIMEOUT_S = 10.0
#: What waits when the daemon ends, the journal must take within this time; the rest goes where other lines go.
JOURNAL_END_TIMEOUT_S = 2.0

# Interfaces ------------------------------------------------------------------------------------------------------

#: The list of interfaces is made anew after so long, or when one has changed. Chosen: libpcap also lists what the
#: kernel reports nothing of.
LIST_AGE_S = 1.0
#: What a driver says of its device (speed, name) is asked for again after so long, or when the interface has changed.
#: Chosen: the few drivers that let a speed be set without a report.
DRIVER_AGE_S = 10.0
#: What libpcap reports of an interface is asked for again after so long; where it could not report anything, sooner.
CAPABILITIES_AGE_S = 60.0
NO_CAPABILITIES_AGE_S = 5.0
#: Of the event loop's time, for making the messages of those who watch counters; beyond, ticks are left out, which
#: costs nothing but time: counters are totals. Chosen: a hundred interfaces 20 times a second for several clients.
STATISTICS_SHARE = 0.2

#: Processes at once that ask libpcap for somebody's curiosity; further questions wait, one of each user in turn.
#: Chosen: each keeps a processor busy for 0.2 s, and a queue of all who may capture is answered within the time that
#: one waits for its answer.
MAX_QUESTIONS = 4
#: Of one user, and of all who may not capture, together.
MAX_QUESTIONS_PER_USER = 1

# Captures --------------------------------------------------------------------------------------------------------

#: Rings at once that the kernel makes; further ones wait, one of each user in turn. Chosen: each keeps a thread
#: waiting for 8 to 20 ms, and the most that one capture may have, 64, are there within some tenths of a second.
MAX_RINGS_BEING_MADE = 16
#: Of one user: the others find some left, and processors that are not busy with clearing memory.
MAX_RINGS_BEING_MADE_PER_USER = 8
#: Captures at once that start, beside those of root and of the configuration; further ones wait, one of each user in
#: turn. Chosen: those of 16 users, so that workers that never begin (a user may stop one's own) keep nobody waiting.
MAX_STARTS = 64
#: Of one user. Chosen: two processors are busy with it, while the kernel makes rings for the others; 64 captures that
#: are asked for at once take no longer.
MAX_STARTS_PER_USER = 4
#: A capture of several interfaces counts for so many; a pattern's as one of the most that there may be.
INTERFACES_OF_ONE_START = 16
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
#: Captures at once of one user, root too; a further one is refused. Chosen: each may take tens of MiB for its ring.
MAX_CAPTURES_PER_USER = 64
#: Of all users but root, whose captures and those of the configuration come on top; a further one is refused. Chosen:
#: each is a process with 4 MiB beside its rings; four users who have all that they may.
MAX_CAPTURES = 256
#: Detached captures at once, of all users, root too; a further one is refused. Each keeps two descriptors, here and in
#: the service manager's store (FileDescriptorStoreMax= in the unit is twice this).
MAX_DETACHED = 256
#: Of one user. Chosen: nobody detaches more than one has in mind; half of those that one may have at all.
MAX_DETACHED_PER_USER = 32
#: So many of MAX_DETACHED are root's, whatever the others have.
DETACHED_OF_ROOT = 32
#: Of the machine's memory, for kernel's rings and recorders of one user's captures; a capture beyond is refused, and
#: asked to take smaller ones. Chosen: 64 captures of the usual size on a machine of 8 GiB.
RING_SHARE_PER_USER = 0.25
#: The same for all captures together. Those of the configuration have theirs whether they run or not, and root's count;
#: neither is refused for it. Chosen: the kernel never swaps rings, nor counts them for anybody, so that the machine
#: must get on with the rest.
RING_SHARE = 0.5
#: Clients of one user that send at once, root too; a further one is refused. Chosen: each has a process of its own,
#: with 4 MiB, and keeps a processor busy where it sends as fast as it can.
MAX_SENDERS_PER_USER = 16
#: Of all users but root, whose senders come on top; a further one is refused. Chosen: four users who have all that they
#: may.
MAX_SENDERS = 64
#: Devices of capture modules that are open for one user at once, root too; a further one is refused. Chosen: each has a
#: process of its own, of some 20 MiB, and what the kernel keeps for it.
MAX_DEVICES_PER_USER = 8
#: Of all users but root, whose devices come on top; a further one is refused. Chosen: four users who have all that they
#: may.
MAX_DEVICES = 32
#: A module that has not activated its device by then does not. Chosen: as long as one that a client starts.
DEVICE_TIMEOUT_S = 10.0
#: How long its process may take to end, two times, before it is killed: so much longer it may read what was revoked.
DEVICE_END_TIMEOUT_S = 0.5
#: Of the kernel's memory for one of these, of all but root; whoever asks for more is refused. Chosen: two times what
#: netfilter's log has if nobody says; beyond the system's own limit, since CAP_NET_ADMIN knows none.
MAX_DEVICE_BUFFER_BYTES = 64 * 1024 * 1024
#: A client that has connected must have sent its request by then, or it is cut off.
REQUEST_TIMEOUT_S = 10.0
#: The process that forks workers is started anew so long after one has ended; a capture that is asked for meanwhile
#: waits. Chosen: a start takes 0.2 s of a processor, so that one which always fails takes a fifth of it.
SPAWNER_PAUSE_S = 1.0
#: It must have forked a worker by then, or it is killed; the capture is refused. Chosen: forking takes milliseconds.
FORK_TIMEOUT_S = 5.0
#: Workers that wait for a capture. Chosen: most captures are started one at a time, and one that waits takes 1.3 MiB.
SPARE_WORKERS = 1
#: Forked so long after the last one was taken. Chosen: by then its capture has begun, which it would slow down on a
#: single processor.
SPARE_PAUSE_S = 0.1
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
#: What a capture was ordered, it must have done by then, or the client gets an error. Chosen: a flush takes the time
#: that the kernel keeps a block, 0.4 s at most; a slow disk may keep a worker longer.
ORDER_TIMEOUT_S = 10.0
#: The same for a snapshot, beyond the time that it covers. Chosen: it is written at the pace of the disk, and the
#: greatest recorder takes two minutes at 500 MB/s.
SNAPSHOT_TIMEOUT_S = 300.0
#: Of the machine's memory, for one recorder, root's too. Chosen: while it writes a snapshot to a slow disk it may take
#: twice what it was granted.
RECORDER_SHARE = 0.5
#: A worker that was stopped must have ended by then, or it is killed.
END_TIMEOUT_S = 10.0
#: When it is stopped, the daemon waits so long for captures that are ended, or killed, by these limits. Whoever
#: has a capture stopped waits no longer for it.
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
#: Metrics are made anew at most so often; a scraper that asks sooner gets the same ones again.
SCRAPE_INTERVAL_S = 1.0
#: Of what a request for metrics says before its body, which is not read. Chosen: h11's example, four times what
#: browsers send.
MAX_SCRAPE_REQUEST_BYTES = 8192
#: Events that wait for one client; beyond, those of files, interfaces and snapshots are dropped, oldest first, and it
#: learns how many.
MAX_PENDING_EVENTS = 1000
