"""Where the daemon listens, unless somebody says something else."""

DEFAULT_SOCKET = "/run/capd/capd.sock"
#: Names another socket than the default.
SOCKET_VARIABLE = "CAPD_SOCKET"
