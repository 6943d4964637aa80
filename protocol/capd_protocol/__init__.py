"""Messages between the capd daemon, its capture workers and its clients, and the file formats they share.

Pure values and bytes: nothing here opens a file or a socket.
"""
