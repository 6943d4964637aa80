"""How ``capd-dumpcap`` is used: the text of ``-h``, and what ``-v`` says."""

from capd_protocol.version import VERSION as CAPD_VERSION

VERSION = f"capd-dumpcap {CAPD_VERSION}, in the place of dumpcap (Wireshark) 4.0 and later"

USAGE = """\
Usage: dumpcap [options] ...

Capture interface:
  -i <interface>, --interface <interface>
                           name or number of an interface (default: the first one),
                           a FIFO, a socket, - for standard input, or
                           TCP@<host>:<port>
  --ifname <name>          name of that interface in the file
  --ifdescr <description>  description of that interface in the file
  -f <capture filter>      packet filter in libpcap's syntax
  -s <snaplen>, --snapshot-length <snaplen>
                           bytes of each packet (default: all)
  -p, --no-promiscuous-mode
                           not in promiscuous mode
  -I, --monitor-mode       in monitor mode, if available
  -B <MiB>, --buffer-size <MiB>
                           size of the kernel's buffer
  -y <link type>, --linktype <link type>
                           link-layer type (default: the first one)
  --time-stamp-type <type> where time stamps come from
  -D, --list-interfaces    print the interfaces
  -L, --list-data-link-types
                           print the interface's link-layer types
  --list-time-stamp-types  print the interface's time stamp types
  -d                       print the program of the capture filter
  -S                       print statistics of each interface each second
  -M                       for -D, -L and -S: for a program

Stop conditions:
  -c <packet count>        after so many packets
  -a <condition>, --autostop <condition>
                           duration:SECONDS, filesize:KB, files:NUMBER or
                           packets:NUMBER

Output:
  -w <filename>            file, FIFO, or - for standard output (default: a
                           temporary file)
  -g                       files may be read by their group
  -b <option>, --ring-buffer <option>
                           next file after duration:SECONDS, filesize:KB,
                           packets:NUMBER, or at multiples of interval:SECONDS;
                           keep files:NUMBER; write names of finished files to
                           printname:FILE
  -n                       pcapng (default)
  -P                       pcap
  -F <type>                pcapng or pcap
  --temp-dir <directory>   where temporary files go

Diagnostic output:
  -q                       no packet counts
  -Q                       only errors

Miscellaneous:
  --update-interval <ms>   between two counts
  -t, -N, -C               have no effect
  -v, --version            print the version
  -h, --help               print this
"""
