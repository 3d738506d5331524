package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/topology"
)

// The lab's own files, all on one tmpfs that only its mount namespaces see.
const (
	labFolder   = "/run/overlab"
	nodesFolder = labFolder + "/nodes" // one folder a node: what it has of its own
	nsFolder    = labFolder + "/ns"    // links to the namespaces of nodes and pods
	stateLink   = labFolder + "/state" // the state folder, mounted
	logsFolder  = stateLink + "/" + logFolder
	storeFolder = labFolder + "/etcd"
)

// mountLab makes the supervisor's mount namespace the lab's: nothing that is
// mounted later reaches the host, /proc shows the lab's processes, and /run is
// the lab's own. stateDir is a descriptor of the state folder, which lies under
// the /run that disappears.
func mountLab(stateDir *os.File) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the lab's mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount the lab's /proc (inside a container, it needs an unmasked /proc: --security-opt systempaths=unconfined): %w", err)
	}
	dirFD := fmt.Sprintf("/proc/self/fd/%d", stateDir.Fd())
	tmp := filepath.Join(dirFD, mountFolder)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return fmt.Errorf("make the mount point of the lab's files: %w", err)
	}
	if err := unix.Mount("overlab", tmp, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount the lab's files: %w", err)
	}
	// Descend into the tmpfs by its own descriptor: the path above leads to
	// what lies under the mount.
	root, err := unix.Open(tmp+"/.", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the lab's files: %w", err)
	}
	defer unix.Close(root)
	base := fmt.Sprintf("/proc/self/fd/%d", root)
	for _, dir := range []string{"run/lock", "run/overlab/ns", "run/overlab/bin", "run/overlab/nodes", "run/overlab/state", "varlib/cni", "varwork"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			return fmt.Errorf("make the lab's files: %w", err)
		}
	}
	if err := mountVarLib(base); err != nil {
		return err
	}
	if err := unix.Mount(filepath.Join(base, "run"), "/run", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the lab's /run: %w", err)
	}
	if err := unix.Mount(dirFD, stateLink, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the state folder: %w", err)
	}
	return nil
}

// mountVarLib makes a place for /var/lib/cni, which few hosts have, without
// touching the host: an overlay file system where the kernel allows one
// without privileges (5.11), else an empty /var/lib.
func mountVarLib(base string) error {
	upper, work := filepath.Join(base, "varlib"), filepath.Join(base, "varwork")
	options := fmt.Sprintf("lowerdir=/var/lib,upperdir=%s,workdir=%s,userxattr", upper, work)
	if err := unix.Mount("overlab", "/var/lib", "overlay", 0, options); err == nil {
		return nil
	}
	slog.Warn("no overlay file system: the lab's /var/lib holds only what the lab puts there")
	if err := unix.Mount(upper, "/var/lib", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the lab's /var/lib: %w", err)
	}
	return nil
}

// nodeFolder is where the supervisor sees a node's own files.
func nodeFolder(node string, elem ...string) string {
	return filepath.Join(append([]string{nodesFolder, node}, elem...)...)
}

// makeNodeFiles lays out what the node has of its own: /run with the flannel
// folder and the names of its pods' namespaces, /var/lib/cni, hostname, hosts.
func makeNodeFiles(p *topology.Plan, n *topology.Node) error {
	dirs := []string{"run/flannel", "run/lock", "run/overlab", "run/netns", "run/docker/netns", "cni"}
	for _, dir := range dirs {
		if err := os.MkdirAll(nodeFolder(n.Name, dir), 0o755); err != nil {
			return fmt.Errorf("make the files of node %s: %w", n.Name, err)
		}
	}
	for name, content := range map[string]string{
		"hostname": n.Name + "\n",
		"hosts":    hosts(p),
	} {
		if err := os.WriteFile(nodeFolder(n.Name, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("make the files of node %s: %w", n.Name, err)
		}
	}
	return makeConflist(p, n)
}

// makeConflist lays out the node's CNI configuration list, where the lab has
// one, in what lies over its /etc.
func makeConflist(p *topology.Plan, n *topology.Node) error {
	list, err := p.ConflistOn(n)
	if err != nil || list == nil {
		return err
	}
	for _, dir := range []string{"etc/cni/net.d", "etcwork"} {
		if err := os.MkdirAll(nodeFolder(n.Name, dir), 0o755); err != nil {
			return fmt.Errorf("make the files of node %s: %w", n.Name, err)
		}
	}
	if err := os.WriteFile(nodeFolder(n.Name, "etc/cni/net.d", conflistFile(p)), list, 0o644); err != nil {
		return fmt.Errorf("make the files of node %s: %w", n.Name, err)
	}
	return nil
}

// mountEtc lays the node's own files over /etc, where it has any, without
// touching the host. Where the kernel has no overlay file system for ordinary
// users, /etc is the host's, and the node's CNI configuration is known to the
// supervisor alone.
func mountEtc(node string) {
	upper := nodeFolder(node, "etc")
	if _, err := os.Stat(upper); err != nil {
		return
	}
	options := fmt.Sprintf("lowerdir=/etc,upperdir=%s,workdir=%s,userxattr", upper, nodeFolder(node, "etcwork"))
	if err := unix.Mount("overlab", "/etc", "overlay", 0, options); err != nil {
		slog.Warn("no overlay file system: /etc/cni/net.d is the host's", "node", node, "error", err)
	}
}

// hosts is the nodes' /etc/hosts.
func hosts(p *topology.Plan) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	for i := range p.Nodes {
		fmt.Fprintf(&b, "%s %s\n", p.Nodes[i].Underlay().Address.Addr(), p.Nodes[i].Name)
	}
	return b.String()
}

// mountNode makes the calling thread's new mount namespace the node's. The
// thread must already be in the node's network namespace: a sysfs shows the
// links of the network namespace that it was mounted in.
func mountNode(node string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	mountSys()
	mountEtc(node)
	binds := []struct {
		from, to string
		optional bool
	}{
		{"cni", "/var/lib/cni", false},
		{"hostname", "/etc/hostname", true},
		{"hosts", "/etc/hosts", true},
		{"run", "/run", false},
	}
	// /run goes last, and takes /run/overlab along.
	if err := unix.Mount(labFolder, nodeFolder(node, "run/overlab"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", labFolder, err)
	}
	for _, b := range binds {
		flags := uintptr(unix.MS_BIND)
		if b.to == "/run" {
			flags |= unix.MS_REC
		}
		err := unix.Mount(nodeFolder(node, b.from), b.to, "", flags, "")
		if err != nil && !(b.optional && errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("mount %s: %w", b.to, err)
		}
	}
	return nil
}

// mountSys gives the calling thread's mount namespace a /sys of the thread's
// network namespace, for tools that read /sys/class/net (brctl, ethtool).
// Where the host's /sys is masked, as in a container, the kernel refuses, and
// those tools see the host's: the netlink tools are unharmed.
func mountSys() {
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		slog.Debug("no /sys of the namespace's own", "error", err)
	}
}
