"""The capture modules that come with capd: netfilter's log, D-Bus, and the devices of the system's libpcap."""
