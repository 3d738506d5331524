package kind

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// watchesOfNode is how many inotify instances a node's programs open: systemd,
// containerd, kubelet, and on the control plane Kubernetes' own. It was counted
// on a cluster of three nodes.
const watchesOfNode = 20

// watchesLeft says whether the kernel has inotify instances left for that many
// nodes. They are counted by user for the whole machine, 128 as a rule, and where
// other clusters have them kubelet ends with "too many open files".
func watchesLeft(nodes int) error {
	want := nodes * watchesOfNode
	for have := range want {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if errors.Is(err, unix.EMFILE) {
			limit, _ := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
			return fmt.Errorf("%d nodes open %d inotify instances, and %d of the machine's %s are left, as beside other clusters: sysctl -w fs.inotify.max_user_instances=1024",
				nodes, want, have, strings.TrimSpace(string(limit)))
		}
		if err != nil {
			return fmt.Errorf("open an inotify instance, as the nodes' programs do: %w", err)
		}
		defer unix.Close(fd)
	}
	return nil
}
