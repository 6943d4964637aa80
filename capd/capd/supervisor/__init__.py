"""Worker processes from outside: forked, given packet rings and a directory, watched, ended."""
