"""Dissection by Wireshark's own programs, as children of this one: fields, protocol trees, and what fields there are.

``tshark`` is given packets, and answers with frames, of files and of live streams. Nothing of it is in this process.
"""
