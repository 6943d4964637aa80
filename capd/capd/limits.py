"""Every bound of the daemon: its value, where it comes from, and what happens there."""

#: Connections at once; a further one is told to come later.
MAX_CLIENTS = 256
#: What the daemon asks the kernel for: more than the usual 1024. A client takes four while it captures, and twice as
#: many while that starts.
DESCRIPTORS = 4096
#: Of one user, so that one cannot keep the others out.
MAX_CLIENTS_PER_USER = 128
#: Of all users who may not capture, so that they cannot keep those out who may.
MAX_STRANGERS = 64
#: Processes at once that ask libpcap for somebody's curiosity; further questions wait. Chosen: each keeps a processor
#: busy for 0.2 s, and a queue of all clients is answered within the time that one waits for its answer.
MAX_QUESTIONS = 4
#: Captures at once of one user; a further one is refused. Chosen: each may take tens of MiB for its ring.
MAX_CAPTURES_PER_USER = 64
#: Of all users; a further one is refused. Each keeps two descriptors, here and in the service manager's store
#: (FileDescriptorStoreMax= in the unit is twice this).
MAX_DETACHED = 256
#: Of the machine's memory, for the kernel's rings of one user's captures; a capture beyond is refused, and asked to
#: take smaller ones. Chosen: 64 captures of the usual size on a machine of 8 GiB. Root is not bound.
RING_SHARE_PER_USER = 0.25
#: A client that has connected must have said what it wants by then, or it is cut off.
REQUEST_TIMEOUT_S = 10.0
#: A worker must have its first file by then, or it is killed. Chosen: starting one takes 0.2 s on an idle machine.
START_TIMEOUT_S = 20.0
#: What a capture was ordered, it must have done by then, or the one who asked is told that it has not. Chosen: a
#: flush takes the time that the kernel keeps a block, 0.4 s at most; a slow disk may keep a worker longer.
ORDER_TIMEOUT_S = 10.0
#: A worker that was told to end must have done so by then, or it is killed.
END_TIMEOUT_S = 10.0
#: When it is told to stop, the daemon waits so long for captures that are ended, or killed, by these limits.
STOP_TIMEOUT_S = 18.0
#: A client that does not read its last events by then is cut off.
LAST_EVENTS_TIMEOUT_S = 5.0
#: Events that wait for one client; beyond, file events are dropped, oldest first, and it is told how many.
MAX_PENDING_EVENTS = 1000
