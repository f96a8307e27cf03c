#!/bin/sh
# The first and only process of a kernel under test: runs every suite that /palisade/suites names,
# tells the host of it through the second serial port, and switches off. The first one is the
# kernel's own, so that its messages do not come in between.

/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up

exec </dev/null >/dev/ttyS1 2>&1
cd /tmp
echo "@boot $(uname -r)"
while read -r suite arguments; do
    echo "@begin $suite"
    # Two at once, as there are CPUs. The arguments are words.
    "/palisade/debug/deps/$suite" --test-threads=2 $arguments
    echo "@end $suite $?"
done </palisade/suites
echo "@done"
poweroff -f
