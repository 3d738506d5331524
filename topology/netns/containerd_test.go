package netns

import "testing"

func TestMountsOfControlGroups(t *testing.T) {
	for line, want := range map[string]string{
		"31 28 0:26 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory": "/sys/fs/cgroup/memory",
		"31 28 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw":    "/sys/fs/cgroup",
		`31 28 0:26 / /mnt/my\040groups rw - cgroup2 none rw`:                    "/mnt/my groups",
		"28 24 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw":                        "",
		"28 24 0:23 /cgroup /data/cgroup rw - ext4 /dev/vda rw":                  "",
		"": "",
	} {
		if got, ok := cgroupMount(line); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t; want %q", line, got, ok, want)
		}
	}
}
